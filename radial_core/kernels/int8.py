"""Block-sparse attention forward in 8 bits, in Triton, for any GPU with int8 tensor instructions.

Both products of the online softmax (kernels/portable.py) are of int8 codes, with sums in int32:
scores from the codes of q and k, the output from the codes of the softmax weights and of v. The
weights of each part of 64 keys are rounded relative to the largest of that part, so a row's largest
weight costs no accuracy in the other parts.

What limits such a kernel is all the work around its products, hence:

- Sums up to 2^22 are read as floats without a conversion: MAGIC_BITS are added to them, the bits of
  a float whose last one counts as 1. Rounding to int8 works the same way.
- The sum of a row's weights is a product as well, with a matrix of ones.
- A product is of one part, and the output's of half of the channels, which keeps all in registers.
"""

import triton
import triton.language as tl

from .int8_codes import LARGEST, LARGEST_SCALE, LN_2, LOG2_126, MAGIC, MAGIC_BITS, PART, as_int8


@triton.jit
def attend(
    q_codes,  # as int8_quantize.py writes these
    q_scales,
    k_codes,
    k_scales,
    v_codes,
    v_scales,
    v_mean,
    v_deviation,
    lse_shift,
    out,
    lse,
    indptr,
    indices,
    order,  # the rows in the order to compute them
    list_stride,  # from one head's rows in indptr to the next one's; 0 if all heads share a list
    row_stride,  # from one row in indptr to the next one; 0 if all rows keep the same blocks
    tokens,
    parts,  # of 64 keys, whole blocks of them
    heads,
    all_heads,  # of out and lse, of which this launch computes some
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
    SUMS: tl.constexpr,  # columns of the matrix of ones: as few as a product can have
    LSE: tl.constexpr,
):
    """out: (b, s, all heads, d), contiguous from its first head on. lse: float32 (b, all heads, s),
    natural log; neither it nor lse_shift is touched unless LSE.
    """
    TILES: tl.constexpr = BLOCK_SIZE // BLOCK_M  # programs for each query block
    STEPS: tl.constexpr = BLOCK_SIZE // BLOCK_N  # steps for each key block
    PARTS: tl.constexpr = BLOCK_N // PART  # of a step
    HALF: tl.constexpr = HEAD_DIM // 2
    row = tl.load(order + tl.program_id(0) // TILES)
    first = row * BLOCK_SIZE + tl.program_id(0) % TILES * BLOCK_M
    if first >= tokens:
        return
    pair = tl.program_id(1)
    batch = (pair // heads).to(tl.int64)
    head = pair % heads

    rows = first + tl.arange(0, BLOCK_M)
    inside = rows < tokens
    places = (batch * tokens + rows) * all_heads + head
    # The codes wait where the output of the same rows will be, which has twice their bytes.
    of_q = q_codes + places[:, None] * (2 * HEAD_DIM) + tl.arange(0, HEAD_DIM)[None, :]
    q = tl.load(of_q, inside[:, None], 0)
    of_rows = pair.to(tl.int64) * tokens + rows
    q_scale = tl.load(q_scales + of_rows, inside, 0.0)

    low = tl.zeros([BLOCK_M, HALF], tl.float32)  # of the output, by channels
    high = tl.zeros([BLOCK_M, HALF], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)  # the largest score of each row so far
    total = tl.zeros([BLOCK_M, SUMS], tl.float32)  # of 126 * exp2(score - top)

    indptr += head * list_stride + row * row_stride
    begin = tl.load(indptr)
    end = tl.load(indptr + 1)
    last = tl.load(indices + end - 1)
    # Rows ascend, so only the last block can reach past the end: it has a masked loop of its own.
    cut = (last + 1) * BLOCK_SIZE > tokens
    whole = end - cut.to(tl.int32)
    first_part = pair.to(tl.int64) * parts
    for i in tl.range(begin * STEPS, whole * STEPS, num_stages=STAGES):
        step = tl.load(indices + i // STEPS) * STEPS + i % STEPS
        low, high, top, total = _accumulate(
            q, q_scale, k_codes, k_scales, v_codes, v_scales, first_part + step * PARTS,
            low, high, top, total, 0, PARTS == 2, False,
        )  # fmt: skip
    if cut:
        for part in tl.range(last * STEPS * PARTS, tl.cdiv(tokens, PART), num_stages=1):
            low, high, top, total = _accumulate(
                q, q_scale, k_codes, k_scales, v_codes, v_scales, first_part + part,
                low, high, top, total, tokens - part * PART, False, True,
            )  # fmt: skip

    total_of_row = tl.max(total, 1)  # all columns are the same
    factor = 1 / total_of_row
    of_head = pair * HEAD_DIM
    out += places[:, None] * HEAD_DIM
    _store(out, low, factor, v_mean + of_head, v_deviation + of_head, inside)
    of_head += HALF
    _store(out + HALF, high, factor, v_mean + of_head, v_deviation + of_head, inside)
    if LSE:
        shift = tl.load(lse_shift + of_rows, inside, 0.0)
        value = (top + tl.log2(total_of_row) - LOG2_126 + shift) * LN_2
        tl.store(lse + (batch * all_heads + head) * tokens + rows, value, inside)


@triton.jit
def _accumulate(
    q,
    q_scale,
    k_codes,
    k_scales,
    v_codes,
    v_scales,
    part,  # the first one, counted from the first head on
    low,
    high,
    top,
    total,
    left,  # keys from the first one to the end, if MASKED
    TWO: tl.constexpr,
    MASKED: tl.constexpr,
):
    """One step of the online softmax, over one part of the keys and values, or TWO."""
    HEAD_DIM: tl.constexpr = q.shape[1]
    HALF: tl.constexpr = HEAD_DIM // 2
    keys = tl.arange(0, PART)
    start = part * (PART * HEAD_DIM)
    of_k = k_codes + start + keys[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    of_low = v_codes + start + tl.arange(0, HALF)[:, None] * PART + keys[None, :]
    of_high = of_low + HALF * PART
    k_0, low_0, high_0 = tl.load(of_k), tl.load(of_low), tl.load(of_high)
    if TWO:
        k_1 = tl.load(of_k + PART * HEAD_DIM)
        low_1 = tl.load(of_low + PART * HEAD_DIM)
        high_1 = tl.load(of_high + PART * HEAD_DIM)

    scale = q_scale * tl.load(k_scales + part)
    weights_0, largest_0 = _weights(q, k_0, scale, keys < left, MASKED)
    new_top = tl.maximum(top, largest_0)
    if TWO:
        scale = q_scale * tl.load(k_scales + part + 1)
        weights_1, largest_1 = _weights(q, k_1, scale, keys < left - PART, MASKED)
        new_top = tl.maximum(new_top, largest_1)
    shrink = tl.exp2(top - new_top)
    grow_0 = tl.exp2(largest_0 - new_top)
    v_scale_0 = grow_0 * tl.load(v_scales + part)
    ones = tl.full([total.shape[1], PART], 1, tl.int8)
    if TWO:
        grow_1 = tl.exp2(largest_1 - new_top)
        v_scale_1 = grow_1 * tl.load(v_scales + part + 1)
        low = _add_two(low, shrink, weights_0, low_0, v_scale_0, weights_1, low_1, v_scale_1)
        high = _add_two(high, shrink, weights_0, high_0, v_scale_0, weights_1, high_1, v_scale_1)
        total = _add_two(total, shrink, weights_0, ones, grow_0, weights_1, ones, grow_1)
    else:
        low = _add(low, shrink, weights_0, low_0, v_scale_0)
        high = _add(high, shrink, weights_0, high_0, v_scale_0)
        total = _add(total, shrink, weights_0, ones, grow_0)
    return low, high, new_top, total


@triton.jit
def _weights(q, k, scale, inside, MASKED: tl.constexpr):
    """int8 codes of the softmax weights of a part, relative to the largest of each row; and the
    scores of these.

    The columns are in the order of v's codes: it is that in which a thread holds the scores of one
    product and takes the weights of the next, so nothing moves between threads.
    """
    scores = _product(q, k).to(tl.float32, bitcast=True)
    if MASKED:
        scores = tl.where(inside[None, :], scores, 0.0)  # less than MAGIC and any score
    largest = tl.max(scores, 1)
    scale = tl.minimum(scale, LARGEST)
    in_part = tl.minimum(scale, LARGEST_SCALE)
    offset = LOG2_126 - largest * in_part
    weights = tl.exp2(scores * in_part[:, None] + offset[:, None])
    if MASKED:
        weights = tl.where(inside[None, :], weights, 0.0)
    codes = as_int8(weights)
    pairs = tl.reshape(codes, [codes.shape[0], codes.shape[1] // 16, 2, 4, 2])
    codes = tl.reshape(tl.permute(pairs, [0, 1, 3, 2, 4]), codes.shape)
    return codes, (largest - MAGIC) * scale


@triton.jit
def _add(acc, shrink, weights, v, grow):
    """acc * shrink + weights @ v.T * grow, a row at a time."""
    sums = _product(weights, v).to(tl.float32, bitcast=True)
    return acc * shrink[:, None] - (grow * MAGIC)[:, None] + sums * grow[:, None]


@triton.jit
def _add_two(acc, shrink, weights_0, v_0, grow_0, weights_1, v_1, grow_1):
    """`_add` for both parts of a step."""
    sums_0 = _product(weights_0, v_0).to(tl.float32, bitcast=True)
    sums_1 = _product(weights_1, v_1).to(tl.float32, bitcast=True)
    acc = acc * shrink[:, None] - ((grow_0 + grow_1) * MAGIC)[:, None]
    return acc + sums_0 * grow_0[:, None] + sums_1 * grow_1[:, None]


@triton.jit
def _product(a, b):
    """MAGIC_BITS + a @ b.T, int32."""
    sums = tl.full([a.shape[0], b.shape[0]], MAGIC_BITS, tl.int32)
    return tl.dot(a, tl.trans(b), sums, out_dtype=tl.int32)


@triton.jit
def _store(out, values, factor, mean, deviation, inside):
    """out: of each row the first element. mean, deviation: of v's channels."""
    channels = tl.arange(0, values.shape[1])
    values = values * factor[:, None] * tl.load(deviation + channels)[None, :]
    values += tl.load(mean + channels)[None, :]
    tl.store(out + channels[None, :], values.to(out.dtype.element_ty), inside[:, None])
