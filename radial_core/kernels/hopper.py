"""Block-sparse attention forward for Hopper (H100, H200), in Gluon, which comes with Triton.

The schedule is that of FlashAttention-3 (arXiv 2407.08608). One program computes a query block of
one head. A loading warp streams the key and value blocks of the row's list through shared memory by
TMA; two warpgroups multiply, each with half of the queries. Within a warpgroup the scores of the
next key block and the output of the last one are in flight together.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from .hopper_shared import barriers, load, next_slot, store_rows

STAGES = gl.constexpr(2)  # key and value blocks in shared memory: 2 x 64 KiB of 227


@gluon.jit
def attend(
    Q,  # descriptors of the tensors as matrices of tokens; Q's box is half a block
    K,
    V,
    out,
    lse,
    indptr,
    indices,
    order,  # the rows in the order to compute them
    list_stride,  # from one head's rows in indptr to the next one's; 0 if all heads share a list
    tokens,
    heads,
    scale,  # softmax_scale * log2(e): the softmax is taken to base 2
    q_batch,  # where a batch element and a head begin: in rows, rows and columns
    q_head,
    q_column,
    k_batch,
    k_head,
    k_column,
    v_batch,
    v_head,
    v_column,
    HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
    ONE_LIST: gl.constexpr,
    LSE: gl.constexpr,
):
    """out: contiguous (b, s, h, d). lse: float32 (b, h, s), natural log; not touched unless LSE.

    ONE_LIST: all rows share the first row's list, and are computed in their own order.
    """
    row = gl.program_id(0)
    batch = gl.program_id(1) // heads
    head = gl.program_id(1) % heads
    if not ONE_LIST:
        row = gl.load(order + row)
        indptr += head * list_stride + row
    begin = gl.load(indptr)
    end = gl.load(indptr + 1)
    last = gl.load(indices + end - 1)
    first = row * BLOCK_SIZE
    out += (batch.to(gl.int64) * tokens * heads + head) * HEAD_DIM
    lse += (batch.to(gl.int64) * heads + head) * tokens

    queries = gl.allocate_shared_memory(Q.dtype, [2, BLOCK_SIZE // 2, HEAD_DIM], Q.layout)
    keys = gl.allocate_shared_memory(K.dtype, [STAGES, BLOCK_SIZE, HEAD_DIM], K.layout)
    values = gl.allocate_shared_memory(V.dtype, [STAGES, BLOCK_SIZE, HEAD_DIM], V.layout)
    q_full, k_full, k_free, v_full, v_free = barriers(STAGES)
    q_row = batch * q_batch + head * q_head + first
    k_row = batch * k_batch + head * k_head
    v_row = batch * v_batch + head * v_head
    # fmt: off
    gl.warp_specialize([
        (_multiply, (0, queries, keys, values, q_full, k_full, k_free, v_full, v_free, out, lse,
                     end - begin, last, first, tokens, heads, scale, HEAD_DIM, BLOCK_SIZE, LSE)),
        (_multiply, (1, queries, keys, values, q_full, k_full, k_free, v_full, v_free, out, lse,
                     end - begin, last, first, tokens, heads, scale, HEAD_DIM, BLOCK_SIZE, LSE)),
        (load, (Q, K, V, queries, keys, values, q_full, k_full, k_free, v_full, v_free,
                indices, begin, end, q_row, k_row, v_row, head * q_column, head * k_column,
                head * v_column, BLOCK_SIZE, BLOCK_SIZE, True)),
    ], [4, 1], [240, 24])  # warps and registers of the second warpgroup and of the loading warp
    # fmt: on


@gluon.jit
def _multiply(
    half: gl.constexpr,
    queries,
    keys,
    values,
    q_full,
    k_full,
    k_free,
    v_full,
    v_free,
    out,
    lse,
    count,
    last,
    first,
    tokens,
    heads,
    scale,
    HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
    LSE: gl.constexpr,
):
    ROWS: gl.constexpr = BLOCK_SIZE // 2
    dtype: gl.constexpr = queries.dtype
    scores_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_SIZE, 16])
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, acc_layout, 2)
    acc_rows: gl.constexpr = gl.SliceLayout(1, acc_layout)
    q = queries.index(half)
    zeros = gl.zeros([ROWS, BLOCK_SIZE], gl.float32, scores_layout)
    acc = gl.zeros([ROWS, HEAD_DIM], gl.float32, acc_layout)

    mbarrier.wait(q_full, 0)
    mbarrier.wait(k_full.index(0), 0)
    scores = warpgroup_mma(q, keys.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(k_free.index(0), count=1)
    key_tokens = last * BLOCK_SIZE + gl.arange(0, BLOCK_SIZE, gl.SliceLayout(0, scores_layout))
    scores = gl.where((key_tokens < tokens)[None, :], scores, float("-inf"))
    top = gl.max(scores, 1) * scale
    p = gl.exp2(scores * scale - top[:, None])
    total = gl.sum(p, 1)
    p = gl.convert_layout(p.to(dtype), p_layout)

    k_slot, k_phase = next_slot(0, 0, STAGES)
    v_slot = 0
    v_phase = 0
    for _ in range(1, count):
        mbarrier.wait(k_full.index(k_slot), k_phase)
        key = keys.index(k_slot).permute((1, 0))
        scores_running = warpgroup_mma(q, key, zeros, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(v_slot), v_phase)
        acc_running = warpgroup_mma(p, values.index(v_slot), acc, is_async=True)

        scores = warpgroup_mma_wait(1, deps=[scores_running])
        mbarrier.arrive(k_free.index(k_slot), count=1)
        new_top = gl.maximum(top, gl.max(scores, 1) * scale)
        shrink = gl.exp2(top - new_top)
        new_p = gl.exp2(scores * scale - new_top[:, None])
        total = total * shrink + gl.sum(new_p, 1)
        top = new_top

        new_p = gl.convert_layout(new_p.to(dtype), p_layout)
        acc, p, new_p = warpgroup_mma_wait(0, deps=[acc_running, p, new_p])
        mbarrier.arrive(v_free.index(v_slot), count=1)
        acc = acc * gl.convert_layout(shrink, acc_rows)[:, None]
        p = new_p
        k_slot, k_phase = next_slot(k_slot, k_phase, STAGES)
        v_slot, v_phase = next_slot(v_slot, v_phase, STAGES)
    mbarrier.wait(v_full.index(v_slot), v_phase)
    acc_running = warpgroup_mma(p, values.index(v_slot), acc, is_async=True)
    acc, p = warpgroup_mma_wait(0, deps=[acc_running, p])

    first += half * ROWS
    acc = acc * gl.convert_layout(1.0 / total, acc_rows)[:, None]
    store_rows(out, acc, first, tokens, heads)
    if LSE:
        rows = first + gl.arange(0, ROWS, gl.SliceLayout(1, scores_layout))
        gl.store(lse + rows, (top + gl.log2(total)) * 0.6931471805599453, mask=rows < tokens)
