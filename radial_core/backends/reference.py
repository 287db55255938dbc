"""The oracle as a backend: to tell a fault of a kernel from a fault of the mask, on small calls."""

import torch

from ..plan import Plan
from ..reference import reference_attention


def why_not(device: torch.device, dtype: torch.dtype, head_dim: int, block_size: int) -> str | None:
    return None


def run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, softmax_scale: float
) -> torch.Tensor:
    return reference_attention(q, k, v, plan, softmax_scale).to(q.dtype)
