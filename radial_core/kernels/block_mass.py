"""For each query and key block, the logarithm of the sum of exp(score) over the block's keys.

One pass over the keys is enough for the softmax by blocks: what each block got of it is a softmax
of these logarithms, which are few. No step needs the one before, so programs share the keys too.
"""

import triton
import triton.language as tl

from .portable import _tile


@triton.jit
def log_sums(
    q_start,  # each of these points at the first element of its tensor
    k_start,
    out,
    rows,
    tokens,
    blocks,
    scale,  # softmax_scale * log2(e): the exponentials are to base 2
    q_row,  # strides, in elements; that of head_dim is 1
    q_head,
    k_token,
    k_head,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,  # HEAD_DIM, up to a power of two
    BLOCK_SIZE: tl.constexpr,
    KEY_BLOCKS: tl.constexpr,  # of a program
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """q: (rows, h, d). k: (tokens, h, d). out: contiguous float32 (h, rows, blocks)."""
    first = tl.program_id(0) * BLOCK_M
    head = tl.program_id(2).to(tl.int64)
    q = _tile(q_start + head * q_head, first, q_row, rows, HEAD_DIM, WIDTH, BLOCK_M, True)
    k_start += head * k_head
    row = first + tl.arange(0, BLOCK_M)
    inside = row < rows
    out += (head * rows + row) * blocks

    begin = tl.program_id(1) * KEY_BLOCKS
    end = tl.minimum(begin + KEY_BLOCKS, blocks)
    # Only the last block can reach past the end: it has masked code of its own.
    cut = end * BLOCK_SIZE > tokens
    for block in tl.range(begin, end - cut.to(tl.int32), num_stages=STAGES):
        log_sum = _log_sum(
            q, k_start, block, k_token, tokens, scale, HEAD_DIM, WIDTH, BLOCK_SIZE, BLOCK_N, False
        )
        tl.store(out + block, log_sum, inside)
    if cut:
        log_sum = _log_sum(
            q, k_start, end - 1, k_token, tokens, scale, HEAD_DIM, WIDTH, BLOCK_SIZE, BLOCK_N, True
        )
        tl.store(out + end - 1, log_sum, inside)


@triton.jit
def _log_sum(
    q,
    k_start,
    block,
    k_token,
    tokens,
    scale,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Over the keys of one block, for each query; natural."""
    top = tl.full([q.shape[0]], float("-inf"), tl.float32)  # the largest score of each row so far
    total = tl.zeros([q.shape[0]], tl.float32)  # of exp2(score - top)
    for step in tl.static_range(BLOCK_SIZE // BLOCK_N):
        n = block * BLOCK_SIZE + step * BLOCK_N
        k = _tile(k_start, n, k_token, tokens, HEAD_DIM, WIDTH, BLOCK_N, MASKED)
        scores = tl.dot(q, tl.trans(k))
        if MASKED:
            keys = n + tl.arange(0, BLOCK_N)
            scores = tl.where((keys < tokens)[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1) * scale)
        p = tl.exp2(scores * scale - new_top[:, None])
        total = total * tl.exp2(top - new_top) + tl.sum(p, 1)
        top = new_top
    return (top + tl.log2(total)) * 0.6931471805599453
