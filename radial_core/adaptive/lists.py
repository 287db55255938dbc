"""Adaptive lists of one video in one transformer block: found once, kept as bits."""

from dataclasses import dataclass

import torch

from ..plan import Plan
from .bits import packed, unpacked_indices
from .choice import Rows, most_attended, row_starts, rows_of
from .mass import block_mass

MOST_KEPT = 2**31 - 1  # blocks of all heads, which have int32 places in a plan
BLOCKS_AT_ONCE = 2**22  # of the block maps of some heads: bounds the scratch memory, to 100 MiB


@dataclass(frozen=True, eq=False)
class AdaptiveLists:
    """The blocks that each head keeps.

    radial: the plan in whose place they are, with one list for all heads. rows: what all heads have
    in common. bits: uint8 (h, blocks, blocks / 8, rounded up), see bits.py; on the plan's device,
    or in host memory. attended: the share of its attention that these blocks, and the plan's, have:
    float32 (2,) on the plan's device, means over heads and queries.
    """

    radial: Plan
    rows: Rows
    bits: torch.Tensor
    attended: torch.Tensor

    @property
    def bytes(self) -> int:
        return self.bits.numel()

    @property
    def on_device(self) -> bool:
        """Whether the bits are where they are used, not in host memory."""
        return self.bits.device == self.radial.device

    def plan(self) -> Plan:
        """For one call: with int32 indices, 32 bits for each kept block."""
        bits = self.bits.to(self.radial.device, non_blocking=True)
        indptr = row_starts(self.rows, len(bits))
        indices = unpacked_indices(bits, indptr, len(bits) * self.rows.total)
        return self.radial.with_lists(indptr, indices)


def look(
    q: torch.Tensor,
    k: torch.Tensor,
    plan: Plan,
    budget: float = 1.0,
    softmax_scale: float | None = None,
) -> AdaptiveLists:
    """The lists for one video, from where its heads look in this call.

    q, k: (s, h, d) with s = plan.tokens, on the plan's device. plan: with one list for all heads.
    budget: the blocks to keep, as a share of the plan's. Raises OverflowError if they are more than
    MOST_KEPT.
    """
    rows, radial = rows_of(plan, budget), plan.block_mask()
    heads, bits, attended = q.shape[1], [], []
    if heads * rows.total > MOST_KEPT:
        raise OverflowError(f"{heads * rows.total:,} blocks are more than a plan can keep")
    for some in torch.arange(heads).split(max(1, BLOCKS_AT_ONCE // plan.blocks**2)):
        some = slice(int(some[0]), int(some[-1]) + 1)
        mass = block_mass(q[:, some], k[:, some], plan.block_size, softmax_scale)
        kept = most_attended(mass, rows)
        attended.append(torch.stack([(mass * x).sum() for x in (kept, radial)]))
        bits.append(packed(kept))
    mean = torch.stack(attended).sum(dim=0) / (heads * plan.blocks)
    return AdaptiveLists(plan, rows, torch.cat(bits), mean)
