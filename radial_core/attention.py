"""radial_attention(): check the call, choose a backend, run it."""

from importlib import import_module
from types import ModuleType

import torch

from .plan import Plan

AUTO = ("sdpa",)  # what "auto" tries, best first
BACKENDS = (*AUTO, "reference")


def radial_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    backend: str = "auto",
    softmax_scale: float | None = None,
) -> torch.Tensor:
    """Exact attention over the kept blocks of a plan.

    q, k, v: (b, s, h, d) with s = plan.tokens, any strides, on the plan's device. Returns a tensor
    of the same shape and dtype. softmax_scale: d ** -0.5 if None. backend: a name in BACKENDS, or
    "auto" for the first that can.

    Raises ValueError if the tensors don't fit the plan, or no such backend can take them.
    """
    if q.ndim != 4 or q.shape[1] != plan.tokens:
        raise ValueError(f"q must be (b, {plan.tokens}, h, d), got {tuple(q.shape)}")
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape or x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name} must be like q, {tuple(q.shape)} {q.dtype} on {q.device}, "
                f"got {tuple(x.shape)} {x.dtype} on {x.device}"
            )
    if plan.device != q.device:
        raise ValueError(f"the plan must be on {q.device}, got a plan on {plan.device}")
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    name = choose_backend(backend, q.device, q.dtype, q.shape[-1], plan.block_size)
    return _module(name).run(q, k, v, plan, scale)


def choose_backend(
    backend: str, device: torch.device, dtype: torch.dtype, head_dim: int, block_size: int
) -> str:
    """The name of the backend to run: the one asked for, or the first that can for "auto".

    Raises ValueError if the name is unknown, or none can take such a call.
    """
    check_backend_name(backend)
    reasons = []
    for name in AUTO if backend == "auto" else (backend,):
        reason = _module(name).why_not(device, dtype, head_dim, block_size)
        if reason is None:
            return name
        reasons.append(reason)
    raise ValueError("; ".join(reasons))


def check_backend_name(backend: str) -> None:
    """Raises ValueError if there is no such backend."""
    if backend != "auto" and backend not in BACKENDS:
        names = ", ".join(("auto", *BACKENDS))
        raise ValueError(f"backend must be one of {names}, got {backend!r}")


def _module(name: str) -> ModuleType:
    return import_module(f".backends.{name}", __package__)
