"""flash-attn-4: kernels in CuTe-DSL, compiled in seconds at the first call, without nvcc.

On Hopper its sparse kernel is the fastest for short videos, its dense one for all. On datacenter
Blackwell it works on two tiles of 128 queries at once and needs query blocks of 256, which no plan
has: only `dense` runs there.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from ..call import Call, capability, wants_gradients
from ..dense_rows import fill_dense_rows
from ..plan import Plan
from .contract import EXACT

ACCURACY = EXACT
INSTALL = 'pip install --pre "flash-attn-4[cu13]" (without [cu13] on CUDA 12)'

BACKWARD_BLOCK = 128  # the key tile of its backward kernels up to head_dim 128
_lists_of_plans = WeakKeyDictionary()  # plan -> what `_lists` returns, by "with gradients"


def why_not(call: Call) -> str | None:
    major = capability(call.device)[0]
    if major == 10:
        return "flash_attention has no sparse kernel with query blocks below 256 on Blackwell"
    # On Ampere the library ignores the lists and runs dense; on Blackwell GeForce it refuses them.
    if major != 9:
        return "flash_attention needs a Hopper GPU (compute capability 9.x) for sparse attention"
    # Above 128 its key tile is 112 or 80 wide. It shrinks to the blocks of a list, but never grows.
    if call.head_dim > 128 and call.block_size != 64:
        return f"flash_attention needs block_size 64 for head_dim {call.head_dim}"
    if call.grad and (call.head_dim > 128 or call.block_size != BACKWARD_BLOCK):
        return (
            f"flash_attention has a backward for blocks of {BACKWARD_BLOCK} and head_dim up to "
            f"128, got blocks of {call.block_size} and head_dim {call.head_dim}"
        )
    return _why_not_such_tensors(call, 256)


def why_not_dense(call: Call) -> str | None:
    major = capability(call.device)[0]
    # Its kernels for Ampere and Blackwell GeForce are not tuned: no reason to leave torch's.
    if major not in (9, 10):
        return "flash_attention needs a GPU of compute capability 9.x or 10.x for dense attention"
    return _why_not_such_tensors(call, 256 if major == 9 or call.head_dim == 256 else 128)


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    grad = wants_gradients(q, k, v)
    out, lse = _attend(q, k, v, softmax_scale, return_lse, *_lists(plan, grad))
    if not grad:
        fill_dense_rows(out, lse, q, k, v, plan.cut_rows, softmax_scale)
    return out, lse


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float) -> torch.Tensor:
    return _attend(q, k, v, softmax_scale, False, None, None)[0]


def block_lists(lengths: torch.Tensor, table: torch.Tensor) -> dict[str, torch.Tensor]:
    """A plan's rows, or columns, as the library's lists, for every batch alike.

    counts: int32 (1, heads or 1, blocks). indices: int32 (1, heads or 1, blocks, longest row),
    ascending, which the library needs: it compares key positions to the length only in a row's last
    entry.
    """
    none = torch.zeros_like(lengths)
    return {
        "mask_block_cnt": none[None],
        "mask_block_idx": none[None, ..., None],
        "full_block_cnt": lengths[None],
        "full_block_idx": table[None],
    }


def _lists(plan: Plan, grad: bool):
    """The library's lists of a plan: by rows, and with grad by columns too, else None.

    Without grad they lack the plan's cut rows. Gradients need the whole table; their columns are as
    large anyway, as all queries see the sink.
    """
    lists = _lists_of_plans.setdefault(plan, {})
    if grad not in lists:
        rows = _as_library(plan, *(plan.table if grad else plan.bounded_table))
        lists[grad] = rows, _as_library(plan, *plan.columns) if grad else None
    return lists[grad]


def _as_library(plan: Plan, lengths: torch.Tensor, table: torch.Tensor):
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

    size = (plan.block_size, plan.block_size)
    return BlockSparseTensorsTorch(**block_lists(lengths, table), block_size=size)


def _attend(q, k, v, softmax_scale, return_lse, lists, backward_lists):
    from flash_attn.cute.interface import flash_attn_func

    # It copies what TMA can't read: rows that don't lie 16-byte aligned.
    out, lse = flash_attn_func(
        q,
        k,
        v,
        softmax_scale=softmax_scale,
        block_sparse_tensors=lists,
        block_sparse_tensors_bwd=backward_lists,
        return_lse=return_lse,
    )
    return out, lse if return_lse else None


def _why_not_such_tensors(call: Call, largest: int) -> str | None:
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"flash_attention needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim % 8 or not 8 <= call.head_dim <= largest:
        return (
            f"flash_attention needs a head_dim of 8 to {largest}, a multiple of 8, "
            f"got {call.head_dim}"
        )
    if not _installed():
        return f"flash-attn-4 is not installed (flash-attn 2 will not do): {INSTALL}"
    return None


@cache
def _installed() -> bool:
    """Looks for the file: importing flash_attn would load version 2, if that is what it is."""
    spec = find_spec("flash_attn")
    folders = (spec and spec.submodule_search_locations) or ()
    return any(Path(folder, "cute", "block_sparsity.py").is_file() for folder in folders)
