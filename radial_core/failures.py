"""Kernels that failed in a call: logged once, and asked no more unless they only lacked memory."""

import logging
import traceback
from collections.abc import Callable

from .call import Call, is_out_of_memory

log = logging.getLogger("radial_attention")

_lasting: dict[tuple[str, Call], str] = {}
_said: set[tuple[str, Call]] = set()


def remember(name: str, call: Call, error: Exception) -> bool:
    """Whether it will happen again. Takes from the error what keeps the kernel's tensors alive."""
    if (name, call) not in _said:
        _said.add((name, call))
        details = "".join(traceback.format_exception(error))
        log.warning("Backend %s failed on %s\n%s", name, call, details)
    error.__traceback__ = error.__context__ = error.__cause__ = None
    if is_out_of_memory(error):
        return False
    _lasting[name, call] = f"{name} failed: {type(error).__name__}: {error}"
    return True


def earlier(name: str, call: Call) -> str | None:
    """How a kernel failed in such a call before; None if it did not, or lacked memory only."""
    return _lasting.get((name, call))


def ask(name: str, why_not: Callable[[Call], str | None], call: Call) -> str | None:
    """Why a kernel can't take a call: what it says, or how it failed to answer or failed before."""
    try:
        return why_not(call) or earlier(name, call)
    except Exception as error:  # another pack's stub of a library, say
        return f"{name} can't be asked: {type(error).__name__}: {error}"
