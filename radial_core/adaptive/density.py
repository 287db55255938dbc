"""What share of the block map adaptive lists keep, for a video of any length."""

import torch

from ..layout import VideoLayout
from ..mask_sample import Sample
from .choice import NEAR

# Key blocks of the backbone in a row, text apart, at most: in its own frame, the one before it and
# the one after. Fewer where these overlap or end.
MOST_NEAR = 3 * (2 * NEAR + 1)


def density(radial: Sample, layout: VideoLayout, block_size: int, budget: float) -> float:
    """The kept share of the block map. It needs only some rows, where `rows_of` builds all.

    radial: rows of the radial mask over the layout. budget: the blocks to keep, as a share of
    theirs. Too high by MOST_NEAR blocks a row at most, and only where the budget leaves less.
    """
    blocks, row = radial.blocks, radial.edges[:-1]
    begin = row * block_size
    has_text = begin < layout.prefix
    if layout.suffix:
        has_text |= begin + block_size > layout.prefix + layout.video_tokens
    text_blocks = int((radial.edges.diff() * has_text).sum())
    least = torch.where(has_text, blocks, text_blocks + MOST_NEAR)
    kept = torch.maximum((radial.kept * budget).round().long(), least).clamp(max=blocks)
    return int((radial.edges.diff() * kept).sum()) / blocks**2
