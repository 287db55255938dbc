"""Launches radial_core/kernels/hopper.py."""

from functools import lru_cache
from typing import NamedTuple

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .hopper import attend
from .launch import FUSED, LOG2_E, SHAPES_KEPT, launch, list_stride, outputs

DTYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}
MAX_REGISTERS = 168  # of a thread when the program starts: 384 threads share 65,536


class Matrix(NamedTuple):
    """A (b, s, h, d) tensor as a matrix whose rows are tokens, for the copy engine.

    In memory as (b, s, h, d), heads are columns side by side; as (b, h, s, d), they are rows one
    below the other.
    """

    shape: tuple[int, int]
    strides: tuple[int, int]
    steps: tuple[int, int, int]  # rows to the next batch element, rows and columns to the next head


class Loads(NamedTuple):
    """How q, k and v are loaded: for each, its matrix, box and layout in shared memory."""

    key: tuple
    matrices: tuple[Matrix, Matrix, Matrix]
    boxes: tuple[tuple[int, int], ...]
    layouts: tuple
    steps: tuple[int, ...]


def loads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_size: int) -> Loads | None:
    """How the copy engine loads these (b, s, h, d) tensors with their strides; None if it can't."""
    if (q.data_ptr() | k.data_ptr() | v.data_ptr()) % 16:
        return None
    return _find_loads(q.dtype, q.shape, q.stride(), k.stride(), v.stride(), block_size)


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    indices: torch.Tensor,
    order: torch.Tensor | None,
    block_size: int,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """out (b, s, h, d) contiguous, and lse (b, h, s) or None.

    indptr, indices, order: of a plan. No order: indptr has one row, which all rows walk.
    """
    batch, tokens, heads, head_dim = q.shape
    found = loads(q, k, v, block_size)
    if found is None:
        q, k, v = (x.clone(memory_format=torch.contiguous_format) for x in (q, k, v))
        found = loads(q, k, v, block_size)
    out, lse = outputs(q, return_lse)
    to_next_list = list_stride(indptr)
    descriptors = [
        descriptor(x, matrix.shape, matrix.strides, *how)
        for x, matrix, *how in zip(
            (q, k, v), found.matrices, found.boxes, found.layouts, strict=True
        )
    ]
    launch(
        (found.key, q.device, order is None, to_next_list > 0, return_lse),
        attend,
        (-(-tokens // block_size), batch * heads, 1),
        (
            *descriptors,
            out,
            out if lse is None else lse,  # not touched
            indptr,
            indices,
            indices if order is None else order,  # not touched
            to_next_list,
            tokens,
            heads,
            softmax_scale * LOG2_E,
            *found.steps,
            head_dim,
            block_size,
            order is None,
            return_lse,
        ),
        num_warps=4,
        maxnreg=MAX_REGISTERS,
        **FUSED,
    )
    return out, lse


def descriptor(x, shape: tuple, strides: tuple, box: tuple[int, int], layout) -> TensorDescriptor:
    """Of a tensor as a matrix, for the copy engine. box: what is copied at a time."""
    made = object.__new__(TensorDescriptor)  # whose own checks take longer than the launch
    made.base = x
    made.shape, made.strides = shape, strides
    made.block_shape = box
    made.layout = layout
    made.padding = "zero"
    return made


@lru_cache(maxsize=SHAPES_KEPT)
def _find_loads(dtype, shape, q_stride, k_stride, v_stride, block_size) -> Loads | None:
    matrices = tuple(_matrix(shape, s, block_size) for s in (q_stride, k_stride, v_stride))
    if None in matrices or dtype not in DTYPES:
        return None
    boxes = tuple((rows, shape[3]) for rows in (block_size // 2, block_size, block_size))
    layouts = tuple(gl.NVMMASharedLayout.get_default_for(list(box), DTYPES[dtype]) for box in boxes)
    key = (dtype, shape, q_stride, k_stride, v_stride, block_size)
    steps = tuple(step for matrix in matrices for step in matrix.steps)
    return Loads(key, matrices, boxes, layouts, steps)


def _matrix(shape: torch.Size, stride: tuple[int, ...], block_size: int) -> Matrix | None:
    """A tensor of this shape and stride as a matrix; None if it isn't one or isn't safe to read."""
    batch, tokens, heads, head_dim = shape
    by_batch, by_token, by_head, by_place = stride
    if by_place != 1 or by_token % 8 or by_token < head_dim:  # rows of 16 bytes
        return None
    batch_rows = head_rows = head_columns = 0
    if batch > 1:
        batch_rows, rest = divmod(by_batch, by_token)
        if rest:
            return None
    if heads > 1 and by_head < by_token:
        head_columns = by_head
        if by_head % 8 or by_head * (heads - 1) + head_dim > by_token:
            return None
    elif heads > 1:
        head_rows, rest = divmod(by_head, by_token)
        if rest:
            return None
    # The last block reads past the end of its sequence. Another sequence or the end of the matrix
    # does no harm: these scores are masked. Memory that nobody has written might hold NaN.
    steps = sorted(
        (step, count) for step, count in ((batch_rows, batch), (head_rows, heads)) if step
    )
    written = tokens
    for step, count in steps:
        if tokens % block_size and step != written:
            return None
        written *= count
    rows = (batch - 1) * batch_rows + (heads - 1) * head_rows + tokens
    columns = (heads - 1) * head_columns + head_dim
    return Matrix((rows, columns), (by_token, 1), (batch_rows, head_rows, head_columns))
