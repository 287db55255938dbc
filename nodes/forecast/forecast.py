"""What radial attention would do to a video: what it keeps, what that saves, and both in words."""

from dataclasses import dataclass
from functools import cache

from PIL import Image

from ...radial_core import RadialPattern, VideoLayout
from ...radial_core.estimate import Estimate
from ...radial_core.mask_sample import Sample, sample
from ...radial_core.plan import MOST_DENSITY
from ..drawing import mask as drawing
from ..families.base import VideoModel
from ..inputs.presets import CUSTOM
from ..inputs.settings import Settings
from ..run.amounts import plural
from .run import STEPS, RunForecast, kept_share, run_forecasts, step_estimate

MAGNITUDES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")  # powers of 1000


@dataclass(frozen=True)
class Forecast:
    """name: the model's. latent: frames, height and width. rows: of the radial mask. budget: of
    adaptive lists, None if lists are radial. density: kept share of the block map, with that
    budget. dense: why all of it stays dense. runs: with the settings, and with each preset.
    """

    name: str
    model: VideoModel
    latent: tuple[int, int, int]
    layout: VideoLayout
    pattern: RadialPattern
    dense_blocks: int
    settings: Settings
    rows: Sample
    budget: float | None
    density: float
    estimate: Estimate
    dense: str | None
    runs: list[RunForecast]


def forecast(
    name: str,
    model: VideoModel,
    latent: tuple[int, int, int],
    layout: VideoLayout,
    settings: Settings,
) -> Forecast:
    pattern, schedule = settings.resolve(model.preset, layout.frames, None)
    rows_of = cache(lambda pattern: sample(pattern, layout))
    rows, budget, dense = rows_of(pattern), settings.adaptive_budget, None
    density = kept_share(rows, layout, pattern.block_size, budget)
    if layout.frames == 1:
        dense = "a single frame"
    elif density > MOST_DENSITY:
        dense = f"too short: {percent(density)} would be kept"
    dense_blocks = min(schedule.dense_blocks, model.size.blocks)
    return Forecast(
        name=name,
        model=model,
        latent=latent,
        layout=layout,
        pattern=pattern,
        dense_blocks=dense_blocks,
        settings=settings,
        rows=rows,
        budget=budget,
        density=density,
        estimate=step_estimate(model, layout, density, dense_blocks),
        dense=dense,
        runs=run_forecasts(model, layout, settings, rows_of),
    )


def figures(it: Forecast) -> str:
    """The figures in words, in a few lines."""
    layout, found, size = it.layout, it.estimate, it.model.size
    about = "" if it.rows.exact else "about "
    text = layout.tokens - layout.video_tokens
    what = "text and sound" if it.model.sound else "text"
    lines = [
        f"{it.name}, {video(it)}: {layout.tokens:,} tokens, {plural(layout.frames, 'latent frame')}"
        f" of {layout.tokens_per_frame:,}" + (f" and {text:,} of {what}." if text else "."),
        f"Settings{whose(it)}: {used(it)}.",
        f"Kept: {about}{percent(it.density)} of the block map.",
    ]
    if it.dense is not None:
        dense = f"It runs dense, {it.dense}: nothing to gain."
        return "\n".join([*lines, dense, *(_runs(it) if layout.frames > 1 else [])])
    if it.budget is not None:
        lines.append(
            f"Lists: adaptive, budget {it.budget:g}. Each head chooses its own blocks when the "
            "video is made; the picture shows the radial mask, with "
            f"{about}{percent(it.rows.density)}."
        )
    flops = size.attention_flops(layout.tokens)
    lines += [
        f"Self-attention of a pass: {about}{amount(found.kept_work * flops)}FLOP in place of "
        f"{amount(flops)}FLOP, about {times(found.attention_speedup)} as fast.",
        f"A whole step: about {times(found.step_speedup)} as fast as with dense attention by the "
        f"fastest kernel; about {times(found.step_speedup_over_default)} as fast as ComfyUI's "
        "default on an H100.",
        "Estimated from measurements on an H100, for a step that is radial.",
    ]
    return "\n".join(lines + _runs(it))


def _runs(it: Forecast) -> list[str]:
    """A line on a run with each preset, and with the settings if they are none."""
    lines = [
        f"The presets, in {STEPS} steps with their dense ones, against dense attention by the "
        "fastest kernel (ComfyUI's default on an H100):"
    ]
    for run in it.runs:
        name = f"{run.name}, as set" if run.name == CUSTOM else run.name
        lines.append(
            f"{name}: {percent(run.kept)} kept, {times(run.speedup)} as fast "
            f"({times(run.speedup_over_default)})."
        )
    return lines


def whose(it: Forecast) -> str:
    """Which of the settings are the model's own values."""
    of_preset = "" if it.settings.preset is None else f" of {it.settings.preset}"
    by_hand = [it.settings.decay, it.settings.sink_frames, it.settings.dense_blocks]
    if None not in by_hand:
        return of_preset
    any_by_hand = any(value is not None for value in by_hand)
    rest = " by hand, the rest" if any_by_hand else f"{of_preset},"
    return f"{rest} as for {it.model.preset.name}"


def picture(it: Forecast) -> Image.Image:
    """The block map, with the figures beside it."""
    found = it.estimate
    below = "Speeds are estimates, against dense attention by the fastest kernel."
    if it.budget is not None:
        below = "The map is the radial one; each head will choose its own. Speeds are estimates."
    return drawing.draw(
        it.rows,
        it.pattern,
        it.layout,
        title=it.name,
        lines=(
            f"{video(it)}: {it.layout.tokens:,} tokens",
            used(it) if it.dense is None else f"It runs dense, {it.dense}",
            below,
        ),
        figures=(
            (percent(it.density), "of the map is kept"),
            (times(found.attention_speedup), "the speed of attention"),
            (times(found.step_speedup), "the speed of a step"),
        ),
    )


def video(it: Forecast) -> str:
    """The size of the video in pixels, and its frames."""
    frames, height, width = it.latent
    stride, length = it.model.stride, it.model.length(frames)
    return f"{width * stride} x {height * stride}, {plural(length, 'frame')}"


def used(it: Forecast) -> str:
    pattern = it.pattern
    return (
        f"decay {pattern.decay:g}, {plural(pattern.sink_frames, 'sink frame')}, "
        f"{it.dense_blocks} of {it.model.size.blocks} blocks dense, block size {pattern.block_size}"
    )


def percent(share: float) -> str:
    """With one decimal, or two significant digits if it is small."""
    return f"{100 * share:.1f} %" if share >= 0.01 else f"{100 * share:.2g} %"


def times(factor: float) -> str:
    return f"{factor:.1f}x" if factor < 10 else f"{factor:,.0f}x"


def amount(number: float) -> str:
    """With three digits and a prefix for its unit: "157 P"."""
    power = 0
    while number >= 999.5 and power < len(MAGNITUDES) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {MAGNITUDES[power]}"
