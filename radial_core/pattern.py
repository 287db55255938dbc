"""The radial rule: which key blocks a query block sees, in closed form.

Radial Attention (arXiv 2506.19852) lets a token see less of a frame the further that frame is away
in time. The rule below is that of the released code, which the paper's results come from.

Two frames at distance d share the band |k - l| <= w of places k, l within the frame, with

    w = every place                d <= 1, or the key frame is a sink
    w = max(L * decay, B)          d >= 2, where L = 2^(floor(log2 s) - floor(log2 d))

for s tokens a frame and block size B. Once L falls below 128, only each (128 / L)-th distance keeps
its band, so that the cost of a frame goes on halving.

Blocks take the place of tokens as follows. A block stands at the place of its first token, counted
from the start of the frame: that may be negative, for a block that begins in the frame before. A
query block and a key block see each other when their places differ by at most w + `slack`. Inside
whole-block frames this is exactly the released test (more than 60 % of the key columns that the
band touches have more than 1/3 of their rows covered). Where frames begin inside a block it keeps
what that test loses: two blocks that hold the same place differ by less than B <= w, so a token
always sees its own place in every frame that the rule keeps.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from .layout import VideoLayout

BLOCK_SIZES = (64, 128)
MAX_DECAY = 4.0  # a band of 4 L is every place of the frame already at d = 2
THINNING_WIDTH = 128  # a fixed width in the released code, whatever the block size


@dataclass(frozen=True)
class RadialPattern:
    """Settings of the radial rule.

    decay: factor on the band width, in (0, 4]; more keeps more.
    sink_frames: so many first frames are seen by every token; 0 = none, all frames = dense.
    block_size: tokens a side of a block, 64 or 128.

    Raises ValueError if a setting is out of range.
    """

    decay: float = 1.0
    sink_frames: int = 1
    block_size: int = 128

    def __post_init__(self):
        if not isinstance(self.decay, (int, float)) or not 0 < self.decay <= MAX_DECAY:
            raise ValueError(f"decay must be in (0, {MAX_DECAY:g}], got {self.decay!r}")
        sink = self.sink_frames
        if not isinstance(sink, int) or isinstance(sink, bool) or sink < 0:
            raise ValueError(f"sink_frames must be a whole number from 0 up, got {sink!r}")
        if self.block_size not in BLOCK_SIZES:
            raise ValueError(f"block_size must be 64 or 128, got {self.block_size!r}")

    @property
    def slack(self) -> int:
        """Tokens beyond the band at which the released test still keeps a block (22 for B = 128).

        A block m tokens beyond w has n = B - m touched columns, all but B // 3 of them covered by
        more than a third: it is kept when n - B // 3 > 0.6 n.
        """
        return self.block_size - (5 * (self.block_size // 3)) // 2 - 1

    def reach(self, distance: int, tokens_per_frame: int) -> int | None:
        """How far apart, in tokens, the places of two blocks may be in frames `distance` apart.

        None where thinning drops the pair of frames.
        """
        if distance <= 1:
            return tokens_per_frame + self.block_size
        width = 2.0 ** (tokens_per_frame.bit_length() - distance.bit_length())  # L
        if width < THINNING_WIDTH and distance % int(THINNING_WIDTH / width):
            return None
        return math.floor(max(width * self.decay, self.block_size)) + self.slack

    def key_runs(
        self, layout: VideoLayout, query_blocks: range
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First and last key block of every run of key blocks that the query blocks see.

        Returns two int32 tensors (query blocks, runs). In a row the first blocks ascend; runs may
        touch or overlap; an empty run has last = -1. Blocks lie on the grid of the whole sequence:
        the video may begin anywhere inside a block.
        """
        size, s = self.block_size, layout.tokens_per_frame
        begin, end = layout.prefix, layout.prefix + layout.video_tokens
        blocks = block_count(layout, size)
        frames = torch.arange(layout.frames, dtype=torch.int32)

        # Every (query block, frame it lies in, key frame). A block seldom lies in more than two
        # frames; with the later one first, the runs of a row ascend.
        start = torch.arange(query_blocks.start, query_blocks.stop, dtype=torch.int32) * size
        first_frame = (start - begin).clamp(min=0) // s
        last_frame = ((start + size).clamp(max=end) - 1 - begin) // s
        most = max(int((last_frame - first_frame).max()) + 1, 1)
        frame = last_frame[:, None] - torch.arange(most, dtype=torch.int32)
        lies_in = (frame >= first_frame[:, None]) & (frame < layout.frames)
        frame = torch.where(lies_in, frame, 0)

        reach = _reach_of_key_frames(self, layout.frames, s)[layout.frames - 1 - frame]
        reach[..., : self.sink_frames] = s + size
        kept = (reach >= 0) & lies_in[..., None]
        same_place = (start[:, None] - frame * s)[..., None] + frames * s
        shift = size.bit_length() - 1  # >> divides by the block size, rounding down
        key_start = begin + frames * s
        first = torch.maximum(-((reach - same_place) >> shift), key_start >> shift)
        last = torch.minimum((reach + same_place) >> shift, (key_start + s - 1) >> shift)
        kept &= first <= last
        last = torch.where(kept, last, -1)
        first, last = (x.transpose(1, 2).flatten(1) for x in (first, last))

        # Prefix and suffix are dense both ways.
        video_only = (start >= begin) & ((start + size <= end) | (layout.suffix == 0))
        before = torch.where(video_only, -(-begin // size) - 1, blocks - 1)[:, None].int()
        after = torch.full_like(before, blocks - 1 if layout.suffix else -1)
        first = torch.cat([torch.zeros_like(before), first, torch.full_like(after, end // size)], 1)
        last = torch.cat([before, last, after], 1)
        return first, last


def begin_behind(first: torch.Tensor, last: torch.Tensor) -> None:
    """Take overlaps out of runs, (rows, runs), that ascend: a run begins behind all before it.

    In place, in `first`. A run that has nothing of its own left begins behind its end.
    """
    seen = last.cummax(dim=1).values
    first[:, 1:] = torch.maximum(first[:, 1:], seen[:, :-1] + 1)


@lru_cache(maxsize=16)
def _reach_of_key_frames(
    pattern: RadialPattern, frames: int, tokens_per_frame: int
) -> torch.Tensor:
    """`reach`, -1 for None, to every key frame; row r is that of query frame frames - 1 - r.

    (frames, frames), but a view: a row is a window on the reach by difference of the frames.
    """
    reach = [pattern.reach(d, tokens_per_frame) for d in range(frames)]
    reach = torch.tensor([-1 if r is None else r for r in reach], dtype=torch.int32)
    return torch.cat([reach.flip(0), reach[1:]]).unfold(0, frames, 1)


def block_count(layout: VideoLayout, block_size: int) -> int:
    """Blocks along the whole sequence; the last one may be partly filled."""
    return -(-layout.tokens // block_size)
