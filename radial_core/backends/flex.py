"""torch's FlexAttention: Triton kernels that torch.compile writes. They train on any NVIDIA GPU."""

import logging
import os
import re
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import count
from shutil import which
from weakref import WeakKeyDictionary

import torch

from ..call import Call, capability, wants_gradients
from ..dense_rows import fill_dense_rows
from ..plan import Plan
from .contract import EXACT

ACCURACY = EXACT
LEAST_TORCH = (2, 9)  # has AuxRequest and USE_TMA
LARGEST_HEAD_DIM = 256
# Compiled functions: the last used. A prompt's length is a shape of its own, and HunyuanVideo and
# Mochi have 256 of them for each size of video. The bound is far above that: to compile again costs
# seconds, and 1 to 2 MiB that torch never gives back.
KERNELS_KEPT = 1024

log = logging.getLogger("radial_attention")

_masks: WeakKeyDictionary[Plan, dict] = WeakKeyDictionary()  # block masks, by "with gradients"
_number = count()


def why_not(call: Call) -> str | None:
    major, minor = capability(call.device)
    if (major, minor) < (8, 0):
        return "flex needs an NVIDIA GPU of compute capability 8.0 or newer"
    if call.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"flex needs float16, bfloat16 or float32, got {call.dtype}"
    if not 16 <= call.head_dim <= LARGEST_HEAD_DIM:
        return f"flex needs a head_dim from 16 to {LARGEST_HEAD_DIM}, got {call.head_dim}"
    # torch has one tile size for the backward on each GPU, which must not exceed the block.
    wide = major in (9, 10) and call.head_dim <= 128 or call.head_dim < 64
    if call.grad and call.block_size < 128 and call.dtype != torch.float32 and wide:
        return f"flex has no backward for blocks of {call.block_size} on this GPU, use 128"
    return _missing()


def run(q, k, v, plan: Plan, softmax_scale: float, return_lse: bool):
    grad = wants_gradients(q, k, v)
    tma = capability(q.device)[0] == 9
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    if grad or not tma:
        # Those kernels compute pointers in 32 bits, from the start of a head.
        heads_first = [
            x.contiguous() if x.shape[2] * x.stride(2) >= 2**31 else x for x in heads_first
        ]
    kernel = _kernel(plan, softmax_scale, return_lse, grad, tma, *heads_first)
    out, lse = kernel(*heads_first, block_mask(plan, grad))
    out = out.transpose(1, 2)
    if not grad:
        fill_dense_rows(out, lse, q, k, v, plan.cut_rows, softmax_scale)
    return out, lse


def block_mask(plan: Plan, grad: bool):
    """The plan as flex takes it: all its blocks are full, so none needs a mask.

    The kernels mask the keys past the end by themselves. With grad it has the query blocks of each
    key block too; without, it lacks the plan's cut rows. BlockMask.from_kv_blocks won't do: it
    takes and makes tables of blocks squared, and sorts them, in 64 bits.
    """
    masks = _masks.setdefault(plan, {})
    if grad not in masks:
        with torch.inference_mode(False):  # training can't save an inference tensor
            masks[grad] = _block_mask(plan, grad)
    return masks[grad]


def _block_mask(plan: Plan, grad: bool):
    from torch.nn.attention.flex_attention import BlockMask, noop_mask

    zeros = plan.indptr.new_zeros(plan.lists, plan.blocks)
    tables = {"full_kv": _rows(plan, grad)}
    tables["full_q"] = plan.columns if grad else (zeros, zeros[..., None])
    # There are no other blocks; but the kernels walk both kinds with the strides of these tables.
    tables |= {name.removeprefix("full_"): (zeros, table) for name, (_, table) in tables.items()}
    lists = {}  # (1, heads or 1, blocks, ...)
    for name, (lengths, table) in tables.items():
        lists[f"{name}_num_blocks"] = lengths[None]
        lists[f"{name}_indices"] = table[None]
    return BlockMask(
        seq_lengths=(plan.tokens, plan.tokens),
        BLOCK_SIZE=(plan.block_size, plan.block_size),
        mask_mod=noop_mask,
        **lists,
    )


def _rows(plan: Plan, grad: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients need the whole table. Their columns are as large: all queries see the sink."""
    return plan.table if grad else plan.bounded_table


def _kernel(plan: Plan, scale: float, lse: bool, grad: bool, tma: bool, *tensors: torch.Tensor):
    """The compiled function for such a call.

    One for each shape, as whole blocks need no bounds checks: of q, k and v, and of the plan's
    tables, which torch.compile guards on too. Not one for each plan: those come and go.
    """
    tables = (plan.table, plan.columns) if grad else (plan.bounded_table,)
    widths = tuple(table.shape for _, table in tables)
    kinds = tuple(
        (x.shape, x.stride(), x.dtype, x.device, x.requires_grad, x.is_inference()) for x in tensors
    )
    return _kernel_for(scale, lse, grad, tma, plan.block_size, plan.tokens, widths, kinds)


@lru_cache(maxsize=KERNELS_KEPT)
def _kernel_for(scale: float, lse: bool, grad: bool, tma: bool, block_size, tokens, widths, kinds):
    log.info("Compiling flex attention for %d tokens", tokens)
    return _compile(scale, lse, _options(block_size, tma))


def _options(block_size: int, tma: bool) -> dict:
    """Kernel options: TMA where Hopper has it, and tiles that don't exceed the block."""
    options = {"FORCE_USE_FLEX_ATTENTION": True, "fwd_USE_TMA": tma}
    return options if block_size >= 128 else options | {"fwd_BLOCK_M": 64, "fwd_BLOCK_N": 64}


def _compile(scale: float, lse: bool, options: dict):
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    def radial(q, k, v, mask):
        # Where torch.compile is switched off, flex would make the full matrix of scores.
        if not torch.compiler.is_dynamo_compiling():
            raise RuntimeError("flex needs torch.compile, which is switched off here")
        settings = {"scale": scale, "kernel_options": options, "return_aux": AuxRequest(lse=lse)}
        out, aux = flex_attention(q, k, v, block_mask=mask, **settings)
        return out, aux.lse

    # Dynamo gives up on a code object compiled eight times, so each function has its own.
    radial.__code__ = radial.__code__.replace(co_name=f"radial_{next(_number)}")
    return torch.compile(radial, dynamic=False, fullgraph=True)


@cache
def _missing() -> str | None:
    """What flex lacks on this machine, with what to install; None if nothing."""
    if tuple(int(x) for x in re.findall(r"\d+", torch.__version__)[:2]) < LEAST_TORCH:
        return f"flex needs torch {'.'.join(map(str, LEAST_TORCH))} or newer"
    if not find_spec("triton"):
        package = "triton-windows" if os.name == "nt" else "triton"
        return f"flex needs Triton: pip install {package}"
    # Triton compiles a launcher in C; that of Windows brings its own compiler.
    if os.name != "nt" and not (os.environ.get("CC") or which("gcc") or which("clang")):
        return "flex needs a C compiler, for Triton: install gcc or clang"
    return None
