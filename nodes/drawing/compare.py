"""The picture of Radial Attention Compare: what was measured, in five plots."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

from ...radial_core.measurements import Measurements
from ...radial_core.search import Setting, current_setting, setting
from .axes import TEXT_SIZE, Axes, Scale, around, between, counted
from .canvas import EDGE, FAINT, FAR, INK, NEAR, PAPER, SINK, TEXT, blend, font

WIDTH, HEIGHTS = 1000, (470, 340, 340)
ZOOM = 2  # drawn this much larger and scaled down, for smooth lines
LINES = (NEAR, SINK, TEXT)  # a colour for each number of sink frames, fewest first
OTHER_LINES = blend(PAPER, INK, 0.5)
ADAPTIVE = (158, 60, 96)
LEAST = 1e-4  # smaller errors are drawn as none
LABEL_EVERY = 44  # pixels between the labels along a line, at least


def draw_compare(m: Measurements) -> Image.Image:
    picture = Image.new("RGB", (WIDTH * ZOOM, sum(HEIGHTS) * ZOOM), PAPER)
    draw = ImageDraw.Draw(picture)
    curves = _curves(m)
    adaptive = [(i, setting(m, i, m.dense_blocks)) for i in map(m.adaptive, m.budgets)]
    first, second = HEIGHTS[0], HEIGHTS[0] + HEIGHTS[1]
    half, end = WIDTH // 2, sum(HEIGHTS)
    _errors(draw, _box(0, 0, WIDTH, first), m, curves, adaptive)
    _blocks(draw, _box(0, first, half, second), m)
    _steps(draw, _box(half, first, WIDTH, second), m)
    _distances(draw, _box(0, second, half, end), m)
    _coverage(draw, _box(half, second, WIDTH, end), m, curves, adaptive)
    return picture.resize((WIDTH, sum(HEIGHTS)), Image.LANCZOS)


def _box(*sides: int) -> tuple[int, ...]:
    return tuple(side * ZOOM for side in sides)


def _curves(m: Measurements) -> dict[int, list[tuple[int, Setting]]]:
    """For each sink, its patterns by decay, with the current number of dense blocks."""
    curves = {sink: [] for sink in m.sinks}
    for i, pattern in enumerate(m.patterns):
        curves[pattern.sink_frames].append((i, setting(m, i, m.dense_blocks)))
    return curves


def _colour(m: Measurements, sink: int) -> tuple:
    place = m.sinks.index(sink)
    return LINES[place] if place < len(LINES) else OTHER_LINES


def _time(each: Setting) -> float:
    """Attention's time, in percent of dense attention's."""
    return 100 / each.attention_speedup


def _errors(draw, box, m: Measurements, curves, adaptive):
    now = current_setting(m)
    points = [each for curve in (*curves.values(), adaptive) for _, each in curve]
    floor = floor_of(points)
    x = between(_time(each) for each in points)
    y = around((max(each.error, floor) for each in points), log=True)
    axes = Axes(draw, box, x, y, ZOOM)
    axes.frame(
        "Attention error against time (labels: decay)",
        "attention time, % of dense",
    )
    for sink, curve in curves.items():
        line = [(_time(each), max(each.error, floor)) for _, each in curve]
        axes.line(line, _colour(m, sink), dots=5)
        if sink == now.sink_frames:
            skip = now.decay if now.budget is None else None
            _label(axes, line, [each.decay for _, each in curve], _colour(m, sink), skip)
    line = [(_time(each), max(each.error, floor)) for _, each in adaptive]
    _squares(axes, line, 6)
    _label(axes, line, m.budgets, ADAPTIVE, now.budget)
    name = f"decay {now.decay:g}" if now.budget is None else f"budget {now.budget:g}"
    axes.mark(_time(now), max(now.error, floor), f"now, {name}")
    _key(axes, m)


def _squares(axes: Axes, line: Sequence[tuple[float, float]], half: int):
    """Adaptive lists: a dashed line with a square on each point, whose half side is in pixels."""
    for one, other in pairwise(line):
        axes.dashed(one, other, ADAPTIVE)
    for point in line:
        x, y = axes.at(*point)
        side = half * ZOOM
        axes.draw.rectangle((x - side, y - side, x + side, y + side), PAPER, ADAPTIVE, 2 * ZOOM)


def floor_of(settings: Iterable[Setting]) -> float:
    """The smallest error on a logarithmic scale; no error at all is drawn here."""
    return max(max(each.error for each in settings) / 1000, LEAST)


def _label(axes: Axes, line, numbers, colour, skip: float | None):
    """Write decays or budgets beside their points where there is room. skip: one that is labelled
    already.
    """
    last = None
    for (x, y), number in zip(line, numbers, strict=True):
        place = axes.at(x, y)
        crowded = last is not None and abs(place[0] - last) < LABEL_EVERY * ZOOM
        if number == skip or crowded:
            continue
        last = place[0]
        axes.text((place[0] - 6 * ZOOM, place[1] + 10 * ZOOM), f"{number:g}", colour, "rt")


def _key(axes: Axes, m: Measurements):
    """The legend, in the upper right corner."""
    _, top, right, _ = axes.inside
    rows = [
        (f"{sink or 'no'} sink frame{'' if sink == 1 else 's'}", _colour(m, sink))
        for sink in m.sinks
    ]
    if m.budgets:
        rows.append(("squares: adaptive lists (labels: budget)", ADAPTIVE))
    for row, (label, colour) in enumerate(rows):
        axes.text((right - 4 * ZOOM, top + (12 + row * 28) * ZOOM), label, colour, "rm")


def _blocks(draw, box, m: Measurements):
    errors = m.by_block(m.now)
    axes = Axes(draw, box, counted(m.size.blocks), around(errors.values()), ZOOM)
    if m.dense_blocks:
        axes.band(-0.5, m.dense_blocks - 0.5, EDGE)
    axes.frame("Error of each block, now", "block")
    axes.line(list(errors.items()), NEAR, dots=3)
    if m.dense_blocks:
        left, top, _, _ = axes.inside
        axes.text((left + 8 * ZOOM, top + 12 * ZOOM), "dense now", FAINT)


def _steps(draw, box, m: Measurements):
    errors = m.by_step(m.now)
    axes = Axes(draw, box, counted(m.steps), around(errors.values()), ZOOM)
    axes.frame("Error of each measured step, now", f"step, of {m.steps}")
    axes.line(list(errors.items()), NEAR, dots=5)


def _distances(draw, box, m: Measurements):
    # Distances that no measured token has are left out: 0 has no logarithm.
    mass = {distance: 100 * share for distance, share in enumerate(m.by_distance()) if share > 0}
    axes = Axes(draw, box, counted(m.layout.frames), around(mass.values(), log=True), ZOOM)
    for distance, share in enumerate(_kept_by_distance(m)):
        axes.band(distance - 0.5, distance + 0.5, blend(PAPER, FAR, share))
    axes.frame("Attention by distance, %", "distance in frames")
    axes.line(list(mass.items()), NEAR, dots=3)
    _, top, right, _ = axes.inside
    label = f"green: kept by {'the mask' if m.budget is None else 'radial lists'}"
    axes.text((right - 4 * ZOOM, top + 12 * ZOOM), label, NEAR, "rm")


def _kept_by_distance(m: Measurements) -> list[float]:
    """The share of a frame at each distance that the current mask keeps for a token."""
    s, pattern = m.layout.tokens_per_frame, m.patterns[m.current]
    reaches = [pattern.reach(distance, s) for distance in range(m.layout.frames)]
    return [0 if reach is None else min((2 * reach + 1) / s, 1) for reach in reaches]


def _coverage(draw, box, m: Measurements, curves, adaptive):
    shares = [100 * m.coverage(i) for i in range(len(m.patterns) + len(m.budgets))]
    low = min(*shares, 99.0)
    y = Scale(max(low - (100 - low) * 0.1, 0), 100)
    x = between(_time(each) for curve in (*curves.values(), adaptive) for _, each in curve)
    axes = Axes(draw, box, x, y, ZOOM)
    axes.frame("Attention kept, %", "attention time, % of dense")
    for sink, curve in curves.items():
        line = [(_time(each), shares[i]) for i, each in curve]
        axes.line(line, _colour(m, sink), dots=3)
    _squares(axes, [(_time(each), shares[i]) for i, each in adaptive], 4)
    now = current_setting(m)
    axes.mark(_time(now), shares[m.now], "now", below=True)


def draw_nothing(text: str) -> Image.Image:
    """The picture to show where there are no measurements."""
    picture = Image.new("RGB", (WIDTH, 160), PAPER)
    ImageDraw.Draw(picture).multiline_text((24, 24), text, INK, font(TEXT_SIZE), spacing=8)
    return picture
