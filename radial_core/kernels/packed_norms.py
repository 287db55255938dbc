"""Norms, modulations and activations of a packed sequence, each fused with the operation after it.

A program takes one token. Everything is computed in float32 and rounded once. Offsets of tokens
have 64 bits: q, k and v of 100,000 tokens are more than 2^31 numbers.
"""

import triton
import triton.language as tl


@triton.jit
def rms_norm_modulate(
    x_ptr,
    weight_ptr,
    scale_ptr,
    shift_ptr,
    rows_ptr,
    out_ptr,
    width,
    scale_r,
    shift_r,
    eps,
    WIDTH: tl.constexpr,
):
    """RMS norm of x times a weight, * (1 + scale[row]) + shift[row].

    x, out: (s, c), packed. weight: (c,). scale, shift: (r, c). rows: (s,), the row of each token.
    """
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + token).to(tl.int64)
    place = tl.arange(0, WIDTH)
    inside = place < width
    x = tl.load(x_ptr + token * width + place, mask=inside, other=0.0).to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    weight = tl.load(weight_ptr + place, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + row * scale_r + place, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + row * shift_r + place, mask=inside, other=0.0).to(tl.float32)
    x = x * weight * (1 + scale) + shift
    tl.store(out_ptr + token * width + place, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def add_gated_rows(x_ptr, y_ptr, gate_ptr, rows_ptr, width, gate_r, WIDTH: tl.constexpr):
    """x += y * gate[row]. x, y: (s, c), packed. gate: (r, c). rows: (s,), the row of each token."""
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + token).to(tl.int64)
    place = tl.arange(0, WIDTH)
    inside = place < width
    x = tl.load(x_ptr + token * width + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + token * width + place, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_r + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(x_ptr + token * width + place, (x + y * gate).to(x_ptr.dtype.element_ty), mask=inside)


@triton.jit
def rms_norm_rope_halves(
    x_ptr,
    weights_ptr,
    freqs_ptr,
    heads,
    x_s,
    x_n,
    x_h,
    eps,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """RMS norm of each head times a weight, then rotary embedding, in place.

    x: (s, n, h, d). weights: (n, d). freqs: (s, PAIRS, 2, 2), packed: the matrices by which the
    pairs of numbers i and i + PAIRS of a head are multiplied. What comes after them is not rotated:
    it is taken as pairs too, and multiplied by 1. HALF: a power of 2 that holds all pairs. A
    program takes HEADS heads.
    """
    token = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, 4 * HALF)
    is_one = (entry % 4 == 0) | (entry % 4 == 3)
    freqs_ptr += token * (4 * PAIRS) + entry
    freqs = tl.load(freqs_ptr, mask=entry < 4 * PAIRS, other=0.0).to(tl.float32)
    freqs = tl.where(entry < 4 * PAIRS, freqs, is_one.to(tl.float32))
    of_first, of_second = tl.split(tl.reshape(freqs, (HALF, 2, 2)))
    a, c = tl.split(of_first)
    b, d = tl.split(of_second)

    head = tl.program_id(2) * HEADS + tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, HALF)[None, :]
    # Products, as after tl.where Triton loads number by number.
    first = pair + PAIRS * (pair >= PAIRS)
    second = pair + PAIRS + (D // 2 - PAIRS) * (pair >= PAIRS)
    is_pair = pair < D // 2
    inside = (head < heads) & is_pair
    weights_ptr += tl.program_id(1) * D
    x_ptr += token * x_s + tl.program_id(1) * x_n + head * x_h
    x = tl.load(x_ptr + first, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(x_ptr + second, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(x * x + y * y, axis=1) / D + eps)[:, None]
    x *= factor * tl.load(weights_ptr + first, mask=is_pair, other=0.0).to(tl.float32)
    y *= factor * tl.load(weights_ptr + second, mask=is_pair, other=0.0).to(tl.float32)
    dtype = x_ptr.dtype.element_ty
    tl.store(x_ptr + first, (a[None, :] * x + b[None, :] * y).to(dtype), mask=inside)
    tl.store(x_ptr + second, (c[None, :] * x + d[None, :] * y).to(dtype), mask=inside)


@triton.jit
def swiglu(x_ptr, out_ptr, width, x_s, WIDTH: tl.constexpr):
    """SiLU of the first half of each token times the other. x: (s, 2 * c). out: (s, c), packed."""
    token = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = place < width
    x_ptr += token * x_s + place
    gate = tl.load(x_ptr, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + width, mask=inside, other=0.0).to(tl.float32) * gate * tl.sigmoid(gate)
    tl.store(out_ptr + token * width + place, x.to(out_ptr.dtype.element_ty), mask=inside)
