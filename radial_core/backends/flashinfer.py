"""FlashInfer's paged attention: a query block is a request, a key block a page of its cache.

Its BlockSparseAttentionWrapper runs the same kernels, but attends to the padding of the last block.
The last page of a cache may be partly filled, so nothing has to be padded or copied here.
"""

import logging
import os
import re
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from shutil import which
from weakref import WeakKeyDictionary

import torch

from ..call import Call, capability, readable
from ..plan import Plan
from .contract import EXACT

ACCURACY = EXACT
LEAST_VERSION = [0, 7, 2]  # its source was read; what older ones do with pages is unknown
HEAD_DIMS = (64, 128, 256)
INSTALL = "pip install flashinfer-python; it compiles at first use, with nvcc of the CUDA toolkit"

logger = logging.getLogger("radial_attention")
_planned: WeakKeyDictionary[Plan, dict] = WeakKeyDictionary()


def why_not(call: Call) -> str | None:
    if call.grad:
        return "flashinfer has no backward"
    if call.per_head:
        return "flashinfer has one list of blocks for all heads, not one for each"
    if capability(call.device) < (8, 0):
        return "flashinfer needs an NVIDIA GPU of compute capability 8.0 or newer"
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"flashinfer needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim not in HEAD_DIMS:
        return (
            f"flashinfer needs a head_dim of {', '.join(map(str, HEAD_DIMS))}, got {call.head_dim}"
        )
    return _missing()


def run(q, k, v, plan: Plan, softmax_scale: float, return_lse: bool):
    planned, key = _planned.setdefault(plan, {}), (*q.shape[2:], q.dtype, softmax_scale)
    if key not in planned:
        planned[key] = _plan_wrapper(plan, *key)
    q, k, v = readable(q), readable(k), readable(v)
    if k.stride()[1:] != v.stride()[1:]:  # one set of strides serves both
        k, v = k.contiguous(), v.contiguous()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)  # fa2 ignores the strides of out
    b, s, h, _ = q.shape
    lse = out.new_empty(b, h, s, dtype=torch.float32) if return_lse else None
    for i in range(b):
        kv = tuple(pages(x[i], page_size(plan)) for x in (k, v))
        asked = {"lse": lse[i], "lse_base": "ln", "lse_layout": "HN"} if return_lse else {}
        planned[key].run(q[i], kv, out=out[i], return_lse=return_lse, **asked)
    return out, lse


def page_size(plan: Plan) -> int:
    """Tokens a page. A lone block, partly filled, is a full page: `pages` must have one to show."""
    return min(plan.block_size, plan.tokens)


def pages(x: torch.Tensor, size: int) -> torch.Tensor:
    """The full pages of a sequence, as a view: (s, h, d) -> (s // size, size, h, d).

    The kernels also reach the partly filled page after them, by its number, and stop where a row
    ends.
    """
    return x[: x.shape[0] // size * size].unflatten(0, (-1, size))


def last_page_lengths(plan: Plan) -> torch.Tensor:
    """Tokens in the last page that each query block sees: int32 (blocks,), on the CPU."""
    size = page_size(plan)
    tail = plan.tokens - (plan.blocks - 1) * size
    last = plan.indices[plan.indptr[0, 1:] - 1].cpu()  # rows ascend, so only it can be the tail
    return torch.where(last == plan.blocks - 1, tail, size).int()


def _plan_wrapper(plan: Plan, heads, head_dim, dtype, scale):
    from flashinfer import BatchPrefillWithPagedKVCacheWrapper as Wrapper

    # fa3 works on 128 queries at once, or more: half of that would be empty in blocks of 64.
    kernel = "fa3" if capability(plan.device)[0] == 9 and plan.block_size >= 128 else "fa2"
    _announce(kernel, dtype, head_dim)
    workspace = torch.empty(256, dtype=torch.uint8, device=plan.device)  # used by split-kv only
    wrapper = Wrapper(workspace, backend=kernel)
    queries = torch.arange(plan.blocks + 1, dtype=torch.int32) * page_size(plan)
    queries[-1] = plan.tokens
    rows = queries, plan.indptr[0].cpu(), plan.indices, last_page_lengths(plan)
    types = {f"{x}_data_type": dtype for x in ("q", "kv", "o")}
    options = {"sm_scale": scale, "non_blocking": False, "disable_split_kv": True}
    wrapper.plan(*rows, heads, heads, head_dim, page_size(plan), **types, **options)
    return wrapper


@cache
def _announce(kernel: str, dtype: torch.dtype, head_dim: int) -> None:
    """Logs that FlashInfer is about to compile, unless what it needs lies on the disk."""
    with suppress(ImportError, AttributeError):
        from flashinfer.jit import env

        short = "f16" if dtype == torch.float16 else "bf16"
        files = f"batch_prefill_with_kv_cache_dtype_q_{short}_*_head_dim_qk_{head_dim}_*/*.so"
        for folder in (env.FLASHINFER_JIT_DIR, *env.FLASHINFER_AOT_DIRS):
            if any(file.stem.endswith("_sm90") == (kernel == "fa3") for file in folder.glob(files)):
                return
        logger.warning("FlashInfer compiles its %s kernels, once: 1 to 3 minutes", kernel)


@cache
def _missing() -> str | None:
    """What FlashInfer lacks on this machine, with what to install; None if nothing."""
    try:
        installed = version("flashinfer-python")
    except PackageNotFoundError:
        return f"flashinfer is not installed: {INSTALL}"
    if [int(x) for x in re.findall(r"\d+", installed)[:3]] < LEAST_VERSION:
        return f"flashinfer {installed} is too old: pip install -U flashinfer-python"
    if find_spec("flashinfer_jit_cache"):  # its kernels are compiled already
        return None
    env = os.environ
    home = env.get("CUDA_HOME") or env.get("CUDA_PATH") or (not which("nvcc") and "/usr/local/cuda")
    nvcc = env.get("FLASHINFER_NVCC") or (f"{home}/bin/nvcc" if home else "nvcc")
    tools = {"nvcc": nvcc, "a C++ compiler": env.get("CXX", "c++"), "ninja": "ninja"}
    lacking = ", ".join(tool for tool, name in tools.items() if not which(name))
    return f"flashinfer needs {lacking} on PATH, or flashinfer-jit-cache" if lacking else None
