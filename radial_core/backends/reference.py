"""The oracle as a backend, for small calls: it tells a fault of a kernel from one of the mask."""

import torch

from ..call import Call
from ..plan import Plan
from ..reference import reference_attention, reference_lse
from .contract import EXACT

ACCURACY = EXACT


def why_not(call: Call) -> str | None:
    return None


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    out = reference_attention(q, k, v, plan, softmax_scale).to(q.dtype)
    return out, reference_lse(q, k, plan, softmax_scale).float() if return_lse else None
