"""Block-sparse attention forward in Triton, for NVIDIA GPUs from Ampere on, AMD's and Intel's.

The online softmax of FlashAttention-2 (arXiv 2307.08691), over a list of key blocks instead of all
of them. One program computes BLOCK_M queries of one head.
"""

import triton
import triton.language as tl


@triton.jit
def attend(
    q_start,  # each of these points at the first element of its tensor
    k_start,
    v_start,
    out,
    lse,
    indptr,
    indices,
    order,  # the rows in the order to compute them
    list_stride,  # from one head's rows in indptr to the next one's; 0 if all heads share a list
    tokens,
    heads,
    scale,  # softmax_scale * log2(e): the softmax is taken to base 2
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
    WIDTH: tl.constexpr,  # HEAD_DIM, up to a power of two
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
    LSE: tl.constexpr,
):
    """out: contiguous (b, s, h, d). lse: float32 (b, h, s), natural log; not touched unless LSE."""
    TILES: tl.constexpr = BLOCK_SIZE // BLOCK_M  # programs for each query block
    STEPS: tl.constexpr = BLOCK_SIZE // BLOCK_N  # steps for each key block
    row = tl.load(order + tl.program_id(0) // TILES)
    first = row * BLOCK_SIZE + tl.program_id(0) % TILES * BLOCK_M
    if first >= tokens:
        return
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    q_start += batch * q_batch + head * q_head
    k_start += batch * k_batch + head * k_head
    v_start += batch * v_batch + head * v_head

    q = _tile(q_start, first, q_token, tokens, HEAD_DIM, WIDTH, BLOCK_M, True)
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)  # the largest score of each row so far
    total = tl.zeros([BLOCK_M], tl.float32)  # of exp2(score - top)

    indptr += tl.program_id(1) % heads * list_stride
    begin = tl.load(indptr + row)
    end = tl.load(indptr + row + 1)
    last = tl.load(indices + end - 1) * BLOCK_SIZE
    # Rows ascend, so only the last block can reach past the end: it has a masked loop of its own.
    cut = last + BLOCK_SIZE > tokens
    whole = end - cut.to(tl.int32)
    for step in tl.range(begin * STEPS, whole * STEPS, num_stages=STAGES):
        n = tl.load(indices + step // STEPS) * BLOCK_SIZE + (step % STEPS) * BLOCK_N
        k = _tile(k_start, n, k_token, tokens, HEAD_DIM, WIDTH, BLOCK_N, False)
        v = _tile(v_start, n, v_token, tokens, HEAD_DIM, WIDTH, BLOCK_N, False)
        acc, top, total = _accumulate(q, k, v, acc, top, total, scale, n, tokens, False)
    if cut:
        for n in range(last, tokens, BLOCK_N):
            k = _tile(k_start, n, k_token, tokens, HEAD_DIM, WIDTH, BLOCK_N, True)
            v = _tile(v_start, n, v_token, tokens, HEAD_DIM, WIDTH, BLOCK_N, True)
            acc, top, total = _accumulate(q, k, v, acc, top, total, scale, n, tokens, True)

    rows = first + tl.arange(0, BLOCK_M)
    inside = rows < tokens
    columns = tl.arange(0, WIDTH)
    out += (batch * tokens * heads + head) * HEAD_DIM
    place = rows.to(tl.int64)[:, None] * (heads * HEAD_DIM) + columns[None, :]
    mask = inside[:, None] & (columns < HEAD_DIM)[None, :]
    acc = acc / total[:, None]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask)
    if LSE:
        place = (batch * heads + head) * tokens + rows
        tl.store(lse + place, (top + tl.log2(total)) * 0.6931471805599453, inside)


@triton.jit
def _tile(
    start,
    first,
    stride,
    tokens,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LENGTH: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Tokens [first, first + LENGTH) of one head; zero past the end if MASKED."""
    rows = first + tl.arange(0, LENGTH)
    columns = tl.arange(0, WIDTH)
    # Computed anew for each tile: offsets kept across the loop would take registers, and spill.
    places = start + rows[:, None].to(tl.int64) * stride + columns[None, :]
    if MASKED:
        mask = (rows < tokens)[:, None] & (columns < HEAD_DIM)[None, :]
        return tl.load(places, mask=mask, other=0.0)
    elif WIDTH > HEAD_DIM:
        return tl.load(places, mask=(columns < HEAD_DIM)[None, :], other=0.0)
    else:
        return tl.load(places)


@triton.jit
def _accumulate(q, k, v, acc, top, total, scale, n, tokens, MASKED: tl.constexpr):
    """One step of the online softmax, over the keys and values [n, n + BLOCK_N)."""
    scores = tl.dot(q, tl.trans(k))
    if MASKED:
        inside = n + tl.arange(0, k.shape[0]) < tokens
        scores = tl.where(inside[None, :], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    p = tl.exp2(scores * scale - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
    return acc, new_top, total
