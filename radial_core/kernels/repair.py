"""out += out @ matrix, in place, a matrix for each head (adaptive/repair.py)."""

import triton
import triton.language as tl


@triton.jit
def repair(
    out,
    matrices,
    tokens,
    heads,
    batch_stride,
    token_stride,
    head_stride,
    WIDTH: tl.constexpr,  # head_dim
    DIM: tl.constexpr,  # the power of two from it up
    TOKENS: tl.constexpr,  # of a tile
):
    """out: (b, s, h, d), d contiguous. matrices: contiguous (b, h, d, d), of its dtype.

    One program has one tile of tokens of one head.
    """
    head, video = tl.program_id(1), tl.program_id(2)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, DIM)
    out += video.to(tl.int64) * batch_stride + head.to(tl.int64) * head_stride
    rows = out + token.to(tl.int64)[:, None] * token_stride + channel
    inside = (token < tokens)[:, None] & (channel < WIDTH)
    found = tl.load(rows, mask=inside, other=0.0)
    matrices += (video.to(tl.int64) * heads + head) * WIDTH * WIDTH
    square = (channel < WIDTH)[:, None] & (channel < WIDTH)
    matrix = tl.load(matrices + channel[:, None] * WIDTH + channel, mask=square, other=0.0)
    result = tl.dot(found, matrix) + found
    tl.store(rows, result.to(out.dtype.element_ty), mask=inside)
