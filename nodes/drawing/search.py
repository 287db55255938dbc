"""The picture of Radial Settings Search: all settings, the best of them, and the chosen one."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ...radial_core.search import Setting, pareto_front
from .axes import Axes, around, between
from .canvas import FAR, INK, NEAR, PAPER, SINK, TEXT, blend
from .compare import ADAPTIVE, floor_of

WIDTH, HEIGHT = 1000, 560
ZOOM = 2


def draw_search(
    settings: Sequence[Setting],
    chosen: Setting,
    now: Setting,
    error: float | None = None,
    speedup: float | None = None,
) -> Image.Image:
    """error, speedup: the limit that the user set; None for the other one."""
    picture = Image.new("RGB", (WIDTH * ZOOM, HEIGHT * ZOOM), PAPER)
    draw = ImageDraw.Draw(picture)
    every = [*settings, now]
    floor = floor_of(every)
    speeds = [each.speedup for each in every] + ([speedup] if speedup else [])
    scale = between(speeds)
    heights = [max(each.error, floor) for each in every] + ([error] if error else [])
    axes = Axes(draw, (0, 0, WIDTH * ZOOM, HEIGHT * ZOOM), scale, around(heights, log=True), ZOOM)
    axes.frame("Attention error against speed-up", "speed-up of a step over dense")
    for each in settings:
        x, y = axes.at(each.speedup, max(each.error, floor))
        if each.budget is None:
            draw.circle((x, y), 2.5 * ZOOM, blend(PAPER, FAR, 0.7))
        else:
            side = 2.5 * ZOOM
            draw.rectangle((x - side, y - side, x + side, y + side), blend(PAPER, ADAPTIVE, 0.6))
    axes.line([(each.speedup, max(each.error, floor)) for each in pareto_front(settings)], NEAR)
    if error:
        axes.dashed((scale.low, error), (scale.high, error), TEXT)
        place = axes.at(scale.low, error)
        axes.text((place[0] + 8 * ZOOM, place[1] - 6 * ZOOM), f"error {error:g}", TEXT, "lb")
    if speedup:
        axes.dashed((speedup, axes.y.low), (speedup, axes.y.high), TEXT)
        place = axes.at(speedup, axes.y.high)
        label = f"{speedup:g}x as fast"
        axes.text((place[0] + 8 * ZOOM, place[1] + 4 * ZOOM), label, TEXT, "lt")
    if any(each.budget is not None for each in settings):
        _, _, right, bottom = axes.inside  # nothing is as fast and as exact as in this corner
        place = right - 4 * ZOOM, bottom - 12 * ZOOM
        axes.text(place, "squares: adaptive lists", ADAPTIVE, "rb")
    axes.mark(now.speedup, max(now.error, floor), "now", blend(SINK, INK, 0.3), below=True)
    label = f"decay {chosen.decay:g}, sink {chosen.sink_frames}, dense {chosen.dense_blocks}"
    if chosen.budget is not None:
        label += f", adaptive {chosen.budget:g}"
    axes.mark(chosen.speedup, max(chosen.error, floor), label, below=True)
    return picture.resize((WIDTH, HEIGHT), Image.LANCZOS)
