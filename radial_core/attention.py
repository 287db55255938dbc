"""radial_attention(): check the call, choose a backend, run it; if it fails, the next one."""

import logging
from functools import cache

import torch

from . import failures
from .backends import BACKENDS, SHORT, backend_module, ranking
from .call import SIGNALS, Call, kind_of, on_device
from .plan import Plan
from .proof import may_pass, proof_failure

log = logging.getLogger("radial_attention")

# By the backend asked for, the length and the kind of call: until one fails, or the run ends.
_choices: dict[tuple, str] = {}


def radial_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    backend: str = "auto",
    softmax_scale: float | None = None,
    return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Exact attention over the kept blocks of a plan.

    q, k, v: (b, s, h, d) with s = plan.tokens, any strides, on the plan's device. Returns a tensor
    of the same shape and dtype; with return_lse also the natural log of the softmax's denominator,
    float32 (b, h, s). softmax_scale: d ** -0.5 if None. backend: a name in BACKENDS, or "auto" for
    the fastest that can. A backend that fails is logged, and the next one takes the call.

    Raises ValueError if the tensors don't fit the plan, or no such backend can take them.
    """
    _check_tensors(q, k, v, plan)
    out, lse, _ = attend(q, k, v, plan, backend, softmax_scale, return_lse)
    return (out, lse) if return_lse else out


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    backend: str = "auto",
    softmax_scale: float | None = None,
    return_lse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    """`radial_attention` of tensors known to fit the plan: out, lse or None, and the backend."""
    kind = kind_of(q, k, v, plan.block_size, return_lse, plan.per_head)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    key = (backend, plan.tokens, kind)
    name = _choices.get(key)
    if name is None:
        name = _choose(backend, Call(*kind), plan.tokens, key)
    while True:
        try:
            with on_device(q.device):
                return *backend_module(name).run(q, k, v, plan, scale, return_lse), name
        except SIGNALS:
            raise
        except Exception as error:
            failure = error
        # Not in the except block, which keeps what the failed backend allocated.
        name = _next_after(name, Call(*kind), plan.tokens, failure)


def _choose(backend: str, call: Call, tokens: int, key: tuple) -> str:
    """The backend for a call of `attend`, kept as the choice for the next ones."""
    if backend != "auto" and failures.earlier(backend, call):  # it ran once: it was not refused
        names = _after(backend, ranking(call, tokens))
    else:
        check_backend_name(backend)
        names = ranking(call, tokens) if backend == "auto" else (backend,)
    name, reasons = _first_that_can(names, call)
    if name == "sdpa" and backend == "auto" and call.device.type != "cpu":
        _warn_that_it_is_slow("; ".join(reasons) or _no_kernel_for(call.device))
    if not any(may_pass(declined, call) for declined in names[: len(reasons)]):
        _choices[key] = name
    return name


def forget_choices() -> None:
    """Choose anew from now on. What is the choice until now works, or it would not be."""
    for (_, _, kind), name in list(_choices.items()):
        failures.worked(name, Call(*kind))
    _choices.clear()


def _next_after(name: str, call: Call, tokens: int, error: Exception) -> str:
    """The backend to run in place of one that failed. Raises its error if there is none.

    What ran out of memory is asked again at the next call, all else in the next run.
    """
    if failures.remember(name, call, error):
        _choices.clear()
    try:
        return _first_that_can(_after(name, ranking(call, tokens)), call)[0]
    except ValueError:
        raise error from None


def choose_backend(backend: str, call: Call, tokens: int = SHORT) -> str:
    """The name of the backend to run: the one asked for, or the first that can for "auto".

    Raises ValueError if the name is unknown, or none can take such a call.
    """
    check_backend_name(backend)
    return _first_that_can(ranking(call, tokens) if backend == "auto" else (backend,), call)[0]


def why_not(name: str, call: Call) -> str | None:
    """Why a backend can't take such a call, for a person to read; None if it can.

    One that says it can has to prove it on the device first.
    """
    return failures.ask(name, backend_module(name).why_not, call) or proof_failure(name, call)


@cache
def _warn_that_it_is_slow(reason: str) -> None:
    log.warning("Radial attention runs without a sparse kernel, and may gain nothing: %s", reason)


def _no_kernel_for(device: torch.device) -> str:
    """Torch calls AMD's GPUs "cuda", too."""
    if device.type == "cuda":
        return f"there is none for {'this GPU' if torch.version.cuda else 'AMD GPUs'}"
    return f"there is none for devices of the type {device.type}"


def check_backend_name(backend: str) -> None:
    """Raises ValueError if there is no such backend."""
    if backend != "auto" and backend not in BACKENDS:
        names = ", ".join(("auto", *BACKENDS))
        raise ValueError(f"backend must be one of {names}, got {backend!r}")


def _first_that_can(names: tuple[str, ...], call: Call) -> tuple[str, list[str]]:
    """The first backend that can, and why those before it can't. Raises ValueError if none can."""
    reasons = []
    for name in names:
        reason = why_not(name, call)
        if reason is None:
            return name, reasons
        reasons.append(reason)
    raise ValueError("; ".join(reasons) or "no backend is left")


def _after(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
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
