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
    lengths = row_lengths(plan.indptr[0].diff(), kept.sum(dim=1), budget, plan.blocks)
    return Rows(kept, lengths, int(lengths.sum()))


@lru_cache(maxsize=PLANS_KEPT)
def row_starts(rows: Rows, heads: int) -> torch.Tensor:
    """`Plan.indptr` of lists with these rows: int32 (heads, blocks + 1)."""
    starts = torch.zeros(len(rows.lengths) + 1, dtype=torch.int32, device=rows.lengths.device)
    starts[1:] = rows.lengths.cumsum(0)
    head = torch.arange(heads, dtype=torch.int32, device=starts.device)
    return starts + head[:, None] * rows.total


def forget_rows() -> None:
    """Free them, with the plans that they are for."""
    rows_of.cache_clear()
    row_starts.cache_clear()


def row_lengths(
    radial: torch.Tensor, least: torch.Tensor, budget: float, blocks: int
) -> torch.Tensor:
    """The key blocks of some rows, of `blocks`: int64 like least.

    radial: those of the radial mask. least: those of the backbone.
    """
    return torch.maximum((radial * budget).round().long().clamp(max=blocks), least)


def backbone(
    layout: VideoLayout, block_size: int, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """The blocks that every head keeps, bool (rows, blocks): text, both ways, and what is near.

    rows: query blocks, int64; all of them if None. Near is a block's own place in the video and the
    same place one frame earlier and later, each with NEAR blocks before and after.
    """
    block = torch.arange(layout.blocks(block_size))
    begin, end = layout.blocks_without_text(block_size)
    has_text = (block < begin) | (block >= end)
    rows = block if rows is None else rows
    kept = has_text[rows, None] | has_text
    for place in _places(rows, layout, block_size):
        kept |= (place[:, None] - block).abs() <= NEAR
    return kept


def backbone_lengths(rows: torch.Tensor, layout: VideoLayout, block_size: int) -> torch.Tensor:
    """How many blocks `backbone` has in some rows, int64 like rows, counted without a map."""
    begin, end = layout.blocks_without_text(block_size)
    near, counted = torch.zeros_like(rows), torch.full_like(rows, begin)
    for place in _places(rows, layout, block_size):
        stop = (place + NEAR + 1).clamp(max=end)
        near += (stop - torch.maximum(place - NEAR, counted)).clamp(min=0)
        counted = torch.maximum(counted, stop)
    blocks = layout.blocks(block_size)
    has_text = (rows < begin) | (rows >= end)
    return torch.where(has_text, blocks, blocks - (end - begin) + near)


def _places(rows: torch.Tensor, layout: VideoLayout, block_size: int) -> list[torch.Tensor]:
    """The block of a row's place in the frame before its own, in its own, and in the next one."""
    middle = rows * block_size + block_size // 2
    return [(middle + frames * layout.tokens_per_frame) // block_size for frames in (-1, 0, 1)]


def most_attended(mass: torch.Tensor, rows: Rows) -> torch.Tensor:
    """The key blocks that each head keeps, bool like mass, which is (h, blocks, blocks).

    In each row the backbone, and then the blocks with the most mass; of equals the first.
    """
    return first_of(by_mass(mass, rows.backbone), rows.lengths)


def by_mass(mass: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The key blocks of each row, int64 like mass: those of the backbone first, then by mass."""
    return mass.masked_fill(first, torch.inf).sort(dim=-1, descending=True, stable=True).indices


def first_of(order: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The first blocks of each row as a map, bool like order, which is (..., rows, blocks).

    lengths: how many, int64 (rows,).
    """
    rank = torch.arange(order.shape[-1], device=order.device)
    is_kept = (rank < lengths[:, None]).expand_as(order)
    return torch.zeros_like(is_kept).scatter_(-1, order, is_kept)
