"""Our own 8-bit kernels (radial_core/kernels/int8.py): q, k, v and the softmax weights as int8.

They run where our portable kernel runs, and need only Triton.
"""

import torch

from ..call import Call
from ..plan import Plan
from . import triton
from .contract import Accuracy

ACCURACY = Accuracy(False, {torch.float16: 2.5e-2, torch.bfloat16: 2.5e-2})
HEAD_DIMS = (64, 128)


def why_not(call: Call) -> str | None:
    return triton.why_not_ours("triton_int8", HEAD_DIMS, call)


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
    lists = (plan.indptr, plan.indices, plan.order)
    return _launch(config, q, k, v, lists, plan.block_size, softmax_scale, return_lse)


def why_not_dense(call: Call) -> str | None:
    return why_not(call)


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float) -> torch.Tensor:
    """The sparse kernel, with one list of all blocks that every row of blocks walks."""
    indptr, indices = triton.all_blocks(q.shape[1], q.device)
    lists = (indptr, indices, indices)
    return _launch(None, q, k, v, lists, triton.DENSE_BLOCK, softmax_scale, False)[0]


def _launch(config, q, k, v, lists, block_size: int, softmax_scale: float, return_lse: bool):
    from ..kernels import int8_launch, tuning

    if config is None:
        kind = (q.device, q.dtype, q.shape[-1], block_size)
        config = tuning.best_config(tuning.INT8, *kind, run)
    return int8_launch.run(config, q, k, v, *lists, block_size, softmax_scale, return_lse)
