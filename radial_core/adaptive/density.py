"""What share of the block map adaptive lists keep, for a video of any length."""

import torch

from ..layout import VideoLayout
from ..mask_sample import Sample
from .choice import NEAR


def density(radial: Sample, layout: VideoLayout, block_size: int, budget: float) -> float:
    """The kept share of the block map. It needs only some rows, where `rows_of` builds all.

    radial: rows of the radial mask over the layout. budget: the blocks to keep, as a share of
    theirs.
    """
    row, blocks = radial.edges[:-1], radial.blocks
    wanted = (radial.kept * budget).round().long().clamp(max=blocks)
    kept = torch.maximum(wanted, _backbone_lengths(row, layout, block_size))
    return int((radial.edges.diff() * kept).sum()) / blocks**2


def _backbone_lengths(row: torch.Tensor, layout: VideoLayout, block_size: int) -> torch.Tensor:
    """The blocks that every head keeps in some rows, int64 like row: those of `backbone`, counted
    without a map.
    """
    blocks = layout.blocks(block_size)
    first = -(-layout.prefix // block_size)  # the blocks from here to `end` have no text
    end = (layout.prefix + layout.video_tokens) // block_size if layout.suffix else blocks
    middle = row * block_size + block_size // 2
    near, counted = torch.zeros_like(row), torch.full_like(row, first)
    for frames in (-1, 0, 1):
        place = (middle + frames * layout.tokens_per_frame) // block_size
        stop = (place + NEAR + 1).clamp(max=end)
        near += (stop - torch.maximum(place - NEAR, counted)).clamp(min=0)
        counted = torch.maximum(counted, stop)
    text_blocks = blocks - max(end - first, 0)
    return torch.where((row < first) | (row >= end), blocks, text_blocks + near)
