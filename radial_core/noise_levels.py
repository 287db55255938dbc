"""Which part of a model's noise schedule a sampler runs.

All that a sampler tells of it are its sigmas. What they mean depends on the model: with Wan's shift
of 8, half of the schedule lies above sigma 0.89. So they are turned into levels: the share of the
schedule that is still to come, 1 at pure noise and 0 at the clean video. Most schedulers take even
steps there.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from .schedule import ends_clean

HALVINGS = 24  # of the schedule, to find the level of a sigma
# A last step so many times as long as the longest other one jumps over the steps of another
# sampler. uni_pc and dpm_2 leave out a level, so that their last step is 2 to 2.6 times as long.
JUMP = 2.8
# A sampler that starts this close to pure noise starts at the beginning.
START = 0.02


def noise_levels(
    sigmas: Sequence[float] | None, percent_to_sigma: Callable[[float], float]
) -> list[float] | None:
    """The level of each sigma. None if there is no schedule.

    percent_to_sigma: the sigma that the model has where so much of its schedule is over, 0 to 1.
    """
    if sigmas is None or len(sigmas) < 2:
        return None
    return [_level(sigma, percent_to_sigma) for sigma in sigmas]


def even_levels(sigmas: Sequence[float] | None) -> list[float] | None:
    """The levels of a whole run, for a model that doesn't say how its schedule goes."""
    if sigmas is None or len(sigmas) < 2:
        return None
    steps = len(sigmas) - 1
    return [1 - step / steps for step in range(steps + 1)]


def without_jump(levels: list[float] | None) -> list[float] | None:
    """The levels of a sampler, less a jump to the clean video in its last step.

    A sampler that hands over to another can be made to return a video without noise
    (KSamplerAdvanced with leftover noise disabled, WanMoeKSampler). It then ends at 0, though it
    runs a part of the schedule; its last step is set to end where one like the step before it
    would. One step can't jump: nothing tells how long it should be.
    """
    if levels is None or len(levels) < 3 or not ends_clean(levels):
        return levels
    *others, last = (level - next_level for level, next_level in pairwise(levels))
    if last < JUMP * max(others):
        return levels
    return [*levels[:-1], max(levels[-2] - others[-1], levels[-2] / 2)]


def is_whole(levels: list[float] | None) -> bool:
    """Whether a sampler runs the whole schedule: from pure noise to the clean video.

    levels: without a jump. ddim_uniform starts a step late, and ends with a tiny one.
    """
    if levels is None:
        return True
    missed, first = 1 - levels[0], levels[0] - levels[1]
    from_noise = missed <= START or (missed <= 1.1 * first and levels[-2] <= first / 4)
    return from_noise and ends_clean(levels)


def _level(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0  # how much of the schedule is over
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if percent_to_sigma(middle) > sigma:
            low = middle
        else:
            high = middle
    return 1 - high if high < 1 else 0.0
