"""Norms and activations of a transformer block, each fused with the operation after it.

A program takes one token. Everything is computed in float32 and rounded once.
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
    stride_b,
    stride_s,
    stride_h,
    freqs_b,
    out_b,
    eps,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    PER_HEAD: tl.constexpr,
):
    """RMS norm of the heads (h, d) of a token, times a weight, then rotary embedding.

    weight: (d,) and each head normed by itself if PER_HEAD, else (h * d,) and all heads as one.
    freqs: (s, d / 2, 2, 2), float32: the matrices that pairs of neighbours are multiplied by. out:
    (s, h, d).
    """
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, D)[None, :]
    inside = head < heads
    start = x_ptr + batch * stride_b + token * stride_s
    x = tl.load(start + head * stride_h + place, mask=inside, other=0.0).to(tl.float32)
    if PER_HEAD:
        mean = tl.sum(x * x, axis=1)[:, None] / D
        weight = tl.load(weight_ptr + place)
    else:
        mean = tl.sum(tl.sum(x * x, axis=1), axis=0) / (heads * D)
        weight = tl.load(weight_ptr + head * D + place, mask=inside, other=0.0)
    x = x * tl.rsqrt(mean + eps) * weight.to(tl.float32)
    first, second = tl.split(tl.reshape(x, (HEADS, D // 2, 2)))
    matrix = freqs_ptr + batch * freqs_b + token * (2 * D) + tl.arange(0, D // 2)[None, :] * 4
    a = tl.load(matrix) * first + tl.load(matrix + 1) * second
    b = tl.load(matrix + 2) * first + tl.load(matrix + 3) * second
    x = tl.reshape(tl.join(a, b), (HEADS, D))
    out = out_ptr + batch * out_b + token * heads * D
    tl.store(out + head * D + place, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def layer_norm_modulate(
    x_ptr, scale_ptr, shift_ptr, out_ptr, width, tokens, scale_b, shift_b, eps, WIDTH: tl.constexpr
):
    """(x - mean) / deviation * (1 + scale) + shift. x: (b, s, c), packed; scale, shift: (b, c)."""
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = tl.arange(0, WIDTH)
    inside = place < width
    row = (batch * tokens + token) * width + place
    x = tl.load(x_ptr + row, mask=inside, other=0.0).to(tl.float32)
    x = tl.where(inside, x - tl.sum(x, axis=0) / width, 0.0)
    x = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    scale = tl.load(scale_ptr + batch * scale_b + place, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + batch * shift_b + place, mask=inside, other=0.0).to(tl.float32)
    x = x * (1 + scale) + shift
    tl.store(out_ptr + row, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def add_gated(x_ptr, y_ptr, gate_ptr, out_ptr, width, tokens, gate_b, WIDTH: tl.constexpr):
    """x + y * gate. x, y: (b, s, c), packed; gate: (b, c)."""
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = tl.arange(0, WIDTH)
    inside = place < width
    row = (batch * tokens + token) * width + place
    x = tl.load(x_ptr + row, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + batch * gate_b + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, (x + y * gate).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def beside_gelu(x_ptr, y_ptr, x_width, width, x_b, x_s, y_b, y_s, WIDTH: tl.constexpr):
    """In y (b, s, width): the first columns become x (b, s, x_width), the others their GELU."""
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    in_x, inside = place < x_width, place < width
    x = tl.load(x_ptr + batch * x_b + token * x_s + place, mask=in_x, other=0.0).to(tl.float32)
    y_ptr += batch * y_b + token * y_s + place
    y = tl.load(y_ptr, mask=inside & (place >= x_width), other=0.0).to(tl.float32)
    # 0.5 * (1 + tanh(z)) is the logistic function of 2 z.
    y = y * tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))
    tl.store(y_ptr, tl.where(in_x, x, y).to(y_ptr.dtype.element_ty), mask=inside)
