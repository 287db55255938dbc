"""Some rows of adaptive lists, at several budgets: what the probe measures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from ..layout import VideoLayout
from ..masks.mask import BlockMask, kept_runs
from .choice import backbone, backbone_lengths, by_mass, first_of, row_lengths
from .mass import block_mass
from .repair import exact_rows, fitted

ROWS_AT_ONCE = 256  # of the block map: bounds the memory that `sample_lists` takes on the CPU


@dataclass(frozen=True, eq=False)
class ListSample:
    """The rows of some queries, before a head has chosen its blocks.

    blocks: the query blocks that they lie in, int64 (asked blocks,). place: which of these each
    query lies in, int64 (queries,). backbone: bool (asked blocks, key blocks). lengths: for each
    budget, int64 (asked blocks,). densities: for each budget the kept share of the whole block map.
    """

    block_size: int
    budgets: tuple[float, ...]
    blocks: torch.Tensor
    place: torch.Tensor
    backbone: torch.Tensor
    lengths: tuple[torch.Tensor, ...]
    densities: tuple[float, ...]

    def to(self, device: torch.device) -> "ListSample":
        moved = {name: getattr(self, name).to(device) for name in ("blocks", "place", "backbone")}
        return replace(self, **moved, lengths=tuple(each.to(device) for each in self.lengths))

    def kept(self, q: torch.Tensor, k: torch.Tensor, softmax_scale: float | None) -> torch.Tensor:
        """The blocks that one head keeps for each query: bool (queries, budgets, key blocks).

        The same as in the lists that `look` finds. q, k: (s, d), on the sample's device.
        """
        q, k = q[:, None], k[:, None]
        order = by_mass(
            block_mass(q, k, self.block_size, softmax_scale, self.blocks)[0], self.backbone
        )
        return torch.stack([first_of(order, each) for each in self.lengths], dim=1)[self.place]


def sample_lists(
    layout: VideoLayout, mask: BlockMask, tokens: torch.Tensor, budgets: Sequence[float]
) -> ListSample:
    """tokens: the queries, int64, places in the whole sequence. budgets: shares of the mask's
    blocks; the mask has one list for all heads.
    """
    size = mask.block_size
    with torch.inference_mode(False):
        every, radial = torch.arange(layout.blocks(size)), []
        for rows in every.split(ROWS_AT_ONCE):
            first, last = kept_runs(mask, layout, rows)
            radial.append((last - first + 1).sum(dim=1))
        radial, least = torch.cat(radial), backbone_lengths(every, layout, size)
        lengths = [row_lengths(radial, least, budget, len(every)) for budget in budgets]
        blocks, place = (tokens // size).unique(return_inverse=True)
        return ListSample(
            size,
            tuple(budgets),
            blocks,
            place,
            backbone(layout, size, blocks),
            tuple(each[blocks] for each in lengths),
            tuple(int(each.sum()) / len(each) ** 2 for each in lengths),
        )


def repair_by_halves(sparse: torch.Tensor, dense: torch.Tensor) -> None:
    """Repair one head's outputs in place: even rows by a fit to odd ones, and odd by even ones.

    Fitted to the rows that it is judged by, the repair would look too good. A row alone stays as it
    is. sparse: (rows, budgets, d). dense: (rows, d), of the same dtype.
    """
    rows = len(sparse)
    both = torch.cat((sparse, dense[:, None]), dim=1)
    both = pad(both, (0, 0, 0, 0, 0, rows % 2))  # a row of zeros adds nothing to a fit
    halves = both.unflatten(0, (-1, 2)).permute(1, 2, 0, 3)  # (2, budgets + 1, half the rows, d)
    some = halves[:, :, exact_rows(0, halves.shape[2], sparse.device)]  # no more than in a run
    matrices = fitted(some[:, :-1], some[:, -1:])
    added = halves[:, :-1] @ matrices.flip(0)
    sparse += added.permute(2, 0, 1, 3).flatten(0, 1)[:rows]
