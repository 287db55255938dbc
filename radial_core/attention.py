"""radial_attention(): check the call, choose a backend, and run it; if it fails, the next one."""

import logging
from functools import cache

import torch

from . import failures
from .backends import backend_module, check_backend_name
from .backends.ranking import SHORT_VIDEO, ranking
from .call import SIGNALS, Call, call_key, on_device
from .plan import Plan
from .proof import is_provisional, proof_failure

log = logging.getLogger("radial_attention")

# By the backend asked for, whether approximate ones may run, tokens, and `call_key`. Kept until a
# backend fails or the run ends.
_choices: dict[tuple, str] = {}


def radial_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    backend: str = "auto",
    softmax_scale: float | None = None,
    return_lse: bool = False,
    approximate: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention over the kept blocks of a plan; exact, unless asked otherwise.

    q, k, v: (b, s, h, d) with s = plan.tokens, any strides, on the plan's device. Returns a tensor
    of the same shape and dtype; with return_lse also the natural log of the softmax's denominator,
    float32 (b, h, s). softmax_scale: d ** -0.5 if None.

    backend: a name in BACKENDS, or "auto" for the fastest that can take the call. A backend that
    fails is logged, and the next one takes the call. approximate: whether "auto", and what takes
    over from a backend that failed, may be approximate (backends/contract.py). Without it an
    approximate backend runs only if it is the one named.

    Raises ValueError if the tensors don't fit the plan, or no such backend can take them.
    """
    _check_tensors(q, k, v, plan)
    out, lse, _ = attend(q, k, v, plan, backend, softmax_scale, return_lse, approximate)
    return (out, lse) if return_lse else out


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    backend: str = "auto",
    softmax_scale: float | None = None,
    return_lse: bool = False,
    approximate: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    """`radial_attention` of tensors known to fit the plan: out, lse or None, and the backend."""
    kind = call_key(q, k, v, plan.block_size, return_lse, plan.per_head)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    key = (backend, approximate, plan.tokens, kind)
    name = _choices.get(key)
    if name is None:
        name = _choose(*key)
    while True:
        try:
            with on_device(q.device):
                return *backend_module(name).run(q, k, v, plan, scale, return_lse), name
        except SIGNALS:
            raise
        except Exception as error:
            failure = error
        # Not in the except block, which keeps what the failed backend allocated.
        name = _next_after(name, failure, approximate, plan.tokens, Call(*kind))


def _choose(backend: str, approximate: bool, tokens: int, kind: tuple) -> str:
    """The backend for a call of `attend`, kept as the choice for the next ones."""
    call = Call(*kind)
    if backend != "auto" and failures.earlier(backend, call):
        # It was accepted before sampling and failed later: raising now would end the render.
        names = _after(backend, ranking(call, tokens, approximate))
    else:
        names = _names_for(backend, approximate, tokens, call)
    name, reasons = _first_that_can(names, call)
    if name == "sdpa" and backend == "auto" and call.device.type != "cpu":
        _warn_that_it_is_slow("; ".join(reasons) or _no_kernel_for(call.device))
    if not any(is_provisional(declined, call) for declined in names[: len(reasons)]):
        _choices[backend, approximate, tokens, kind] = name
    return name


def forget_choices() -> None:
    """Choose anew from now on. A backend that is the choice until now has worked."""
    for (*_, kind), name in list(_choices.items()):
        failures.worked(name, Call(*kind))
    _choices.clear()


def _next_after(name: str, error: Exception, approximate: bool, tokens: int, call: Call) -> str:
    """The backend to run in place of one that failed. Raises its error if there is none.

    What ran out of memory is asked again at the next call, all else in the next run.
    """
    if failures.remember(name, call, error):
        _choices.clear()
    try:
        return _first_that_can(_after(name, ranking(call, tokens, approximate)), call)[0]
    except ValueError:
        raise error from None


def choose_backend(
    backend: str, call: Call, tokens: int = SHORT_VIDEO, approximate: bool = False
) -> str:
    """The name of the backend to run: the one asked for, or for "auto" the first that can.

    tokens, approximate: of interest to "auto" alone. Raises ValueError if the name is unknown, or
    none can take such a call.
    """
    return _first_that_can(_names_for(backend, approximate, tokens, call), call)[0]


def why_not(name: str, call: Call) -> str | None:
    """Why a backend can't take such a call, for a person to read; None if it can.

    A backend that accepts the call has to prove itself on the device first.
    """
    return failures.ask(name, backend_module(name).why_not, call) or proof_failure(name, call)


@cache
def _warn_that_it_is_slow(reason: str) -> None:
    log.warning("Radial attention runs without a sparse kernel and may not be faster: %s", reason)


def _no_kernel_for(device: torch.device) -> str:
    """Why a device has none for which no other backend is even tried."""
    return f"there is none for devices of the type {device.type}"


def _names_for(backend: str, approximate: bool, tokens: int, call: Call) -> tuple[str, ...]:
    """The backends to try, best first. Raises ValueError if there is none of this name."""
    check_backend_name(backend)
    return ranking(call, tokens, approximate) if backend == "auto" else (backend,)


def _first_that_can(names: tuple[str, ...], call: Call) -> tuple[str, list[str]]:
    """The first that can take the call, and why those before it can't; ValueError if none can."""
    reasons = []
    for name in names:
        reason = why_not(name, call)
        if reason is None:
            return name, reasons
        reasons.append(reason)
    raise ValueError("; ".join(reasons) or "no backend is left")


def _after(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names behind this one; all of them if it is not among them."""
    return names[names.index(name) + 1 :] if name in names else names


def _check_tensors(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan) -> None:
    if q.ndim != 4 or q.shape[1] != plan.tokens:
        raise ValueError(f"q must be (b, {plan.tokens}, h, d), got {tuple(q.shape)}")
    if plan.per_head and q.shape[2] != plan.lists:
        raise ValueError(f"q must have {plan.lists} heads, as the plan has, got {q.shape[2]}")
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape or x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name} must be like q, {tuple(q.shape)} {q.dtype} on {q.device}, "
                f"got {tuple(x.shape)} {x.dtype} on {x.device}"
            )
    if plan.device != q.device:
        raise ValueError(f"the plan must be on {q.device}, got a plan on {plan.device}")
