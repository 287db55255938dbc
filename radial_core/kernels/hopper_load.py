"""The loading warp of the kernels for Hopper, in Gluon: key and value blocks through the slots."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

# Triton 3.9 renamed it.
_copy = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared


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
