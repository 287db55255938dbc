"""The radial mask: which key blocks a query block sees, by the rule of tokens and in closed form.

Radial Attention (arXiv 2506.19852) lets a token see less of a frame the further away that frame is
in time. The rule below is that of the released code, which the paper's results come from.

Two frames at distance d share the band |k - l| <= w of places k, l within the frame, with

    w = every place                d <= 1, or the key frame is a sink
    w = max(L * decay, B)          d >= 2, where L = 2^(floor(log2 s) - floor(log2 d))

for s tokens a frame and block size B. Once L falls below 128, only every (128 / L)-th distance
keeps its band, so that the cost of a frame goes on halving.

The second half of this file is that rule, token by token, and the released test for blocks.
`RadialPattern` has the same in closed form, for blocks at once:

A block stands at the place of its first token, counted from the start of the frame; a block that
begins in the frame before stands at a negative place. A query block and a key block see each other
when their places differ by at most w + `slack`. If frames are whole blocks, this is exactly the
released test (more than 60 % of the key columns that the band touches have more than 1/3 of their
rows covered). If a frame begins inside a block, it keeps what that test loses: two blocks that hold
the same place differ by less than B <= w, so a token always sees its own place in every frame that
the rule keeps.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from ..layout import VideoLayout

BLOCK_SIZES = (64, 128)
MAX_DECAY = 4.0  # a band of 4 L is every place of the frame already at d = 2
THINNING_WIDTH = 128  # a fixed width in the released code, whatever the block size


@dataclass(frozen=True)
class RadialPattern:
    """Settings of the radial rule. A `BlockMask` with one list for all heads.

    decay: factor on the width of the band, in (0, 4]; more keeps more.
    sink_frames: the first frames that every token sees in full; 0 = none, all frames = dense.
    block_size: tokens a side of a block, 64 or 128.

    Raises ValueError if a setting is out of range.
    """

    decay: float = 1.0
    sink_frames: int = 1
    block_size: int = 128

    name: ClassVar[str] = "radial"
    heads: ClassVar[int] = 1

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

    def most_runs(self, layout: VideoLayout) -> int:
        frames_in_a_block = (self.block_size - 2) // layout.tokens_per_frame + 2
        kept = int((_reach_by_distance(self, layout.frames, layout.tokens_per_frame) >= 0).sum())
        return 1 + frames_in_a_block * min(2 * kept + frames_in_a_block, layout.frames)

    def key_runs(
        self, layout: VideoLayout, rows: torch.Tensor, head: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As in `BlockMask`. A run is what a row keeps of one key frame, for one frame that the row
        lies in; the sink is one run, the first.
        """
        size, s, begin = self.block_size, layout.tokens_per_frame, layout.prefix
        shift = size.bit_length() - 1  # >> divides by the block size, rounding down
        rows = rows.to(torch.int32 if layout.tokens < 2**30 else torch.int64)
        first_frame, last_frame = layout.frames_of_blocks(rows, size)
        most = max(int((last_frame - first_frame).max()) + 1, 1)  # frames that a row lies in
        sink = min(self.sink_frames, layout.frames)

        reach_by_distance = _reach_by_distance(self, layout.frames, s).to(rows.dtype)
        kept = (reach_by_distance >= 0).nonzero().flatten()
        # In a long video few distances are kept: then each row has key frames of its own.
        few = 2 * len(kept) + most < layout.frames
        if few:
            apart = torch.cat([-kept, kept]) - torch.arange(most)[:, None]
            apart = apart.unique().to(rows.dtype)  # from the last frame that the row lies in
            key_frame = last_frame[:, None] + apart  # (rows, keys)
            outside = (key_frame < sink) | (key_frame >= layout.frames)
        else:
            windows = _windows(reach_by_distance)
            key_frame = torch.arange(sink, layout.frames, dtype=rows.dtype)  # (keys,)
        key_place = key_frame * s
        first_of_key = (key_place + begin) >> shift
        last_of_key = (key_place + (begin + s - 1)) >> shift

        first = rows.new_empty(len(rows), 1 + most * key_frame.shape[-1])
        last = torch.empty_like(first)
        first[:, 0], last[:, 0] = begin >> shift, (begin + sink * s - 1) >> shift if sink else -1
        for i in range(most):  # a later frame sees a key frame at an earlier block: runs ascend
            frame = last_frame - i
            missing = (frame < first_frame) | (frame >= layout.frames)
            frame = frame.clamp(0, layout.frames - 1)
            if few:
                distance = (apart + i).abs()
                reach = reach_by_distance.index_select(0, distance.clamp(max=layout.frames - 1))
                dropped = (reach < 0) | outside
            else:
                reach = windows.index_select(0, layout.frames - 1 - frame)[:, sink:]
                dropped = reach < 0
            same_place = (rows * size - frame * s)[:, None] + key_place
            low, high = same_place - reach, same_place.add_(reach)
            low.add_(size - 1).bitwise_right_shift_(shift)  # rounded up
            high.bitwise_right_shift_(shift)
            torch.maximum(low, first_of_key, out=first[:, 1 + i :: most])
            torch.minimum(high, last_of_key, out=high)
            last[:, 1 + i :: most] = high.masked_fill_(dropped | missing[:, None], -1)
        return first, last


@lru_cache(maxsize=16)
def _reach_by_distance(pattern: RadialPattern, frames: int, tokens_per_frame: int) -> torch.Tensor:
    """`RadialPattern.reach` of each distance between two frames, -1 for None; int32 (frames,)."""
    reach = (pattern.reach(d, tokens_per_frame) for d in range(frames))
    return torch.tensor([-1 if r is None else r for r in reach], dtype=torch.int32)


def _windows(reach: torch.Tensor) -> torch.Tensor:
    """Reach to every key frame, a view (frames, frames): row r is query frame frames - 1 - r."""
    return torch.cat([reach.flip(0), reach[1:]]).unfold(0, len(reach), 1)


# The rule, token by token. Slow: it says what the closed form above must equal.


def token_mask(distance: int, tokens_per_frame: int, pattern: RadialPattern) -> torch.Tensor:
    """Which positions of a frame attend to which in a frame at that distance: bool (s, s)."""
    s = tokens_per_frame
    if distance <= 1:
        return torch.ones(s, s, dtype=torch.bool)
    length = 2 ** (math.floor(math.log2(s)) - math.floor(math.log2(distance)))
    if length < 128 and distance % int(128 / length) != 0:
        return torch.zeros(s, s, dtype=torch.bool)
    place = torch.arange(s)
    band = max(length * pattern.decay, pattern.block_size)
    return (place[:, None] - place).abs() <= band


def kept_blocks(mask: torch.Tensor, block_size: int) -> torch.Tensor:
    """The released test: over 60 % of a block's non-empty columns have over 1/3 of their rows kept.

    mask: bool (tokens, tokens) of whole blocks. Returns bool (blocks, blocks).
    """
    n = mask.shape[0] // block_size
    # (block rows, block columns, columns of a block)
    rows = mask.view(n, block_size, n, block_size).sum(dim=1)
    touched = (rows > 0).sum(dim=-1)
    dense = (3 * rows > block_size).sum(dim=-1)
    return 10 * dense > 6 * touched


def block_map_by_tokens(layout: VideoLayout, pattern: RadialPattern) -> torch.Tensor:
    """The block map, bool (blocks, blocks), of a video without text, whose frames are whole blocks.

    There the closed form must equal it.
    """
    frames, s, size = layout.frames, layout.tokens_per_frame, pattern.block_size
    by_distance = [kept_blocks(token_mask(d, s, pattern), size) for d in range(frames)]
    everything = torch.ones_like(by_distance[0])
    rows = []
    for i in range(frames):
        sink = [everything] * min(pattern.sink_frames, frames)
        others = [by_distance[abs(i - j)] for j in range(len(sink), frames)]
        rows.append(torch.cat([*sink, *others], dim=1))
    return torch.cat(rows, dim=0)
