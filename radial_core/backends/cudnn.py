"""NVIDIA's cudnn-frontend: block-sparse kernels in CuTe-DSL, from Hopper to Blackwell GeForce.

They are compiled in seconds at the first call; on Blackwell GeForce for each shape anew.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import pad

from ..call import Call, capability
from ..plan import Plan

INSTALL = "pip install nvidia-cudnn-frontend"
HEAD_DIMS = {9: (64, 96, 128), 10: (64, 96, 128), 11: (64, 96, 128), 12: (128,)}
ALIGNMENT = 128  # bytes: what the kernels assume of a tensor's address

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
    if call.grad:
        return "cudnn computes no gradients here yet"
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
    from cudnn.block_sparse_attention import block_sparse_attention_forward

    batch, tokens, heads, _ = q.shape
    size = plan.block_size
    on_hopper = capability(q.device)[0] == 9
    if on_hopper and size == 64 and tokens % size:  # there the queries must fill their blocks
        q = pad(q, (0, 0, 0, 0, 0, -tokens % size))
    q, k, v = (_aligned(x) for x in (q, k, v))
    counts, indices = block_lists(plan, batch, heads)
    if not (on_hopper and size == 128):
        # Packed here, call after call: it would be a gigabyte a plan to keep on the longest videos.
        counts, indices = counts.contiguous(), indices.contiguous()
    result = block_sparse_attention_forward(
        q,
        k,
        v,
        indices,
        q2k_block_nums=counts,
        block_sizes=block_sizes(plan),
        sparse_block_size=size,
        softmax_scale=softmax_scale,
        layout="bshd",
    )
    out, lse = result["o_tensor"], result["lse_tensor"]
    return out[:, :tokens], lse[:, :, :tokens] if return_lse else None


def block_lists(plan: Plan, batch: int, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A plan's rows as the library's lists, views of the plan's table with strides of 0.

    int32 counts (batch, heads, blocks) and indices (batch, heads, blocks, longest row).
    """
    lengths, table = plan.table
    return lengths.expand(batch, heads, -1), table.expand(batch, heads, -1, -1)


def block_sizes(plan: Plan) -> torch.Tensor | None:
    """Tokens in each block, int32 (blocks,); None if all are full.

    The kernels for datacenter Blackwell know of a partly filled block only from this.
    """
    tail = plan.tokens % plan.block_size
    if tail == 0:
        return None
    if plan not in _sizes_of_plans:
        sizes = torch.full_like(plan.table[0], plan.block_size)
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
