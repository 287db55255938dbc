"""Our own 8-bit kernel (radial_core/kernels/int8.py): q, k, v and the weights as int8.

It runs where the portable kernel runs, and needs only Triton.
"""

import torch

from ..call import Call
from ..plan import Plan
from . import triton
from .contract import Accuracy

ACCURACY = Accuracy(False, {torch.float16: 2.5e-2, torch.bfloat16: 2.5e-2})
HEAD_DIMS = (64, 128)


def why_not(call: Call) -> str | None:
    if reason := triton.why_not(call):
        return reason.replace("triton", "triton_int8", 1)
    if call.head_dim not in HEAD_DIMS:
        return f"triton_int8 needs head_dim 64 or 128, got {call.head_dim}"
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
    from ..kernels import int8_launch

    config = config or int8_launch.Tiles(128, 64, 8, 2)
    lists = (plan.indptr, plan.indices, plan.order)
    return int8_launch.run(config, q, k, v, *lists, plan.block_size, softmax_scale, return_lse)


def why_not_dense(call: Call) -> str | None:
    return why_not(call)


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float) -> torch.Tensor:
    """The sparse kernel, with one list of all blocks that every row of blocks walks."""
    raise NotImplementedError
