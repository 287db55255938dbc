"""SpargeAttn: block-sparse attention in 8 bits, for those who have it installed.

q and k are rounded to int8, one scale a block; the weights and v to fp8, or to float16 on GPUs of
compute capability 8.0 to 8.7. Every version calls itself 0.1.0, so they are told apart by their
code.
"""

from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import pad

from ..call import Call, capability
from ..chunks import heads_at_once
from ..plan import Plan
from . import sageattention
from .contract import Accuracy

ACCURACY = Accuracy(False, sageattention.ACCURACY.tolerance)
INSTALL = (
    "wheels for Windows are in github.com/woct0rdho/SpargeAttn/releases; on Linux build "
    "github.com/thu-ml/SpargeAttn"
)
HEAD_DIMS = (64, 128)
FEWEST_QUERIES = 128  # the library refuses less
BYTES_OF_EACH_VALUE = 16  # scratch, of q's number of elements
BYTES_OF_EACH_BLOCK = 5  # of the mask: it, and the library's list of it
# In log2 of a weight: weights smaller than that are left out. No score reaches it.
NOTHING_LEFT_OUT = 1e9

_masks = WeakKeyDictionary()  # plan with one list for all heads -> its mask


def why_not(call: Call) -> str | None:
    gpu = capability(call.device)
    if gpu[0] not in (8, 9, 10, 12):
        return "spargeattn needs an NVIDIA GPU of compute capability 8.x, 9.0, 10.x or 12.x"
    if call.dtype not in ACCURACY.tolerance:
        return f"spargeattn needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim not in HEAD_DIMS:
        return f"spargeattn needs head_dim 64 or 128, got {call.head_dim}"
    if call.block_size != 128:
        return f"spargeattn needs block_size 128, got {call.block_size}"
    if call.grad:
        return "spargeattn has no backward pass"
    if call.lse:
        return "spargeattn has no log-sum-exp to return"
    return _why_not_installed(gpu)


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, None]:
    """One batch and some heads at a time: the library copies all tensors several times, and its
    lists take 4 bytes for each block of the map.
    """
    from spas_sage_attn import block_sparse_sage2_attn_cuda as attend

    sageattention.refuse_side_streams(q.device)
    batch, tokens, heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if tokens < FEWEST_QUERIES:
        q = pad(q, (0, 0, 0, 0, 0, FEWEST_QUERIES - tokens))
    rows, columns = mask_shape(q.shape[1], tokens, q.device)
    bytes_of_each = tokens * head_dim * BYTES_OF_EACH_VALUE + rows * columns * BYTES_OF_EACH_BLOCK
    at_once = heads_at_once(heads, bytes_of_each, sageattention.SCRATCH_BYTES)
    for first in range(0, heads, at_once):
        last = min(first + at_once, heads)
        mask = _mask(plan, first, last, rows, columns)
        for b in range(batch):
            some = (slice(b, b + 1), slice(None), slice(first, last))
            values, restore = sageattention.safe_values(v[some], torch.float16)
            found = attend(
                *(x.transpose(1, 2) for x in (q[some], k[some], values)),
                mask_id=mask,
                scale=softmax_scale,
                pvthreshd=NOTHING_LEFT_OUT,
            )
            torch.mul(found.transpose(1, 2)[:, :tokens], restore, out=out[some])
    return out, None


def mask_shape(queries: int, keys: int, device: torch.device) -> tuple[int, int]:
    """Rows and columns of the library's mask: blocks of 64 x 128 on Hopper, else 128 x 64."""
    query_block, key_block = (64, 128) if capability(device)[0] == 9 else (128, 64)
    return -(-queries // query_block), -(-keys // key_block)


def _mask(plan: Plan, first: int, last: int, rows: int, columns: int) -> torch.Tensor:
    """For some heads, bool (1, heads, rows, columns), contiguous: the library copies no strides."""
    if plan.per_head:
        return _block_map(_of_heads(plan, first, last), rows, columns)[None]
    if plan not in _masks:
        _masks[plan] = _block_map(plan, rows, columns)
    return _masks[plan].expand(1, last - first, -1, -1).contiguous()


def _block_map(plan: Plan, rows: int, columns: int) -> torch.Tensor:
    """Bool (lists, rows, columns).

    Both sizes of the library's blocks divide the plan's, so it keeps the same keys.
    """
    mask = plan.block_mask().view(plan.lists, plan.blocks, plan.blocks)
    for dim, blocks in ((1, rows), (2, columns)):
        if blocks > plan.blocks:  # half as large as the plan's
            mask = mask.repeat_interleave(2, dim=dim)
        mask = mask.narrow(dim, 0, blocks)
    return mask.contiguous()


def _of_heads(plan: Plan, first: int, last: int) -> Plan:
    """The lists of some heads."""
    indptr = plan.indptr[first:last]
    begin, end = indptr[[0, -1], [0, -1]].tolist()
    return Plan(plan.mask, plan.layout, indptr - begin, plan.indices[begin:end])


@cache
def _why_not_installed(gpu: tuple[int, int]) -> str | None:
    """Looks at the code: importing it loads libraries of CUDA."""
    source = sageattention.source_of("spas_sage_attn")
    if not source:
        return f"spargeattn is not installed: {INSTALL}"
    if "def block_sparse_sage2_attn_cuda(" not in source:
        return f"spargeattn is too old, it takes no mask: {INSTALL}"
    if gpu[0] == 9 and "(kv_len + 127) // 128 * 128" not in source:
        # It stops the process if the tokens don't fill blocks of 128.
        return f"spargeattn is too old for this GPU, it needs one of December 2025: {INSTALL}"
    return None
