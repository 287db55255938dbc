"""What share of the block map adaptive lists keep, for a video of any length."""

from ..layout import VideoLayout
from ..mask_sample import Sample
from .choice import backbone_lengths, row_lengths


def density(radial: Sample, layout: VideoLayout, block_size: int, budget: float) -> float:
    """The kept share of the block map. It needs only some rows, where `rows_of` builds all.

    radial: rows of the radial mask over the layout. budget: the blocks to keep, as a share of
    theirs.
    """
    least = backbone_lengths(radial.edges[:-1], layout, block_size)
    kept = row_lengths(radial.kept, least, budget, radial.blocks)
    return int((radial.edges.diff() * kept).sum()) / radial.blocks**2
