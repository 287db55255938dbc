"""In which precision our kernels run: exact or 8 bit.

`auto` follows what the user chose for dense attention, so that radial attention is no less exact
than the video would be without this node, and no slower than it need be.
"""

from collections.abc import Callable

from ...radial_core.attention import why_not
from ...radial_core.backends import backend_module
from ...radial_core.backends.contract import PRECISIONS
from ...radial_core.backends.ranking import ranking
from ...radial_core.call import Call
from ..comfyui.attention_functions import is_comfyuis
from ..comfyui.eight_bit import runs_in_8_bits

EXACT, EIGHT_BIT = PRECISIONS
AUTO = "auto"
CHOICES = (AUTO, EXACT, EIGHT_BIT)
TRAINING = "training stays exact"


def precision_of(backend: str) -> str:
    """Of a backend: EXACT or EIGHT_BIT."""
    return backend_module(backend).ACCURACY.precision


def check_backend_precision(precision: str, backend: str) -> None:
    """Raises ValueError if a backend is named that has another precision than the one asked for."""
    if AUTO in (precision, backend) or precision_of(backend) == precision:
        return
    raise ValueError(
        f"backend {backend} is {precision_of(backend)}, but precision is {precision}: "
        "set one of the two to auto"
    )


def of_sparse_calls(precision: str, backend: str) -> str:
    """What is asked for in sparse calls: a backend that is named says it for `auto`."""
    return precision_of(backend) if precision == AUTO != backend else precision


def of_comfyuis(func: Callable, previous: Callable | None) -> str | None:
    """Of a dense call that ComfyUI or another pack computes; None if it can't be told."""
    if runs_in_8_bits(func, previous):
        return EIGHT_BIT
    return EXACT if previous is None and is_comfyuis(func) else None


def why_exact(backend: str, call: Call, tokens: int) -> str:
    """Why no 8-bit backend took a sparse call that might have one, for a person to read.

    backend: the one that was asked for, or "auto".
    """
    names = ranking(call, tokens, approximate=True) if backend == AUTO else (backend,)
    names = [name for name in names if precision_of(name) == EIGHT_BIT]
    if not names:
        return f"no 8-bit kernel is known to be faster on {call.device} at {tokens:,} tokens"
    # One that can take the call ran out of memory in it: any other failure is a reason.
    return "; ".join(why_not(name, call) or f"{name} lacked memory in some calls" for name in names)
