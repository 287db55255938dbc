"""SageAttention 2: dense attention in 8 bits, for those who have it installed.

It has no block-sparse kernel, so it runs dense calls only, and the node does not offer it by name.
SpargeAttn (spargeattn.py) is built on it and shares what is below on values and streams.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from ..call import Call, capability, readable
from ..chunks import heads_at_once
from .contract import Accuracy

# On values that cancel: 4 % with fp8 weights and values, of 3 bits of mantissa each; 1 % where both
# stay float16. So it was on an H200 (docs/kernels.md), and is with tests/core/fake_spargeattn.py.
ACCURACY = Accuracy(False, {torch.float16: 5e-2, torch.bfloat16: 5e-2})
INSTALL = (
    "wheels for Windows are in github.com/woct0rdho/SageAttention/releases; on Linux build "
    "github.com/thu-ml/SageAttention"
)
SCRATCH_BYTES = 2**30  # at a time, for some heads; more if one head has more
BYTES_OF_EACH_VALUE = 10  # scratch, of q's number of elements
MOST_ELEMENTS = 2**31
PEAK = 8  # log2 of what values are scaled to: 64 of them still add up in float16


def why_not_dense(call: Call) -> str | None:
    if capability(call.device)[0] not in (8, 9, 12):
        return "sageattention needs an NVIDIA GPU of compute capability 8.x, 9.x or 12.x"
    if call.dtype not in ACCURACY.tolerance:
        return f"sageattention needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim > 128 or call.head_dim % 8:
        return f"sageattention needs a head_dim of 8 to 128 in steps of 8, got {call.head_dim}"
    if call.grad:
        return "sageattention has no backward pass"
    if not _installed():
        return f"sageattention 2 is not installed: {INSTALL}"
    return None


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float) -> torch.Tensor:
    """Some heads at a time. Not in place: SageAttention 2 subtracts k's mean as it rounds k."""
    attend = _kernel(q.device)
    refuse_side_streams(q.device)
    batch, tokens, heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    bytes_of_each = batch * tokens * max(head_dim, 64) * BYTES_OF_EACH_VALUE
    at_once = heads_at_once(heads, bytes_of_each, SCRATCH_BYTES)
    for first in range(0, heads, at_once):
        some = (slice(None), slice(None), slice(first, first + at_once))
        some_q, some_k = (_within_reach(readable(x[some])) for x in (q, k))
        values, restore = safe_values(v[some], v.dtype)
        found = attend(some_q, some_k, values, tensor_layout="NHD", sm_scale=softmax_scale)
        torch.mul(found, restore, out=out[some])
    return out


def _within_reach(x: torch.Tensor) -> torch.Tensor:
    """x, copied if its values lie too far apart: the library counts elements in 32 bits. Parts of
    one tensor of q, k and v do at 100,000 tokens, and noise comes out (SageAttention's issue 386).
    """
    span = sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
    return x if span < MOST_ELEMENTS else x.clone(memory_format=torch.contiguous_format)


def _kernel(device: torch.device):
    """The library's choice, except on GPUs of compute capability 12.x: there its fp8 kernel was
    reported to return noise in long videos, and to crash the driver (its issues 388 and 391).
    """
    from sageattention import sageattn, sageattn_qk_int8_pv_fp16_cuda

    if capability(device)[0] != 12:
        return sageattn

    def attend(q, k, v, **options):
        return sageattn_qk_int8_pv_fp16_cuda(q, k, v, pv_accum_dtype="fp16+fp32", **options)

    return attend


def safe_values(v: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """v (b, s, h, d) in a dtype, each channel scaled by a power of two; and what to multiply the
    output by, float32 (b, 1, h, d).

    These kernels take v as float16, in which large values overflow, and divide by the largest value
    of a channel, which makes NaN of a channel of zeros. Such a channel gets one value, and its
    output is multiplied by 0. The result has its heads first in memory, as SpargeAttn wants them:
    it takes the place of the library's own copies.
    """
    peak = torch.linalg.vector_norm(v, ord=float("inf"), dim=1, keepdim=True).float()
    silent, one = peak == 0, torch.ones_like(peak)
    shift = (PEAK - torch.frexp(peak).exponent).clamp(-120, 120)
    batch, tokens, heads, head_dim = v.shape
    values = torch.empty((batch, heads, tokens, head_dim), dtype=dtype, device=v.device)
    values = values.transpose(1, 2)
    torch.mul(v, torch.ldexp(one, shift), out=values)
    values[:, :1] += silent.to(dtype)
    return values, torch.ldexp(one, -shift).masked_fill(silent, 0)


def refuse_side_streams(device: torch.device) -> None:
    """Raises RuntimeError outside CUDA's default stream, where these libraries launch their kernels
    whatever the current stream is.
    """
    if device.type == "cuda":
        if torch.cuda.current_stream(device) != torch.cuda.default_stream(device):
            raise RuntimeError("SageAttention and SpargeAttn run on CUDA's default stream only")


@cache
def _installed() -> bool:
    """Version 2: looks at the code, as importing it loads libraries of CUDA."""
    return "def sageattn_qk_int8_pv_fp16_cuda" in source_of("sageattention")


def source_of(package: str) -> str:
    """The text of a package's core.py; "" if it has none."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, "core.py")
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return ""
