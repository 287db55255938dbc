"""q, k and v to int8 in one pass: what the kernel in int8.py reads.

q has a scale for each token, k and v one for each part of PART tokens. Three things make the codes
finer, and change nothing else:

- k is taken less its mean, which lowers all scores of a query alike. Any constant vector does that,
  so the mean of a sample will do.
- q and k are rotated by an orthogonal matrix, which spreads the few large channels that some models
  have over all channels, and leaves q k as it is.
- v is taken less its mean and divided by its deviation in each channel; the output is multiplied
  and shifted back.
"""

import triton
import triton.language as tl

from .int8_codes import LEAST, as_int8


@triton.jit
def quantize(
    q_start,  # each of these points at the first element of its tensor
    k_start,
    v_start,
    k_mean,  # float32 (b, h, d), as are the next two
    v_mean,
    v_deviation,
    rotation,  # (d / 2, d / 2), of -1 and 1
    q_codes,  # int8 (b, s, all heads, 2 d), of which the first d are written
    q_scales,  # float32 (b, h, s)
    k_codes,  # int8 (b, h, parts, PART, d)
    k_scales,  # float32 (b, h, parts)
    v_codes,  # int8 (b, h, parts, d, PART)
    v_scales,  # float32 (b, h, parts)
    lse_shift,  # float32 (b, h, s): by what the mean of k lowers the scores; only if LSE
    tokens,
    parts,
    heads,
    all_heads,
    scale,  # softmax_scale * log2(e) / head_dim: the rotation makes q and k sqrt(head_dim) larger
    q_batch,  # strides, in elements; that of head_dim is 1
    q_token,
    q_head,
    k_batch,
    k_token,
    k_head,
    v_batch,
    v_token,
    v_head,
    HEAD_DIM: tl.constexpr,
    PART: tl.constexpr,
    EACH: tl.constexpr,  # parts of a program
    LSE: tl.constexpr,
):
    """A program is for some parts of one head of q, k or v. Past the last token, codes are 0."""
    pair = tl.program_id(0)  # first: heads are neighbours in memory
    batch = (pair // heads).to(tl.int64)
    head = (pair % heads).to(tl.int64)
    of_head = pair * HEAD_DIM
    first_part = pair.to(tl.int64) * parts
    first = tl.program_id(1) * EACH
    last = tl.minimum(first + EACH, parts)
    if tl.program_id(2) == 0:
        q_start += batch * q_batch + head * q_head
        q_codes += (batch * tokens * all_heads + head) * (2 * HEAD_DIM)
        q_scales += pair.to(tl.int64) * tokens
        lse_shift += pair.to(tl.int64) * tokens
        for part in tl.range(first, last, num_stages=1):
            _quantize_q(
                q_start, k_mean + of_head, rotation, q_codes, q_scales, lse_shift, part, tokens,
                all_heads, q_token, scale, HEAD_DIM, PART, LSE,
            )  # fmt: skip
    elif tl.program_id(2) == 1:
        k_start += batch * k_batch + head * k_head
        for part in tl.range(first, last, num_stages=1):
            _quantize_k(
                k_start, k_mean + of_head, rotation, k_codes, k_scales, first_part, part, tokens,
                k_token, HEAD_DIM, PART,
            )  # fmt: skip
    else:
        v_start += batch * v_batch + head * v_head
        for part in tl.range(first, last, num_stages=1):
            _quantize_v(
                v_start, v_mean + of_head, v_deviation + of_head, v_codes, v_scales, first_part,
                part, tokens, v_token, HEAD_DIM, PART,
            )  # fmt: skip


@triton.jit
def _quantize_q(
    q_start,
    k_mean,
    rotation,
    q_codes,
    q_scales,
    lse_shift,
    part,
    tokens,
    all_heads,
    stride,
    scale,
    HEAD_DIM: tl.constexpr,
    PART: tl.constexpr,
    LSE: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    rows = part * PART + tl.arange(0, PART)
    inside = rows < tokens
    channels = tl.arange(0, HALF)
    low = _tile(q_start, rows, stride, tokens, HALF)
    high = _tile(q_start + HALF, rows, stride, tokens, HALF)
    if LSE:
        shift = tl.sum(low * tl.load(k_mean + channels)[None, :], 1)
        shift += tl.sum(high * tl.load(k_mean + HALF + channels)[None, :], 1)
        tl.store(lse_shift + rows, shift * scale * HEAD_DIM, inside)
    low, high = _rotated(low, high, rotation, HALF)
    largest = tl.maximum(tl.max(tl.abs(low), 1), tl.max(tl.abs(high), 1))
    factor = (127 / tl.maximum(largest, LEAST))[:, None]
    places = rows.to(tl.int64)[:, None] * (all_heads * 2 * HEAD_DIM) + channels[None, :]
    tl.store(q_codes + places, as_int8(low * factor), inside[:, None])
    tl.store(q_codes + places + HALF, as_int8(high * factor), inside[:, None])
    tl.store(q_scales + rows, largest * scale / 127, inside)


@triton.jit
def _quantize_k(
    k_start,
    k_mean,
    rotation,
    k_codes,
    k_scales,
    first_part,
    part,
    tokens,
    stride,
    HEAD_DIM: tl.constexpr,
    PART: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    places = tl.arange(0, PART)
    rows = part * PART + places
    inside = (rows < tokens)[:, None]
    channels = tl.arange(0, HALF)
    low = _tile(k_start, rows, stride, tokens, HALF)
    high = _tile(k_start + HALF, rows, stride, tokens, HALF)
    low = tl.where(inside, low - tl.load(k_mean + channels)[None, :], 0.0)
    high = tl.where(inside, high - tl.load(k_mean + HALF + channels)[None, :], 0.0)
    low, high = _rotated(low, high, rotation, HALF)
    largest = tl.max(tl.maximum(tl.abs(low), tl.abs(high)))
    factor = 127 / tl.maximum(largest, LEAST)
    places = (
        (first_part + part) * (PART * HEAD_DIM) + places[:, None] * HEAD_DIM + channels[None, :]
    )
    tl.store(k_codes + places, as_int8(low * factor))
    tl.store(k_codes + places + HALF, as_int8(high * factor))
    tl.store(k_scales + first_part + part, largest / 127)


@triton.jit
def _quantize_v(
    v_start,
    v_mean,
    v_deviation,
    v_codes,
    v_scales,
    first_part,
    part,
    tokens,
    stride,
    HEAD_DIM: tl.constexpr,
    PART: tl.constexpr,
):
    """Transposed, and of each 16 tokens in the order of `_weights` in int8.py."""
    places = tl.arange(0, PART)
    rows = part * PART + places // 16 * 16 + places // 2 % 2 * 8 + places // 4 % 4 * 2 + places % 2
    channels = tl.arange(0, HEAD_DIM)
    factor = 1 / tl.load(v_deviation + channels)[None, :]
    v = _tile(v_start, rows, stride, tokens, HEAD_DIM)
    v = (v - tl.load(v_mean + channels)[None, :]) * factor
    v = tl.where((rows < tokens)[:, None], v, 0.0)
    largest = tl.max(tl.abs(v))
    places = (first_part + part) * (PART * HEAD_DIM) + channels[None, :] * PART + places[:, None]
    tl.store(v_codes + places, as_int8(v * (127 / tl.maximum(largest, LEAST))))
    tl.store(v_scales + first_part + part, largest / 127)


@triton.jit
def _tile(start, rows, stride, tokens, WIDTH: tl.constexpr):
    """Some channels of some tokens of one head, float32 (rows, WIDTH); 0 past the end."""
    places = start + rows.to(tl.int64)[:, None] * stride + tl.arange(0, WIDTH)[None, :]
    return tl.load(places, mask=(rows < tokens)[:, None], other=0.0).to(tl.float32)


@triton.jit
def _rotated(low, high, rotation, HALF: tl.constexpr):
    """The two halves of the channels after the rotation, which is (1 1, 1 -1) times `rotation`."""
    channels = tl.arange(0, HALF)
    matrix = tl.load(rotation + channels[:, None] * HALF + channels[None, :])
    plus = tl.dot((low + high).to(matrix.dtype), matrix)
    minus = tl.dot((low - high).to(matrix.dtype), matrix)
    return plus, minus
