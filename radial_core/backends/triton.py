"""Our own kernels (radial_core/kernels), for NVIDIA GPUs from Ampere on. They need Triton alone."""

import re
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version

import torch

from ..call import Call, capability
from ..plan import PLANS_KEPT, Plan

HEAD_DIMS = (64, 80, 96, 128)
DENSE_BLOCK = 128
LEAST_VERSION = (3, 3)
INSTALL = "it comes with PyTorch 2.7 and newer; on Windows, pip install triton-windows"


def why_not(call: Call) -> str | None:
    if capability(call.device) < (8, 0):
        return f"triton needs an NVIDIA GPU of compute capability 8.0 or newer, got {call.device}"
    if _version() < LEAST_VERSION:
        return f"triton 3.3 or newer is not installed: {INSTALL}"
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"triton needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim not in HEAD_DIMS:
        return f"triton needs head_dim {', '.join(map(str, HEAD_DIMS))}, got {call.head_dim}"
    if call.grad:
        return "triton has no backward pass"
    return None


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    from ..kernels import tuning

    config = tuning.best_config(q.device, q.dtype, q.shape[-1], plan.block_size)
    return tuning.run(config, q, k, v, plan, softmax_scale, return_lse)


def why_not_dense(call: Call) -> str | None:
    """Why `dense` can't take such a call; None if it can."""
    if reason := why_not(call):
        return reason
    if capability(call.device)[0] != 9 or call.head_dim not in (64, 128):
        return "triton has a dense kernel for Hopper only, and head_dim 64 or 128"
    return None


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float, return_lse: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Dense attention: every row walks one list of all blocks. (b, s, h, d) as in `run`."""
    from ..kernels import hopper_launch

    lists = (*_all_blocks(-(-q.shape[1] // DENSE_BLOCK), q.device), None)
    return hopper_launch.run(q, k, v, *lists, DENSE_BLOCK, softmax_scale, return_lse)


@lru_cache(maxsize=PLANS_KEPT)
def _all_blocks(count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    indptr = torch.tensor([[0, count]], dtype=torch.int32, device=device)
    return indptr, torch.arange(count, dtype=torch.int32, device=device)


@cache
def _version() -> tuple[int, ...]:
    """(3, 6) for 3.6.0; () if there is none."""
    for package in ("triton", "triton-windows", "pytorch-triton"):
        with suppress(PackageNotFoundError):
            return tuple(int(x) for x in re.findall(r"\d+", version(package))[:2])
    return ()
