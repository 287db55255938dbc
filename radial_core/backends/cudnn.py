"""NVIDIA's cudnn-frontend: block-sparse kernels in CuTe-DSL, from Hopper to Blackwell GeForce.

They are compiled in seconds at the first call; on Blackwell GeForce for each shape anew. The dense
kernel is that of the cuDNN library in torch, and needs no cudnn-frontend.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import pad

from ..call import Call, capability, readable, wants_gradients, with_one_gradient_layout
from ..dense_rows import fill_dense_rows
from ..plan import Plan
from .contract import EXACT

ACCURACY = EXACT
INSTALL = "pip install nvidia-cudnn-frontend"
HEAD_DIMS = {9: (64, 96, 128), 10: (64, 96, 128), 11: (64, 96, 128), 12: (128,)}
ALIGNMENT = 128  # bytes: what the kernels assume of a tensor's address
DENSE_OPERATOR = "_scaled_dot_product_cudnn_attention"  # of torch.ops.aten

_sizes_of_plans = WeakKeyDictionary()  # plan -> tokens in each block


def why_not(call: Call) -> str | None:
    major = capability(call.device)[0]
    if major not in HEAD_DIMS:
        return "cudnn needs a GPU of compute capability 9.0 to 12.x"
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"cudnn needs float16 or bfloat16, got {call.dtype}"
    small_on_blackwell = major in (10, 11) and call.block_size == 64
    if small_on_blackwell and call.dtype != torch.bfloat16:
        return f"cudnn needs bfloat16 for block_size 64 on this GPU, got {call.dtype}"
    head_dims = (128,) if small_on_blackwell else HEAD_DIMS[major]
    if call.head_dim not in head_dims:
        names = " or ".join(map(str, head_dims))
        return f"cudnn needs head_dim {names} for this GPU and block_size, got {call.head_dim}"
    if call.grad and (reason := _why_no_gradients(call, major)):
        return reason
    if not _installed():
        return f"cudnn is not installed, or has no block-sparse attention: {INSTALL}"
    return None


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if wants_gradients(q, k, v):
        return _Attention.apply(q, k, v, plan, softmax_scale), None
    out, lse = _forward(q, k, v, plan, softmax_scale, plan.bounded_table)
    lse = lse if return_lse else None
    fill_dense_rows(out, lse, q, k, v, plan.cut_rows, softmax_scale)
    return out, lse


def why_not_dense(call: Call) -> str | None:
    if not hasattr(torch.ops.aten, DENSE_OPERATOR):
        return "this torch has no cuDNN attention"
    if torch.are_deterministic_algorithms_enabled():
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            return "cuDNN's attention is not deterministic"
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"cuDNN's attention needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim > 128 or call.head_dim % 8:
        return (
            f"cuDNN's attention needs a head_dim that is a multiple of 8 up to 128, "
            f"got {call.head_dim}"
        )
    return None


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float) -> torch.Tensor:
    """Calls what scaled_dot_product_attention calls when it has chosen cuDNN.

    To make it choose cuDNN one sets flags of the whole process, which other threads would obey.
    """
    keep_lse = wants_gradients(q, k, v)  # the backward pass needs it
    q, k, v = (readable(x).transpose(1, 2) for x in (q, k, v))
    attend = getattr(torch.ops.aten, DENSE_OPERATOR)
    out = attend(q, k, v, None, keep_lse, scale=softmax_scale)[0]
    return with_one_gradient_layout(out).transpose(1, 2)


class _Attention(torch.autograd.Function):
    """q, k, v -> out, with the library's backward pass, which needs the whole table."""

    @staticmethod
    def forward(ctx, q, k, v, plan: Plan, softmax_scale: float):
        out, lse = _forward(q, k, v, plan, softmax_scale, plan.table)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.softmax_scale = plan, softmax_scale
        return out

    @staticmethod
    def backward(ctx, d_out):
        q, k, v, out, lse = ctx.saved_tensors
        return *_backward(d_out, q, k, v, out, lse, ctx.plan, ctx.softmax_scale), None, None


def _forward(
    q, k, v, plan: Plan, softmax_scale: float, table: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    from cudnn.block_sparse_attention import block_sparse_attention_forward

    tokens = q.shape[1]
    if _queries_must_fill_blocks(plan):
        q = pad(q, (0, 0, 0, 0, 0, -tokens % plan.block_size))
    q, k, v = (_aligned(x) for x in (q, k, v))
    result = block_sparse_attention_forward(q, k, v, **_sparse(q, plan, softmax_scale, table))
    return result["o_tensor"][:, :tokens], result["lse_tensor"][:, :, :tokens]


def _backward(d_out, q, k, v, out, lse, plan: Plan, softmax_scale: float):
    """Gradients of q, k, v."""
    from cudnn.block_sparse_attention import block_sparse_attention_backward

    tokens = q.shape[1]
    if _queries_must_fill_blocks(plan):
        more = -tokens % plan.block_size
        d_out, q, out = (pad(x, (0, 0, 0, 0, 0, more)) for x in (d_out, q, out))
        lse = pad(lse, (0, more))
    tensors = (_aligned(x) for x in (d_out, q, k, v, out))
    sparse = _sparse(q, plan, softmax_scale, plan.table)
    result = block_sparse_attention_backward(*tensors, lse.contiguous(), **sparse)
    return result["dq_tensor"][:, :tokens], result["dk_tensor"], result["dv_tensor"]


def _sparse(q: torch.Tensor, plan: Plan, softmax_scale: float, table) -> dict:
    """The library's arguments that both passes share."""
    counts, indices = block_lists(*table, len(q), q.shape[2])
    if not (capability(q.device)[0] == 9 and plan.block_size == 128):
        # Copied for every batch and head, at each call: on the longest videos it takes hundreds of
        # MiB, too much to keep with the plan.
        counts, indices = counts.contiguous(), indices.contiguous()
    return {
        "q2k_block_index": indices,
        "q2k_block_nums": counts,
        "block_sizes": block_sizes(plan),
        "sparse_block_size": plan.block_size,
        "softmax_scale": softmax_scale,
        "layout": "bshd",
    }


def _queries_must_fill_blocks(plan: Plan) -> bool:
    on_hopper = capability(plan.device)[0] == 9
    return on_hopper and plan.block_size == 64 and plan.tokens % 64 != 0


def _why_no_gradients(call: Call, major: int) -> str | None:
    if major not in (9, 10, 11):
        return "cudnn has no backward for this GPU"
    if call.dtype != torch.bfloat16 or call.head_dim != 128:
        return "cudnn has a backward for bfloat16 and head_dim 128 only"
    return "cudnn has no gradient of the log-sum-exp" if call.lse else None


def block_lists(
    lengths: torch.Tensor, table: torch.Tensor, batch: int, heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A plan's table as the library's lists: views with strides of 0 where they repeat.

    int32 counts (batch, heads, blocks) and indices (batch, heads, blocks, longest row).
    """
    return lengths.expand(batch, heads, -1), table.expand(batch, heads, -1, -1)


def block_sizes(plan: Plan) -> torch.Tensor | None:
    """Tokens in each block, int32 (blocks,); None if all are full.

    The kernels for datacenter Blackwell know of a partly filled block only from this.
    """
    tail = plan.tokens % plan.block_size
    if tail == 0:
        return None
    if plan not in _sizes_of_plans:
        sizes = plan.indptr.new_full((plan.blocks,), plan.block_size)
        sizes[-1] = tail
        _sizes_of_plans[plan] = sizes
    return _sizes_of_plans[plan]


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """x, copied if TMA can't read it: the rows of head_dim must be 16-byte aligned and packed."""
    steps = [step for size, step in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    packed = x.stride(-1) == 1 and all(step > 0 and step % 8 == 0 for step in steps)
    if packed and x.data_ptr() % ALIGNMENT == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


@cache
def _installed() -> bool:
    """Looks for the file: importing cudnn loads libraries of CUDA."""
    spec = find_spec("cudnn")
    folders = (spec and spec.submodule_search_locations) or ()
    return any(Path(folder, "block_sparse_attention", "api.py").is_file() for folder in folders)
