"""How many seconds radial attention saved in a run, against dense self-attention throughout."""

from collections.abc import Mapping, Sequence
from statistics import median

MEASURED, ESTIMATED = "measured", "estimated"


def saving(
    call_seconds: Mapping[tuple, Sequence[float]], seconds: float, look_seconds: float | None = None
) -> dict | None:
    """Seconds saved, the speed-up, and how that is known; None if no radial call was timed.

    call_seconds: seconds of each call, by (batch, tokens, numbers in q, density); density is None
    for dense ones. The numbers tell calls on this GPU's share of the heads from those on all.
    seconds: of all calls of the model in the run. look_seconds: what looking for adaptive lists
    took besides the calls; None is none.

    A radial call is compared with the run's own dense calls of that shape: measured. Without
    such calls, dense attention is taken to cost 1 / density as much: estimated. Medians are used
    because the first calls compile their kernels.
    """
    dense = {}
    for (*shape, density), times in call_seconds.items():
        if density is None:
            dense[tuple(shape)] = median(times)
    saved, how = None, MEASURED
    for (*shape, density), times in call_seconds.items():
        if density is None:
            continue
        radial = median(times)
        if tuple(shape) not in dense:
            how = ESTIMATED
        saved = (saved or 0.0) + len(times) * (dense.get(tuple(shape), radial / density) - radial)
    if saved is None:
        return None
    saved -= look_seconds or 0.0
    return {"seconds": saved, "speedup": (seconds + saved) / seconds, "how": how}


def typical(call_seconds: Mapping[tuple, Sequence[float]], dense: bool) -> float | None:
    """The median seconds of the dense or of the radial calls."""
    times = [
        each
        for (*_, density), every in call_seconds.items()
        if (density is None) is dense
        for each in every
    ]
    return median(times) if times else None
