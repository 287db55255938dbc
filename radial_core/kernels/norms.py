"""Norms of a transformer block, each with what follows it, in one pass over memory.

They read a row once, compute in float32 and round once: as ComfyUI's own operations do it, less the
roundings in between.
"""

import triton
import triton.language as tl


@triton.jit
def rms_norm_rope(
    x_ptr,
    weight_ptr,
    freqs_ptr,
    out_ptr,
    heads,
    tokens,
    stride_b,
    stride_s,
    stride_h,
    freqs_b,
    eps,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    PER_HEAD: tl.constexpr,
    ROPE: tl.constexpr,
):
    """One token: all heads (h, d) over their root mean square, times a weight; then rotated.

    weight: (d,) and each head by itself if PER_HEAD, else (h * d,) and all at once. freqs (s, d / 2,
    2, 2), float32: what a pair of neighbours is multiplied by. out: contiguous (b, s, h, d).
    """
    token, batch = tl.program_id(0), tl.program_id(1)
    head = tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, D)[None, :]
    there = (head < heads) & (place < D)
    start = x_ptr + batch.to(tl.int64) * stride_b + token.to(tl.int64) * stride_s
    x = tl.load(start + head * stride_h + place, mask=there, other=0.0).to(tl.float32)
    if PER_HEAD:
        mean = tl.sum(x * x, axis=1)[:, None] / D
        weight = tl.load(weight_ptr + place)
    else:
        mean = tl.sum(tl.sum(x * x, axis=1), axis=0) / (heads * D)
        weight = tl.load(weight_ptr + head * D + place, mask=there, other=0.0)
    x = x * tl.rsqrt(mean + eps) * weight.to(tl.float32)
    if ROPE:
        first, second = tl.split(tl.reshape(x, (HEADS, D // 2, 2)))
        pair = tl.arange(0, D // 2)[None, :] * 4
        freqs = freqs_ptr + batch.to(tl.int64) * freqs_b + token.to(tl.int64) * (2 * D)
        a = tl.load(freqs + pair) * first + tl.load(freqs + pair + 1) * second
        b = tl.load(freqs + pair + 2) * first + tl.load(freqs + pair + 3) * second
        x = tl.reshape(tl.join(a, b), (HEADS, D))
    out = out_ptr + (batch.to(tl.int64) * tokens + token) * heads * D
    tl.store(out + head * D + place, x.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def layer_norm_modulate(
    x_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    width,
    tokens,
    stride_b,
    stride_s,
    scale_b,
    shift_b,
    eps,
    WIDTH: tl.constexpr,
):
    """One token (c): (x - mean) / deviation * scale + shift, with a scale and a shift a batch."""
    token, batch = tl.program_id(0), tl.program_id(1)
    place = tl.arange(0, WIDTH)
    there = place < width
    start = x_ptr + batch.to(tl.int64) * stride_b + token.to(tl.int64) * stride_s
    x = tl.load(start + place, mask=there, other=0.0).to(tl.float32)
    x = tl.where(there, x - tl.sum(x, axis=0) / width, 0.0)
    x = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    scale = tl.load(scale_ptr + batch.to(tl.int64) * scale_b + place, mask=there, other=0.0)
    shift = tl.load(shift_ptr + batch.to(tl.int64) * shift_b + place, mask=there, other=0.0)
    x = x * scale.to(tl.float32) + shift.to(tl.float32)
    out = out_ptr + (batch.to(tl.int64) * tokens + token) * width
    tl.store(out + place, x.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def add_gated(
    x_ptr,
    y_ptr,
    gate_ptr,
    out_ptr,
    width,
    tokens,
    gate_b,
    WIDTH: tl.constexpr,
):
    """One token (c) of contiguous x and y: x + y * gate, with a gate a batch."""
    token, batch = tl.program_id(0), tl.program_id(1)
    place = tl.arange(0, WIDTH)
    there = place < width
    start = (batch.to(tl.int64) * tokens + token) * width
    x = tl.load(x_ptr + start + place, mask=there, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + start + place, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + batch.to(tl.int64) * gate_b + place, mask=there, other=0.0)
    x = x + y * gate.to(tl.float32)
    tl.store(out_ptr + start + place, x.to(out_ptr.dtype.element_ty), mask=there)
