"""What a plan needs of a mask, and the rule for text, which is the same for all masks."""

from typing import Protocol

import torch

from ..layout import VideoLayout


class BlockMask(Protocol):
    """A rule that says which key blocks each query block attends to.

    It must be hashable and equal to another of the same settings, as a frozen dataclass is: plans
    are cached by it.
    """

    @property
    def name(self) -> str:
        """What to call it, for a person to read."""

    @property
    def block_size(self) -> int:
        """Tokens a side of a block, 64 or 128."""

    @property
    def heads(self) -> int:
        """How many heads have lists of their own; 1 if all heads share one."""

    def most_runs(self, layout: VideoLayout) -> int:
        """At most so many runs `key_runs` returns for a row. Callers bound their memory by it."""

    def key_runs(
        self, layout: VideoLayout, rows: torch.Tensor, head: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First and last block of each run of key blocks that the rows of a head attend to.

        rows: query blocks, int64 (rows,), in any order. Returns two tensors of whole numbers,
        (rows, runs). In each row the first blocks ascend; runs may touch or overlap; an empty run
        has last = -1. Blocks lie on the grid of the whole sequence. Only the video counts: what
        rows with text attend to, and that all rows attend to text, is added by `kept_runs`.
        """


def kept_runs(
    mask: BlockMask, layout: VideoLayout, rows: torch.Tensor, head: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """`BlockMask.key_runs` with the text, and without overlaps; an empty run has last = first - 1.

    Text and reference tokens attend to everything, and everything attends to them.
    """
    size, blocks = mask.block_size, layout.blocks(mask.block_size)
    begin, end = layout.prefix, layout.prefix + layout.video_tokens
    first, last = mask.key_runs(layout, rows, head)

    start = rows[:, None] * size
    has_text = start < begin
    if layout.suffix:
        has_text |= start + size > end
    before = torch.where(has_text, blocks - 1, -(-begin // size) - 1).to(last.dtype)
    after = torch.full_like(before, blocks - 1 if layout.suffix else -1)
    first = torch.cat([torch.zeros_like(before), first, torch.full_like(after, end // size)], 1)
    last = torch.cat([before, last, after], 1)

    seen = last.cummax(dim=1).values
    first[:, 1:] = torch.maximum(first[:, 1:], seen[:, :-1] + 1)
    return first, torch.maximum(last, first - 1)
