"""Our own kernels (radial_core/kernels), for NVIDIA GPUs from Ampere on. They need only Triton.

On GPUs of AMD and Intel the portable kernel may run. It was never tested there, only compiled for
AMD's: what it computes must pass the proof (proof.py), as everywhere.
"""

import re
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version

import torch

from ..call import Call, capability
from ..devices import has_matrix_units
from ..plan import PLANS_KEPT, Plan
from .contract import EXACT

ACCURACY = EXACT
HEAD_DIMS = (64, 80, 96, 128)
DENSE_BLOCK = 128
LEAST_VERSION = (3, 3)
INSTALL = "it comes with PyTorch 2.7 and newer"
ON_WINDOWS = "; on Windows, pip install triton-windows"
# The names under which PyTorch's wheels bring it, for each maker's GPUs, and that of Windows.
PACKAGES = (
    "triton",
    "triton-windows",
    "pytorch-triton",
    "triton-rocm",
    "pytorch-triton-rocm",
    "triton-xpu",
    "pytorch-triton-xpu",
)


def why_not(call: Call) -> str | None:
    return why_not_ours("triton", HEAD_DIMS, call)


def why_not_ours(name: str, head_dims: tuple[int, ...], call: Call) -> str | None:
    """`why_not` of a backend with kernels of ours that run wherever the portable one does."""
    nvidia = capability(call.device) >= (8, 0)
    if not nvidia and not has_matrix_units(call.device):
        return (
            f"{name} needs an NVIDIA GPU of compute capability 8.0 or newer, or a GPU of AMD or "
            f"Intel with matrix units, got {call.device}"
        )
    if _version() < LEAST_VERSION:
        return f"{name} needs Triton 3.3 or newer: {INSTALL}{ON_WINDOWS * nvidia}"
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"{name} needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim not in head_dims:
        return f"{name} needs head_dim {', '.join(map(str, head_dims))}, got {call.head_dim}"
    if call.grad:
        return f"{name} has no backward pass"
    return None


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    softmax_scale: float,
    return_lse: bool,
    config=None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """config: of `tuning.candidates`; the best of them if None."""
    from ..kernels import tuning

    if config is None:
        kind = (q.device, q.dtype, q.shape[-1], plan.block_size)
        config = tuning.best_config(tuning.TRITON, *kind, run)
    rest = (plan.indptr, plan.indices, plan.order, plan.block_size, softmax_scale, return_lse)
    if config == tuning.HOPPER:
        from ..kernels import hopper_launch  # Gluon is not in every Triton

        return hopper_launch.run(q, k, v, *rest)
    from ..kernels import portable_launch

    return portable_launch.run(config, q, k, v, *rest)


def why_not_dense(call: Call) -> str | None:
    if reason := why_not(call):
        return reason
    if capability(call.device)[0] != 9 or call.head_dim not in (64, 128):
        return "triton has a dense kernel for Hopper only, and head_dim 64 or 128"
    return None


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float) -> torch.Tensor:
    """The sparse kernel, with one list of all blocks that every row of blocks walks."""
    from ..kernels import hopper_launch

    lists = (*all_blocks(q.shape[1], q.device), None)
    return hopper_launch.run(q, k, v, *lists, DENSE_BLOCK, softmax_scale, False)[0]


@lru_cache(maxsize=PLANS_KEPT)
def all_blocks(tokens: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """indptr of one row and indices of a dense call, as `Plan` has them for each row."""
    count = -(-tokens // DENSE_BLOCK)
    indptr = torch.tensor([[0, count]], dtype=torch.int32, device=device)
    return indptr, torch.arange(count, dtype=torch.int32, device=device)


@cache
def _version() -> tuple[int, ...]:
    """(3, 6) for 3.6.0; () if there is none."""
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            return tuple(int(x) for x in re.findall(r"\d+", version(package))[:2])
    return ()
