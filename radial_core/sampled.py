"""The block map of a video of any length, from some of its rows: time and memory are bounded.

A plan lists every kept block, which takes seconds and gigabytes for very long videos. For a picture
of the map, and its density, some rows are enough: all of them if they are few, else one of each
stratum of neighbouring rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .layout import VideoLayout
from .pattern import RadialPattern, begin_behind, block_count

MOST_ROWS = 6144
MOST_RUNS = 2**19  # of all rows together, with those that turn out to be empty
# Torch works on so many at a time in one thread (but not when it indexes by a tensor in brackets).
# More gain little here and, on a busy machine, wait for each other: seconds, not milliseconds.
RUNS_AT_ONCE = 2**14
GOLDEN = 0.6180339887498949  # its multiples lie evenly between 0 and 1


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of a block map of `blocks` x `blocks`, each standing for a stratum of rows.

    edges: int64 (strata + 1,), the first row of each stratum, and the end of the last. kept: int64
    (strata,), kept blocks in its row. runs: runs of kept key blocks, some at a time: the stratum
    whose row it is, its first and its last block, int64 (runs,) each. The runs of a row don't
    overlap. exact: whether no row was left out.
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
        # stands, a step counts for what is left of the pixel; from the next one on it counts fully.
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


def sample(pattern: RadialPattern, layout: VideoLayout) -> Sample:
    """Rows of a block map: all if they are few enough, else one from each of as many strata."""
    size, blocks = pattern.block_size, block_count(layout, pattern.block_size)
    # Rows with text see everything. The others, the video's own, are between them.
    begin = -(-layout.prefix // size)
    end = (layout.prefix + layout.video_tokens) // size if layout.suffix else blocks
    own = max(end - begin, 0)
    end = begin + own
    reach = _reach_by_distance(pattern, layout)
    most_frames = (size - 2) // layout.tokens_per_frame + 2
    keys = min(2 * int((reach >= 0).sum()) + most_frames, layout.frames)
    strata = min(own, MOST_ROWS, max(1, MOST_RUNS // keys))
    edges = begin + torch.arange(strata + 1) * own // max(strata, 1)
    rows = edges[:-1] + (torch.arange(strata) * GOLDEN % 1 * edges.diff()).long()

    text_before, text_behind = [0] * (begin > 0), [blocks] * (end < blocks)
    edges = torch.tensor([*text_before, *edges.tolist(), *text_behind])
    kept = torch.full((len(edges) - 1,), blocks)
    first_own = len(text_before)
    dense = torch.tensor([0] * first_own + [first_own + strata] * len(text_behind)).long()
    runs = [(dense, torch.zeros_like(dense), torch.full_like(dense, blocks - 1))]
    first_frame, frames = _frames_of_rows(layout, size, rows)
    for n in frames.unique().tolist():
        those = (frames == n).nonzero().flatten()
        for some in those.split(max(1, RUNS_AT_ONCE // (n * keys))):
            frame = first_frame.index_select(0, some)[:, None] + torch.arange(n - 1, -1, -1)
            first, last = _key_runs(pattern, layout, rows.index_select(0, some), frame, reach)
            stratum = some + first_own
            kept.index_copy_(0, stratum, (last - first + 1).clamp(min=0).sum(1))
            run = (stratum[:, None].expand_as(first), first, last)
            runs.append(tuple(x.masked_select(last >= first) for x in run))
    return Sample(blocks, edges, kept, runs, exact=strata == own)


def _reach_by_distance(pattern: RadialPattern, layout: VideoLayout) -> torch.Tensor:
    """`RadialPattern.reach` of each distance of two frames, -1 for None; int64 (frames,)."""
    reach = (pattern.reach(d, layout.tokens_per_frame) for d in range(layout.frames))
    return torch.tensor([-1 if r is None else r for r in reach])


def _frames_of_rows(layout: VideoLayout, size: int, rows: torch.Tensor):
    """The first frame that each of the video's own block rows lies in, and in how many it does."""
    start = rows * size - layout.prefix
    first = start // layout.tokens_per_frame
    last = ((start + size).clamp(max=layout.video_tokens) - 1) // layout.tokens_per_frame
    return first, last - first + 1


def _key_runs(
    pattern: RadialPattern,
    layout: VideoLayout,
    rows: torch.Tensor,
    frame: torch.Tensor,
    reach: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`RadialPattern.key_runs` of any of the video's own rows, without overlaps.

    rows: block rows that lie in equally many frames. frame: which, (rows, frames), the last one
    first. reach: by distance. Of the key frames only those at a distance that has one are looked
    at: in a long video they are few. Returns first and last key block, int64 (rows, runs); some
    runs are empty.
    """
    size, s = pattern.block_size, layout.tokens_per_frame
    begin, end = layout.prefix, layout.prefix + layout.video_tokens
    kept, frames = (reach >= 0).nonzero().flatten(), frame.shape[1]
    if 2 * len(kept) + frames < layout.frames:
        apart = torch.cat([-kept, kept]) - torch.arange(frames)[:, None]
        key = frame[:, :1, None] + apart.unique()[:, None]  # (rows, keys, 1)
    else:
        key = torch.arange(layout.frames)[:, None]
    there = (key >= pattern.sink_frames) & (key < layout.frames)
    apart = key - frame[:, None]  # (rows, keys, frames)
    distance = apart.abs().clamp(max=layout.frames - 1)
    reach = reach.index_select(0, distance.flatten()).view_as(distance)
    reach = torch.where(there, reach, -1)

    shift = size.bit_length() - 1  # >> divides by the block size, rounding down
    same_place = (rows * size)[:, None, None] + apart * s
    key_start = begin + key * s
    first = torch.maximum(-((reach - same_place) >> shift), key_start >> shift)
    last = torch.minimum((reach + same_place) >> shift, (key_start + s - 1) >> shift)
    last = torch.where(reach < 0, -1, last)

    # Text in front, the sink and text behind are runs of their own.
    sink_end = begin + min(pattern.sink_frames, layout.frames) * s
    last_of_sink = (sink_end - 1) // size if sink_end > begin else -1
    last_block = block_count(layout, size) - 1 if layout.suffix else -1
    first = _framed(first.flatten(1), [0, begin // size], end // size)
    last = _framed(last.flatten(1), [-(-begin // size) - 1, last_of_sink], last_block)
    begin_behind(first, last)
    return first, last


def _framed(x: torch.Tensor, left: list[int], right: int) -> torch.Tensor:
    """A matrix with columns of one value each on its left and one on its right."""
    left, right = (x.new_tensor(value).expand(len(x), -1) for value in (left, [right]))
    return torch.cat([left, x, right], dim=1)
