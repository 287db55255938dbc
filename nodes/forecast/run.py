"""How much faster a whole run becomes: its dense steps count too."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ...radial_core import RadialPattern, VideoLayout
from ...radial_core.adaptive.density import density as adaptive_density
from ...radial_core.estimate import Estimate, estimate, run_speedups
from ...radial_core.mask_sample import Sample
from ...radial_core.noise_levels import even_levels
from ...radial_core.plan import MOST_DENSITY
from ..families.base import VideoModel
from ..inputs.presets import CUSTOM, PRESETS, settings_of
from ..inputs.settings import Settings

STEPS = 50


@dataclass(frozen=True)
class RunForecast:
    """name: the preset's. kept: share of the block map in the sparse steps, once lists stay.

    speedup: over dense attention by the fastest exact kernel. speedup_over_default: over ComfyUI's
    default on an H100.
    """

    name: str
    kept: float
    speedup: float
    speedup_over_default: float


def run_forecasts(
    model: VideoModel,
    layout: VideoLayout,
    settings: Settings,
    sample: Callable[[RadialPattern], Sample],
) -> list[RunForecast]:
    """For the settings of inputs, if they are, and for each preset with their block size.

    sample: rows of a pattern's mask over the layout.
    """
    every = {CUSTOM: settings} if settings.preset is None else {}
    every |= {name: settings_of(name, settings.block_size) for name in PRESETS}
    return [_forecast(name, model, layout, each, sample) for name, each in every.items()]


def _forecast(
    name: str, model: VideoModel, layout: VideoLayout, settings: Settings, sample: Callable
) -> RunForecast:
    levels = even_levels(range(STEPS + 1))
    pattern, schedule = settings.resolve(model.preset, layout.frames, levels)
    rows = sample(pattern)

    @cache
    def step_with(budget: float | None) -> Estimate:
        density = kept_share(rows, layout, pattern.block_size, budget)
        return step_estimate(model, layout, density, schedule.dense_blocks)

    settled, early = settings.early_lists(schedule, levels)
    steps = []
    for step in range(STEPS):
        if schedule.is_dense_step(levels, step):
            steps.append(step_estimate(model, layout, 1.0, schedule.dense_blocks))
        else:
            is_early = early is not None and step < settled
            steps.append(step_with(early if is_early else settings.adaptive_budget))
    kept = kept_share(rows, layout, pattern.block_size, settings.adaptive_budget)
    return RunForecast(name, kept, *run_speedups(steps))


def kept_share(rows: Sample, layout: VideoLayout, block_size: int, budget: float | None) -> float:
    """The kept share of the block map. budget: of adaptive lists; None if they are radial."""
    return rows.density if budget is None else adaptive_density(rows, layout, block_size, budget)


def step_estimate(
    model: VideoModel, layout: VideoLayout, density: float, dense_blocks: int
) -> Estimate:
    """For a step with that share of the block map. All of it is dense if that is nearly all."""
    is_dense = layout.frames == 1 or density > MOST_DENSITY
    blocks = model.size.blocks if is_dense else dense_blocks
    return estimate(model.size, layout.tokens, density, blocks)
