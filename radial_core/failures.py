"""Kernels that failed: logged once, off for the rest of the run, and tried again in the next.

Most errors are transient: a file that another process had locked, a hiccup of the driver, a full
GPU. What fails in several runs in a row is none of these, and would cost its seconds of compiling
each time, so it stays off.
"""

import logging
import traceback
from collections import Counter
from collections.abc import Callable

from .call import Call, is_out_of_memory

MOST_RUNS = 3  # in a row in which a kernel may fail before it stays off

log = logging.getLogger("radial_attention")

_reasons: dict[tuple[str, Call], str] = {}  # of the kernels that are off
_failed_runs: Counter[tuple[str, Call]] = Counter()  # in a row
_logged: set[tuple[str, Call, type]] = set()


def remember(name: str, call: Call, error: Exception) -> bool:
    """Whether a kernel that failed in a call is off now; it is not if it only lacked memory.

    Takes from the error what keeps the kernel's tensors alive.
    """
    if is_new(name, call, error):
        details = "".join(traceback.format_exception(error))
        log.warning("Backend %s failed on %s\n%s", name, call, details)
    error.__traceback__ = error.__context__ = error.__cause__ = None
    if is_out_of_memory(error):
        return False
    turn_off(name, call, f"{name} failed: {type(error).__name__}: {error}")
    return True


def is_new(name: str, call: Call, error: Exception) -> bool:
    """Whether this is the first such error of a kernel: the log has it only once."""
    key = (name, call, type(error))
    new = key not in _logged
    _logged.add(key)
    return new


def turn_off(name: str, call: Call, reason: str, transient: bool = False) -> None:
    """For the rest of the run; until a restart if it failed in MOST_RUNS runs in a row.

    transient: the error says nothing about the kernel, so this run doesn't count.
    """
    key = (name, call)
    if key not in _reasons and not transient:
        _failed_runs[key] += 1
        if _failed_runs[key] == MOST_RUNS:
            log.warning("%s in %d runs in a row: it stays off until a restart", reason, MOST_RUNS)
    _reasons[key] = reason


def earlier(name: str, call: Call) -> str | None:
    """Why something that failed in such a call is off; None if it is not."""
    return _reasons.get((name, call))


def worked(name: str, call: Call) -> None:
    """Its failures in earlier runs no longer count."""
    _failed_runs.pop((name, call), None)


def next_run() -> None:
    """A run has ended: what failed in it may be tried again, unless it failed in too many."""
    for key in list(_reasons):
        if _failed_runs[key] < MOST_RUNS:
            _reasons.pop(key, None)


def ask(name: str, why_not: Callable[[Call], str | None], call: Call) -> str | None:
    """Why a kernel can't take a call: its answer, or how it failed to answer or failed before."""
    try:
        return why_not(call) or earlier(name, call)
    except Exception as error:  # another pack's stub of a library, say
        return f"{name} can't say whether it runs here: {type(error).__name__}: {error}"
