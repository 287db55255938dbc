"""Which settings to choose, by their measured error and their estimated speed-up."""

from collections.abc import Sequence
from dataclasses import dataclass

from .estimate import estimate
from .measurements import Measurements
from .plan import MOST_DENSITY

MOST_DENSE = 0.5  # share of the blocks: beyond it there is little left to gain


@dataclass(frozen=True)
class Setting:
    """Settings of the node, and what they cost and gain.

    error: relative RMS error of the attention's output. speedup, attention_speedup: how many times
    as fast a step, and its self-attention, run as with dense attention in all blocks. budget: of
    adaptive lists; None if the lists are radial.
    """

    decay: float
    sink_frames: int
    dense_blocks: int
    error: float
    speedup: float
    attention_speedup: float
    budget: float | None = None


def setting(measurements: Measurements, lists: int, dense_blocks: int) -> Setting:
    """Measured lists and dense blocks. With lists that keep nearly all, all blocks run dense."""
    m, chosen = measurements, measurements.pattern(lists)
    dense = m.size.blocks if m.densities[lists] > MOST_DENSITY else dense_blocks
    times = estimate(m.size, m.layout.tokens, m.densities[lists], dense)
    return Setting(
        decay=chosen.decay,
        sink_frames=chosen.sink_frames,
        dense_blocks=dense_blocks,
        error=m.error(lists, dense),
        speedup=times.step_speedup,
        attention_speedup=times.attention_speedup,
        budget=m.budget_of(lists),
    )


def current_setting(measurements: Measurements) -> Setting:
    """The settings of the measured run, or those it would have had with the node."""
    return setting(measurements, measurements.now, measurements.dense_blocks)


def all_settings(measurements: Measurements) -> list[Setting]:
    """Every measured pattern and budget, with 0 to half of the blocks dense.

    Radial ones come first: of equally good settings, the first is chosen.
    """
    most = int(measurements.size.blocks * MOST_DENSE)
    lists = range(len(measurements.patterns) + len(measurements.budgets))
    return [setting(measurements, i, k) for i in lists for k in range(most + 1)]


def pareto_front(settings: Sequence[Setting]) -> list[Setting]:
    """The Pareto front: no other is both faster and more exact. The fastest comes first."""
    best = []
    for each in sorted(settings, key=_fastest_first):
        if not best or each.error < best[-1].error:
            best.append(each)
    return best


def largest_speedup(settings: Sequence[Setting], error: float) -> tuple[Setting, bool]:
    """The fastest within that error, and True; if there is none, the most exact and False."""
    within = [each for each in settings if each.error <= error]
    if within:
        return min(within, key=_fastest_first), True
    return min(settings, key=_most_exact_first), False


def smallest_error(settings: Sequence[Setting], speedup: float) -> tuple[Setting, bool]:
    """The most exact that is at least that fast, and True; if there is none, the fastest and
    False."""
    within = [each for each in settings if each.speedup >= speedup]
    if within:
        return min(within, key=_most_exact_first), True
    return min(settings, key=_fastest_first), False


def _fastest_first(each: Setting):
    return -each.speedup, each.error, each.dense_blocks


def _most_exact_first(each: Setting):
    return each.error, -each.speedup, each.dense_blocks
