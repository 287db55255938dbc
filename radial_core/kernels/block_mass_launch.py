"""Launches radial_core/kernels/block_mass.py."""

import torch
import triton

from ..call import capability
from .block_mass import log_sums
from .launch import FUSED, LOG2_E, launch
from .portable_launch import Tiles

# The first is the fastest of ten that were measured on an H200 (`benchmarks/adaptive.py --tiles`).
# Elsewhere two programs fit a multiprocessor, and nothing spills, on RTX cards and AMD's too.
HOPPER_TILES, TILES = Tiles(128, 128, 8, 2), Tiles(64, 64, 4, 2)
KEY_BLOCKS = 32  # for each program: few enough that all multiprocessors end together
LOGARITHMS_AT_ONCE = 2**24  # bounds the scratch memory, to 128 MiB with the softmax of them


def run(
    queries: torch.Tensor,
    k: torch.Tensor,
    each: int,
    block_size: int,
    scale: float,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """What each key block gets of the attention of each query block that is asked: float32 (h,
    asked blocks, blocks).

    queries: (asked blocks * each, h, d), `each` of every one. k: (s, h, d). block_size: a power
    of two. scale: the softmax scale. tiles: those for this GPU if None.
    """
    tiles = tiles or (HOPPER_TILES if capability(k.device)[0] == 9 else TILES)
    queries, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (queries, k))
    tokens, heads, _ = k.shape
    blocks, asking = -(-tokens // block_size), len(queries) // each
    mass = torch.empty(heads, asking, blocks, dtype=torch.float32, device=k.device)
    rows_at_once = min(asking, max(1, LOGARITHMS_AT_ONCE // (each * blocks)))
    heads_at_once = min(heads, max(1, LOGARITHMS_AT_ONCE // (rows_at_once * each * blocks)))
    for head in range(0, heads, heads_at_once):
        some = slice(head, head + heads_at_once)
        for first in range(0, asking, rows_at_once):
            query = queries[first * each : (first + rows_at_once) * each, some]
            logs = _log_sums(query, k[:, some], blocks, block_size, scale, tiles)
            weights = logs.softmax(dim=-1).unflatten(1, (-1, each))
            torch.mean(weights, dim=2, out=mass[some, first : first + rows_at_once])
    return mass


def _log_sums(queries, k, blocks: int, block_size: int, scale: float, tiles: Tiles) -> torch.Tensor:
    """Float32 (h, rows, blocks), of queries (rows, h, d) and k (s, h, d)."""
    (rows, heads, head_dim), tokens = queries.shape, k.shape[0]
    logs = torch.empty(heads, rows, blocks, dtype=torch.float32, device=k.device)
    strides = (*queries.stride()[:2], *k.stride()[:2])
    aligned = tuple(x.data_ptr() % 16 == 0 for x in (queries, k))
    launch(
        (tiles, k.device, k.dtype, queries.shape, k.shape, strides, aligned, block_size),
        log_sums,
        (-(-rows // tiles.block_m), -(-blocks // KEY_BLOCKS), heads),
        (
            queries,
            k,
            logs,
            rows,
            tokens,
            blocks,
            scale * LOG2_E,
            *strides,
            head_dim,
            triton.next_power_of_2(head_dim),
            block_size,
            KEY_BLOCKS,
            tiles.block_m,
            min(tiles.block_n, block_size),
            tiles.stages,
        ),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **FUSED,
    )
    return logs
