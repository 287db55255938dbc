"""A kernel of the adaptive lists runs where it can and has proven itself, and torch does elsewhere.

As backends do (proof.py), each computes one small odd-shaped case first, once per process for a
kind of call.
"""

import logging
import time
from collections.abc import Callable

import torch

from .. import failures
from ..call import Call, on_device

log = logging.getLogger("radial_attention")

_verdicts: dict[tuple[str, Call], bool] = {}


def by_kernel(
    name: str,
    call: Call,
    why_not: Callable[[Call], str | None],
    fault_of: Callable[[Call], str | None],
    run: Callable[[], torch.Tensor],
) -> torch.Tensor | None:
    """What `run` returns; None if this kernel can't take the call, is wrong, or failed.

    why_not: why it can't take such a call. fault_of: what is wrong with its result on a small case.
    """
    if failures.ask(name, why_not, call) is not None:
        return None
    try:
        with on_device(call.device):
            result = run() if _is_right(name, call, fault_of) else None
    except Exception as error:
        failures.remember(name, call, error)
        return None
    failures.worked(name, call)
    return result


def _is_right(name: str, call: Call, fault_of: Callable[[Call], str | None]) -> bool:
    """Found and logged once. An error is no verdict: the next run, or call, tries again."""
    if (name, call) not in _verdicts:
        start = time.perf_counter()
        with torch.inference_mode(False), torch.no_grad():
            fault = fault_of(call)
        _verdicts[name, call] = fault is None
        seconds = time.perf_counter() - start
        if fault is None:
            log.info("Kernel %s is exact on %s (%.1f s)", name, call, seconds)
        else:
            log.warning("Kernel %s is not used on %s: %s (%.1f s)", name, call, fault, seconds)
    return _verdicts[name, call]
