"""Block-sparse attention forward in 8 bits for Hopper (H100, H200), in Gluon.

What is computed is what int8.py computes, from the codes of the same quantization; how the warps of
a program share the work is that of hopper.py. Within a warpgroup a block's output is added up while
the scores of the next one are computed.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from .hopper_shared import barriers, load, next_slot, store_rows
from .int8_codes import LARGEST, LARGEST_SCALE, LN_2, LOG2_126, MAGIC, MAGIC_BITS

STAGES = gl.constexpr(3)  # key and value blocks in shared memory: 3 x 32 KiB of 227
SUMS = gl.constexpr(8)  # columns of the matrix of ones: as few as a product can have


@gluon.jit
def attend(
    Q,  # descriptors of the codes as matrices; Q's box is half a block
    K,
    V,
    q_scales,  # as int8_quantize.py writes these, with parts as large as blocks
    k_scales,
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
    tokens,
    blocks,
    heads,
    all_heads,  # of out and lse, of which this launch computes some
    HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
    ONE_LIST: gl.constexpr,
    LSE: gl.constexpr,
):
    """out, lse: as in int8.py. ONE_LIST: as in hopper.py."""
    row = gl.program_id(0)
    pair = gl.program_id(1)
    batch = pair // heads
    head = pair % heads
    if not ONE_LIST:
        row = gl.load(order + row)
        indptr += head * list_stride + row
    begin = gl.load(indptr)
    end = gl.load(indptr + 1)
    first = row * BLOCK_SIZE
    out += (batch.to(gl.int64) * tokens * all_heads + head) * HEAD_DIM
    lse += (batch.to(gl.int64) * all_heads + head) * tokens
    q_scales += pair.to(gl.int64) * tokens
    lse_shift += pair.to(gl.int64) * tokens
    k_scales += pair * blocks
    v_scales += pair * blocks
    v_mean += pair * HEAD_DIM
    v_deviation += pair * HEAD_DIM

    queries = gl.allocate_shared_memory(gl.int8, [2, BLOCK_SIZE // 2, HEAD_DIM], Q.layout)
    keys = gl.allocate_shared_memory(gl.int8, [STAGES, BLOCK_SIZE, HEAD_DIM], K.layout)
    values = gl.allocate_shared_memory(gl.int8, [STAGES, HEAD_DIM, BLOCK_SIZE], V.layout)
    ones_layout: gl.constexpr = gl.NVMMASharedLayout(128, 8)
    threads: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    ones = gl.allocate_shared_memory(gl.int8, [SUMS, BLOCK_SIZE], ones_layout)
    ones.store(gl.full([SUMS, BLOCK_SIZE], 1, gl.int8, threads))
    q_full, k_full, k_free, v_full, v_free = barriers(STAGES)
    # fmt: off
    gl.warp_specialize([
        (_multiply, (0, queries, keys, values, ones, q_full, k_full, k_free, v_full, v_free,
                     q_scales, k_scales, v_scales, v_mean, v_deviation, lse_shift, out, lse,
                     indices, begin, end, first, tokens, all_heads, HEAD_DIM, BLOCK_SIZE, LSE)),
        (_multiply, (1, queries, keys, values, ones, q_full, k_full, k_free, v_full, v_free,
                     q_scales, k_scales, v_scales, v_mean, v_deviation, lse_shift, out, lse,
                     indices, begin, end, first, tokens, all_heads, HEAD_DIM, BLOCK_SIZE, LSE)),
        (load, (Q, K, V, queries, keys, values, q_full, k_full, k_free, v_full, v_free, indices,
                begin, end, batch * tokens + first, pair * blocks * BLOCK_SIZE,
                pair * blocks * HEAD_DIM, head * 2 * HEAD_DIM, 0, 0, BLOCK_SIZE, HEAD_DIM, False)),
    ], [4, 1], [240, 24])  # warps and registers of the second warpgroup and of the loading warp
    # fmt: on


@gluon.jit
def _multiply(
    half: gl.constexpr,
    queries,
    keys,
    values,
    ones,
    q_full,
    k_full,
    k_free,
    v_full,
    v_free,
    q_scales,
    k_scales,
    v_scales,
    v_mean,
    v_deviation,
    lse_shift,
    out,
    lse,
    indices,
    begin,
    end,
    first,
    tokens,
    all_heads,
    HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
    LSE: gl.constexpr,
):
    ROWS: gl.constexpr = BLOCK_SIZE // 2
    scores_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_SIZE, 32])
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 32])
    total_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SUMS, 32])
    acc_rows: gl.constexpr = gl.SliceLayout(1, acc_layout)
    q = queries.index(half)
    ones = ones.permute((1, 0))
    acc = gl.zeros([ROWS, HEAD_DIM], gl.float32, acc_layout)
    total = gl.zeros([ROWS, SUMS], gl.float32, total_layout)  # of 126 * exp2(score - top)
    first += half * ROWS
    rows = first + gl.arange(0, ROWS, gl.SliceLayout(1, scores_layout))
    q_scale = gl.load(q_scales + rows, mask=rows < tokens, other=0.0)
    block = gl.load(indices + begin)
    scale = q_scale * gl.load(k_scales + block)
    v_scale = gl.load(v_scales + block)
    top = gl.full_like(q_scale, float("-inf"))  # the largest score of each row so far

    mbarrier.wait(q_full, 0)
    mbarrier.wait(k_full.index(0), 0)
    key = keys.index(0).permute((1, 0))
    running = warpgroup_mma(q, key, _magic(ROWS, BLOCK_SIZE, scores_layout), is_async=True)
    slot = 0
    phase = 0
    for i in range(begin + 1, end):
        block = gl.load(indices + i)
        next_scale = q_scale * gl.load(k_scales + block)
        next_v_scale = gl.load(v_scales + block)
        scores = warpgroup_mma_wait(0, deps=[running])
        mbarrier.arrive(k_free.index(slot), count=1)
        weights, largest = _weights(scores, scale)
        codes = _codes(weights, acc_layout)

        mbarrier.wait(v_full.index(slot), phase)
        value = values.index(slot).permute((1, 0))
        sums = warpgroup_mma(codes, value, _magic(ROWS, HEAD_DIM, acc_layout), is_async=True)
        counts = warpgroup_mma(codes, ones, _magic(ROWS, SUMS, total_layout), is_async=True)
        next, next_phase = next_slot(slot, phase, STAGES)
        mbarrier.wait(k_full.index(next), next_phase)
        key = keys.index(next).permute((1, 0))
        running = warpgroup_mma(q, key, _magic(ROWS, BLOCK_SIZE, scores_layout), is_async=True)

        sums, counts = warpgroup_mma_wait(1, deps=[sums, counts])
        mbarrier.arrive(v_free.index(slot), count=1)
        acc, total, top = _add(acc, total, top, sums, counts, largest, v_scale)
        scale = next_scale
        v_scale = next_v_scale
        slot = next
        phase = next_phase

    scores = warpgroup_mma_wait(0, deps=[running])
    key_tokens = block * BLOCK_SIZE + gl.arange(0, BLOCK_SIZE, gl.SliceLayout(0, scores_layout))
    inside = (key_tokens < tokens)[None, :]
    weights, largest = _weights(gl.where(inside, scores, 0), scale)  # less than any score
    codes = _codes(gl.where(inside, weights, 0.0), acc_layout)
    mbarrier.wait(v_full.index(slot), phase)
    value = values.index(slot).permute((1, 0))
    sums = warpgroup_mma(codes, value, _magic(ROWS, HEAD_DIM, acc_layout), is_async=True)
    counts = warpgroup_mma(codes, ones, _magic(ROWS, SUMS, total_layout), is_async=True)
    sums, counts = warpgroup_mma_wait(0, deps=[sums, counts])
    acc, total, top = _add(acc, total, top, sums, counts, largest, v_scale)

    total_of_row = gl.max(total, 1)  # all columns are the same
    channels = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, acc_layout))
    acc = acc * gl.convert_layout(1.0 / total_of_row, acc_rows)[:, None]
    acc = acc * gl.load(v_deviation + channels)[None, :] + gl.load(v_mean + channels)[None, :]
    store_rows(out, acc, first, tokens, all_heads)
    if LSE:
        total_of_row = gl.convert_layout(total_of_row, gl.SliceLayout(1, scores_layout))
        shift = gl.load(lse_shift + rows, mask=rows < tokens, other=0.0)
        value = (top + gl.log2(total_of_row) - LOG2_126 + shift) * LN_2
        gl.store(lse + rows, value, mask=rows < tokens)


@gluon.jit
def _magic(ROWS: gl.constexpr, COLUMNS: gl.constexpr, layout: gl.constexpr):
    return gl.full([ROWS, COLUMNS], MAGIC_BITS, gl.int32, layout)


@gluon.jit
def _weights(sums, scale):
    """126 exp2(score - largest) of a block, and the largest score of each row.

    sums: with MAGIC, as int32. Their largest is found 3 at a time, as ints, in short chains.
    """
    ROWS: gl.constexpr = sums.shape[0]
    KEYS: gl.constexpr = sums.shape[1]
    largest = gl.max(gl.max(gl.max(sums.reshape([ROWS, KEYS // 32, 4, 8]), 1), 1), 1)
    largest = gl.convert_layout(largest, gl.SliceLayout(1, sums.type.layout))
    largest = largest.to(gl.float32, bitcast=True)
    scale = gl.minimum(scale, LARGEST)
    in_block = gl.minimum(scale, LARGEST_SCALE)
    offset = LOG2_126 - largest * in_block
    weights = gl.exp2(sums.to(gl.float32, bitcast=True) * in_block[:, None] + offset[:, None])
    return weights, (largest - MAGIC) * scale


@gluon.jit
def _codes(weights, acc_layout: gl.constexpr):
    """Weights in [0, 126] as int8, in the order of v's codes: nothing moves between threads."""
    ROWS: gl.constexpr = weights.shape[0]
    KEYS: gl.constexpr = weights.shape[1]
    layout: gl.constexpr = gl.DotOperandLayout(0, acc_layout, 4)
    pairs = weights.reshape([ROWS, KEYS // 16, 2, 4, 2]).permute((0, 1, 3, 2, 4))
    weights = gl.convert_layout(pairs.reshape([ROWS, KEYS]), layout)
    # Rounded by adding 1.5 * 2^10 to two halves, whose last bits then count as 1.
    return gl.inline_asm_elementwise(
        """
        {
            .reg .b32 low, high, magic;
            mov.b32 magic, 0x66006600;
            cvt.rn.f16x2.f32 low, $2, $1;
            cvt.rn.f16x2.f32 high, $4, $3;
            add.rn.f16x2 low, low, magic;
            add.rn.f16x2 high, high, magic;
            prmt.b32 $0, low, high, 0x6420;
        }
        """,
        "=r,r,r,r,r",
        [weights],
        dtype=gl.int8,
        is_pure=True,
        pack=4,
    )


@gluon.jit
def _add(acc, total, top, sums, counts, largest, v_scale):
    """One step of the online softmax. sums, counts: of a block, with MAGIC."""
    new_top = gl.maximum(top, largest)
    shrink = gl.exp2(top - new_top)
    grow = gl.exp2(largest - new_top)
    acc = _add_to(acc, shrink, sums, grow * v_scale)
    return acc, _add_to(total, shrink, counts, grow), new_top


@gluon.jit
def _add_to(acc, shrink, sums, grow):
    """acc * shrink + sums * grow, a row at a time."""
    rows: gl.constexpr = gl.SliceLayout(1, acc.type.layout)
    shrink = gl.convert_layout(shrink, rows)
    grow = gl.convert_layout(grow, rows)
    acc = acc * shrink[:, None] - (grow * MAGIC)[:, None]
    return acc + sums.to(gl.float32, bitcast=True) * grow[:, None]
