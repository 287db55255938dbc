"""The authors' released radial mask by brute force: token by token, then block by block.

Only for frames of whole blocks, where `RadialPattern` must equal it.
"""

import math

import torch


def released_block_map(
    frames: int, tokens_per_frame: int, decay: float, sink_frames: int, block_size: int
) -> torch.Tensor:
    """Bool (blocks, blocks), for a video without other tokens."""
    assert tokens_per_frame % block_size == 0
    per_distance = [
        blocks_of(token_mask(d, tokens_per_frame, decay, block_size), block_size)
        for d in range(frames)
    ]
    everything = torch.ones_like(per_distance[0])
    rows = []
    for i in range(frames):
        row = [everything if j < sink_frames else per_distance[abs(i - j)] for j in range(frames)]
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows, dim=0)


def token_mask(distance: int, s: int, decay: float, block_size: int) -> torch.Tensor:
    """Which positions of a frame attend to which in a frame at that distance. Bool (s, s)."""
    if distance <= 1:
        return torch.ones(s, s, dtype=torch.bool)
    length = 2 ** (math.floor(math.log2(s)) - math.floor(math.log2(distance)))
    if length < 128 and distance % int(128 / length) != 0:
        return torch.zeros(s, s, dtype=torch.bool)
    place = torch.arange(s)
    return (place[:, None] - place).abs() <= max(length * decay, block_size)


def blocks_of(mask: torch.Tensor, block_size: int) -> torch.Tensor:
    """Keeps a block if over 60 % of its non-empty columns have over 1/3 of their rows covered."""
    n = mask.shape[0] // block_size
    covered = mask.view(n, block_size, n, block_size).sum(dim=1)  # (block rows, block cols, cols)
    touched = (covered > 0).sum(dim=-1)
    dense = (3 * covered > block_size).sum(dim=-1)
    return 10 * dense > 6 * touched
