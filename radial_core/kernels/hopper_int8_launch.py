"""Launches radial_core/kernels/hopper_int8.py, on the codes that int8_launch.py has made."""

from functools import lru_cache

import torch
from triton.experimental.gluon import language as gl

from .hopper_int8 import attend
from .hopper_launch import MAX_REGISTERS, descriptor
from .launch import FUSED, launch, list_stride


def attend_on_hopper(key, out, lse, scratch, lists, block_size: int):
    """Fill out, (b, s, some heads, d), and lse, (b, some heads, s) or None.

    key: as of `launch`, without what is decided here. out holds q's codes. scratch: an
    `int8_launch.Scratch` whose parts are as large as blocks. lists: indptr, indices and order of a
    plan; or with an indptr of one row, which all rows then walk.
    """
    batch, tokens, count, head_dim = out.shape
    indptr, indices, order = lists
    blocks = -(-tokens // block_size)
    all_heads = out.stride(1) // head_dim
    q_scales, k_codes, k_scales, v_codes, v_scales = scratch.codes
    all_blocks = k_codes.shape[0] * blocks
    one_list = blocks > 1 and indptr.shape[1] == 2
    some_lse = out if lse is None else lse  # not touched
    addresses = (some_lse.data_ptr() % 16, indptr.data_ptr() % 16)
    q_matrix = (batch * tokens, 2 * count * head_dim)
    q_bytes = 2 * all_heads * head_dim  # of a row
    launch(
        (*key, count, lse is None, list_stride(indptr) > 0, one_list, *addresses),
        attend,
        (blocks, batch * count, 1),
        (
            _codes(out, q_matrix, q_bytes, (block_size // 2, head_dim)),
            _codes(k_codes, (all_blocks * block_size, head_dim), head_dim, (block_size, head_dim)),
            _codes(
                v_codes, (all_blocks * head_dim, block_size), block_size, (head_dim, block_size)
            ),
            q_scales,
            k_scales,
            v_scales,
            *scratch.means[1:],
            scratch.lse_shift,
            out,
            some_lse,
            indptr,
            indices,
            order,
            list_stride(indptr),
            tokens,
            blocks,
            count,
            all_heads,
            head_dim,
            block_size,
            one_list,
            lse is not None,
        ),
        num_warps=4,
        maxnreg=MAX_REGISTERS,
        **FUSED,
    )


def _codes(x, shape: tuple[int, int], row_bytes: int, box: tuple[int, int]):
    """A descriptor of bytes as a matrix."""
    return descriptor(x.view(torch.int8), shape, (row_bytes, 1), box, _layout(box))


@lru_cache
def _layout(box: tuple[int, int]):
    return gl.NVMMASharedLayout.get_default_for(list(box), gl.int8)
