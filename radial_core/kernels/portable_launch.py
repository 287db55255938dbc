"""Launches radial_core/kernels/portable.py."""

import math
from typing import NamedTuple

import torch
import triton

from .launch import launch
from .portable import attend


class Tiles(NamedTuple):
    """How a program works: queries, keys a step, warps, and steps loaded ahead."""

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
    """out (b, s, h, d) contiguous, and lse (b, h, s) or None. The last stride of q, k, v is 1."""
    batch, tokens, heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = None
    if return_lse:
        lse = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)
    block_m = min(tiles.block_m, block_size)
    block_n = min(tiles.block_n, block_size)
    aligned = tuple(x.data_ptr() % 16 == 0 for x in (q, k, v))
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    launch(
        (tiles, q.device, q.dtype, q.shape, strides, aligned, block_size, return_lse),
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
            tokens,
            heads,
            softmax_scale * math.log2(math.e),
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
    )
    return out, lse
