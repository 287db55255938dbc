"""Which key blocks a head keeps in an adaptive list.

Each query block keeps as many key blocks as in the radial mask, times a budget: a thin backbone
that all heads share, and then those that got most of its attention. So the rows of all heads and
transformer blocks have the same lengths, and differ in what is in them.

In the quality lab (benchmarks/quality) heads that share a budget by need, or rows that do, are no
better than equal ones, and much worse if all heads are to reach one share of their attention.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from ..layout import VideoLayout
from ..plan import PLANS_KEPT, Plan

NEAR = 1  # blocks on each side of a query block's own place, and of that place in the next frames


@dataclass(frozen=True, eq=False)
class Rows:
    """What the lists of all heads have in common.

    backbone: the blocks that every head keeps, bool (blocks, blocks). lengths: the key blocks of
    each row, int64 (blocks,). Both on one device. total: the sum of the lengths.
    """

    backbone: torch.Tensor
    lengths: torch.Tensor
    total: int

    @property
    def density(self) -> float:
        """Kept share of the block map."""
        return self.total / len(self.lengths) ** 2


@lru_cache(maxsize=PLANS_KEPT)
def rows_of(plan: Plan, budget: float) -> Rows:
    """The rows of adaptive lists in the place of a plan with one list for all heads.

    budget: the blocks to keep, as a share of the plan's; the backbone is kept in any case.
    """
    kept = backbone(plan.layout, plan.block_size).to(plan.device)
    wanted = (plan.indptr[0].diff() * budget).round().long().clamp(max=plan.blocks)
    lengths = torch.maximum(wanted, kept.sum(dim=1))
    return Rows(kept, lengths, int(lengths.sum()))


def forget_rows() -> None:
    """Free them, with the plans that they are for."""
    rows_of.cache_clear()


def backbone(layout: VideoLayout, block_size: int) -> torch.Tensor:
    """The blocks that every head keeps, bool (blocks, blocks): text, both ways, and what is near.

    Near is a block's own place in the video and the same place one frame earlier and later, each
    with NEAR blocks before and after.
    """
    block = torch.arange(layout.blocks(block_size))
    begin = block * block_size
    has_text = (begin < layout.prefix) | (begin + block_size > layout.prefix + layout.video_tokens)
    if not layout.suffix:
        has_text[-1] &= begin[-1] < layout.prefix  # it is only partly filled
    middle = begin + block_size // 2
    kept = has_text[:, None] | has_text
    for frames in (-1, 0, 1):
        place = (middle + frames * layout.tokens_per_frame) // block_size
        kept |= (place[:, None] - block).abs() <= NEAR
    return kept


def most_attended(mass: torch.Tensor, rows: Rows) -> torch.Tensor:
    """The key blocks that each head keeps, bool like mass, which is (h, blocks, blocks).

    In each row the backbone, and then the blocks with the most mass; of equals the first.
    """
    ranked = mass.masked_fill(rows.backbone, torch.inf).sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(mass.shape[-1], device=mass.device)
    is_kept = (rank < rows.lengths[:, None]).expand_as(mass)
    return torch.zeros_like(is_kept).scatter_(-1, ranked.indices, is_kept)
