"""What the kernels for Hopper share, in Gluon: slots for key and value blocks, the warp that loads
them, and how the output is stored.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

# Triton 3.9 renamed it.
_copy = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared


@gluon.jit
def barriers(STAGES: gl.constexpr):
    """q_full, and for each slot k_full, k_free, v_full and v_free: ready for all threads."""
    layout: gl.constexpr = mbarrier.MBarrierLayout()
    q_full = gl.allocate_shared_memory(gl.int64, [1], layout)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], layout)
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], layout)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], layout)
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], layout)
    mbarrier.init(q_full, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_free.index(i), count=2)  # both warpgroups are done with it
        mbarrier.init(v_free.index(i), count=2)
    fence_async_shared()
    return q_full, k_full, k_free, v_full, v_free


@gluon.jit
def load(
    Q,  # descriptors of the tensors as matrices; Q's box is half a block
    K,
    V,
    queries,  # in shared memory: both halves of the query block, and slots for keys and values
    keys,
    values,
    q_full,  # barriers, one for each slot
    k_full,
    k_free,
    v_full,
    v_free,
    indices,
    begin,
    end,
    q_row,  # where the query block begins, and the keys and values of the head
    k_row,
    v_row,
    q_column,
    k_column,
    v_column,
    K_ROWS: gl.constexpr,  # of a block
    V_ROWS: gl.constexpr,
    LAST_FIRST: gl.constexpr,
):
    """Streams the row's blocks in their order, or the last one first: only it can be cut short."""
    mbarrier.expect(q_full, 2 * Q.block_type.nbytes)
    _copy(Q, [q_row, q_column], q_full, queries.index(0))
    lower = q_row + queries.shape[1]
    _copy(Q, [lower, q_column], q_full, queries.index(1))
    last = end - 1
    block = gl.load(indices + last) if LAST_FIRST else gl.load(indices + begin)
    slot = 0
    phase = 1  # a fresh barrier passes a wait for this one: the slots are free
    for i in range(begin, end):
        of_k = k_row + block * K_ROWS
        of_v = v_row + block * V_ROWS
        block = gl.load(indices + (i if LAST_FIRST else gl.minimum(i + 1, last)))
        mbarrier.wait(k_free.index(slot), phase)
        mbarrier.expect(k_full.index(slot), K.block_type.nbytes)
        _copy(K, [of_k, k_column], k_full.index(slot), keys.index(slot))
        mbarrier.wait(v_free.index(slot), phase)
        mbarrier.expect(v_full.index(slot), V.block_type.nbytes)
        _copy(V, [of_v, v_column], v_full.index(slot), values.index(slot))
        slot, phase = next_slot(slot, phase, keys.shape[0])


@gluon.jit
def next_slot(slot, phase, STAGES: gl.constexpr):
    """The next slot. The phase flips when the slots start over."""
    slot += 1
    turn = slot == STAGES
    return gl.where(turn, 0, slot), phase ^ turn.to(gl.int32)


@gluon.jit
def store_rows(out, acc, first, tokens, heads):
    """acc (rows, head_dim) as the rows of out, (s, heads, d) of one head, from `first` on."""
    ROWS: gl.constexpr = acc.shape[0]
    HEAD_DIM: gl.constexpr = acc.shape[1]
    layout: gl.constexpr = gl.BlockedLayout(
        [1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0]
    )
    rows = first + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    columns = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, layout))
    places = (rows.to(gl.int64) * heads * HEAD_DIM)[:, None] + columns[None, :]
    result = gl.convert_layout(acc.to(out.dtype.element_ty), layout)
    gl.store(out + places, result, mask=(rows < tokens)[:, None])
