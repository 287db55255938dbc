"""The block map of a video of any length, from some of its rows: time and memory are bounded.

A plan lists every kept block, which takes seconds and gigabytes for very long videos. For a picture
of the map, and its density, some rows are enough: all of them if they are few, else one of each
stratum of neighbouring rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .layout import VideoLayout
from .masks.mask import BlockMask, kept_runs

MOST_ROWS = 6144
MOST_RUNS = 2**20  # of all rows together, including runs that turn out to be empty
# Torch works on this many numbers in one thread. More gain little here and, on a busy machine,
# threads wait for each other: seconds, not milliseconds.
RUNS_AT_ONCE = 2**15
GOLDEN = 0.6180339887498949  # its multiples lie evenly between 0 and 1


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of a block map of `blocks` x `blocks`, each standing for a stratum of rows.

    edges: int64 (strata + 1,), the first row of each stratum, and the end of the last. kept: int64
    (strata,), kept blocks in its row. runs: runs of kept key blocks, in chunks: the stratum whose
    row it is, its first and its last block, (runs,) each. The runs of a row don't overlap. exact:
    whether no row was left out.
    """

    blocks: int
    edges: torch.Tensor
    kept: torch.Tensor
    runs: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    exact: bool

    @property
    def density(self) -> float:
        """Kept share of the block map."""
        return (self.edges.diff() * self.kept).sum().item() / self.blocks**2

    def coverage(self, side: int) -> torch.Tensor:
        """The map as a picture, float32 (side, side): the kept share of the area of each pixel."""
        scale = side / self.blocks
        strata = len(self.kept)
        # A run is a step up where it begins and a step down where it ends. In the pixel where it
        # falls, a step counts for what is left of the pixel; from the next one on, it counts fully.
        steps = torch.zeros(strata * (side + 2))
        for stratum, first, last in self.runs:
            for end, sign in ((first, 1), (last + 1, -1)):
                place = end.double() * scale
                pixel = place.long()
                passed = (sign * (place - pixel)).float()
                index = stratum * (side + 2) + pixel
                steps.index_add_(0, index, sign - passed)
                steps.index_add_(0, index + 1, passed)
        # A row of pixels is the mean of the strata under it.
        edges = self.edges.double() * scale
        edges[-1] = side
        cuts = torch.cat([edges, torch.arange(side, dtype=edges.dtype)]).unique()
        middle = (cuts[:-1] + cuts[1:]) / 2
        stratum = torch.searchsorted(edges, middle) - 1
        share = torch.sparse_coo_tensor(
            torch.stack([middle.long(), stratum]),
            cuts.diff().float(),
            (side, strata),
            check_invariants=False,
        )
        steps = torch.sparse.mm(share, steps.view(strata, side + 2))
        return steps.cumsum(1)[:, :side].clamp(0, 1)


def sample(mask: BlockMask, layout: VideoLayout, head: int = 0) -> Sample:
    """Rows of a head's block map: all if they are few enough, else one from each of as many strata.

    All rows with text keep everything, so those in front of the video are one stratum, and those
    behind it another.
    """
    size, blocks = mask.block_size, layout.blocks(mask.block_size)
    begin, end = layout.blocks_without_text(size)
    video_rows = end - begin
    most_runs = mask.most_runs(layout)
    strata = min(video_rows, MOST_ROWS, max(1, MOST_RUNS // most_runs))
    edges = begin + torch.arange(strata + 1) * video_rows // max(strata, 1)
    rows = edges[:-1] + (torch.arange(strata) * GOLDEN % 1 * edges.diff()).long()

    front, back = begin > 0, end < blocks
    edges = torch.cat([edges.new_tensor([0] * front), edges, edges.new_tensor([blocks] * back)])
    rows = torch.cat([rows.new_tensor([0] * front), rows, rows.new_tensor([blocks - 1] * back)])
    kept, runs = torch.empty_like(rows), []
    # A row has a run for each frame that it lies in: together, rows of equally many waste none.
    first_frame, last_frame = layout.frames_of_blocks(rows, size)
    strata_by_frames = (last_frame - first_frame).argsort(stable=True)
    for stratum in strata_by_frames.split(max(1, RUNS_AT_ONCE // most_runs)):
        first, last = kept_runs(mask, layout, rows.index_select(0, stratum), head)
        kept.index_copy_(0, stratum, (last - first + 1).sum(1))
        run = (stratum[:, None].expand_as(first), first, last)
        runs.append(tuple(x.masked_select(last >= first) for x in run))
    return Sample(blocks, edges, kept, runs, exact=strata == video_rows)
