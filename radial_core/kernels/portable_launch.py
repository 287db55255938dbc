"""Launches radial_core/kernels/portable.py."""

from typing import NamedTuple

import torch
import triton

from .launch import FUSED, LOG2_E, launch, list_stride, outputs
from .portable import attend


class Tiles(NamedTuple):
    """How a program works: its queries, keys in each step, warps, and steps loaded ahead."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def run(
    tiles: Tiles,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    indices: torch.Tensor,
    order: torch.Tensor,
    block_size: int,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """out (b, s, h, d) contiguous, and lse (b, h, s) or None. indptr, indices, order: of a plan."""
    batch, tokens, heads, head_dim = q.shape
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out, lse = outputs(q, return_lse)
    to_next_list = list_stride(indptr)
    block_m = min(tiles.block_m, block_size)
    block_n = min(tiles.block_n, block_size)
    aligned = tuple(x.data_ptr() % 16 == 0 for x in (q, k, v))
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    launch(
        (
            tiles,
            q.device,
            q.dtype,
            q.shape,
            strides,
            aligned,
            to_next_list > 0,
            block_size,
            return_lse,
        ),
        attend,
        (-(-tokens // block_size) * (block_size // block_m), batch * heads, 1),
        (
            q,
            k,
            v,
            out,
            out if lse is None else lse,  # not touched
            indptr,
            indices,
            order,
            to_next_list,
            tokens,
            heads,
            softmax_scale * LOG2_E,
            *strides,
            head_dim,
            triton.next_power_of_2(head_dim),
            block_size,
            block_m,
            block_n,
            tiles.stages,
            return_lse,
        ),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **FUSED,
    )
    return out, lse
