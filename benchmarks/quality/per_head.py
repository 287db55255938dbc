"""Block lists of each head's own: where heads look, which blocks they keep, attention over those.

Blocks have SMALL_BLOCK tokens, see masks.py. What the pack ships is taken from there: block mass
from 1 in 4 queries, the backbone, the choice in each row. The rest is to compare it with.

scores    (q, k) of one video, (s, h, d) each -> (h, blocks, blocks), the rows of which sum to 1
choice    (scores, rows) -> the blocks that heads keep, bool (h, blocks, blocks)
finder    (q, k) of a batch, (b, s, h, d) each -> BlockLists for each video
attention as in masked.py
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from masked import Attention
from masks import SMALL_BLOCK
from torch.nn.functional import scaled_dot_product_attention

from radial_core.adaptive.choice import Rows, most_attended
from radial_core.adaptive.mass import EVERY, asked, by_torch

Scores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Choice = Callable[[torch.Tensor, Rows], torch.Tensor]


@dataclass(frozen=True, eq=False)
class BlockLists:
    """kept: the block map of each head, bool (h, blocks, blocks), or (1, ...) of all heads."""

    kept: torch.Tensor

    @cached_property
    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """indptr and indices, as in a Plan."""
        lists, blocks, _ = self.kept.shape
        ends = self.kept.sum(dim=-1).flatten().cumsum(0, dtype=torch.int32).view(lists, blocks)
        indptr = torch.zeros(lists, blocks + 1, dtype=torch.int32, device=ends.device)
        indptr[:, 1:] = ends
        indptr[1:, 0] = ends[:-1, -1]
        return indptr, self.kept.nonzero()[:, -1].int()


Finder = Callable[[torch.Tensor, torch.Tensor], Sequence[BlockLists]]


def mass(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Scores: the pack's block mass, in plain torch."""
    queries = q[asked(q.shape[0], SMALL_BLOCK, q.device)]
    return by_torch(queries, k, SMALL_BLOCK // EVERY, SMALL_BLOCK, q.shape[-1] ** -0.5)


def mass_of_all(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Scores: block mass from all queries."""
    return by_torch(q, k, SMALL_BLOCK, SMALL_BLOCK, q.shape[-1] ** -0.5)


def pooled(cells: int) -> Scores:
    """Scores: the attention between means of q and of k, with so many means in each block."""

    def scores(q, k):
        q, k = (_means(x, SMALL_BLOCK // cells) for x in (q, k))
        each = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).unflatten(2, (-1, cells))
        return each.unflatten(1, (-1, cells)).logsumexp(dim=(2, 4)).softmax(dim=-1)

    return scores


def steadied(share: float) -> Scores:
    """Scores: the pack's block mass, a share of it replaced by its mean over all rows at the same
    distance, in each head.
    """

    def scores(q, k):
        found = mass(q, k)
        blocks = found.shape[-1]
        place = torch.arange(blocks, device=found.device)
        distance = (place - place[:, None] + blocks - 1).flatten()
        total = found.new_zeros(len(found), 2 * blocks - 1)
        total.index_add_(1, distance, found.flatten(1))
        mean = total / distance.bincount(minlength=2 * blocks - 1)
        return (1 - share) * found + share * mean[:, distance].view_as(found)

    return scores


def shared_by_mass(mass: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Choice: the same number of blocks in all, of all heads and rows those with the most mass."""
    return _cheapest(-mass.masked_fill(rows.backbone, torch.inf), rows)


def shared_by_recall(mass: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Choice: the same number of blocks in all, so that all rows keep one share of their mass."""
    order = mass.masked_fill(rows.backbone, torch.inf).argsort(dim=-1, descending=True, stable=True)
    ranked = mass.gather(-1, order)
    before = torch.zeros_like(mass).scatter_(-1, order, ranked.cumsum(dim=-1) - ranked)
    return _cheapest(before.masked_fill(rows.backbone, -torch.inf), rows)


def finder(scores: Scores, rows: Rows, choice: Choice = most_attended) -> Finder:
    return lambda q, k: [
        BlockLists(choice(scores(one_q, one_k), rows)) for one_q, one_k in zip(q, k, strict=True)
    ]


def looks_again(find: Finder, calls: Sequence[int]) -> Attention:
    """Each layer keeps the lists of its first call until one of these calls, counted from 0."""
    lists, seen = {}, Counter()

    def attention(q, k, v, layer):
        if layer not in lists or seen[layer] in calls:
            lists[layer] = find(q, k)
        seen[layer] += 1
        return attend(q, k, v, lists[layer])[0]

    return attention


def looks_before(scores: Scores, rows: Rows, dense: int, sparse: int) -> Attention:
    """Lists by the mean of a layer's first calls: so many that are dense, and then sparse ones.

    sparse: 0 or 1. The lists are chosen in the last of these calls, and kept.
    """
    lists, seen, total = {}, Counter(), {}

    def attention(q, k, v, layer):
        seen[layer] += 1
        if seen[layer] <= dense + sparse:
            found = torch.stack([scores(*one) for one in zip(q, k, strict=True)])
            total[layer] = total.get(layer, 0) + found
        if seen[layer] == dense + sparse:
            lists[layer] = [BlockLists(most_attended(x, rows)) for x in total.pop(layer)]
        if seen[layer] <= dense:
            heads = (x.transpose(1, 2) for x in (q, k, v))
            return scaled_dot_product_attention(*heads).transpose(1, 2)
        return attend(q, k, v, lists[layer])[0]

    return attention


def looks_anew(find: Finder) -> Attention:
    """Other lists in each call."""
    return lambda q, k, v, layer: attend(q, k, v, find(q, k))[0]


def fixed(lists: Sequence[BlockLists]) -> Attention:
    """The lists of each layer, the same for all videos and steps."""
    return lambda q, k, v, layer: attend(q, k, v, [lists[layer]] * len(q))[0]


def attend(q, k, v, lists: Sequence[BlockLists]) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over each video's lists: out (b, s, h, d), and the natural LSE, (b, h, s)."""
    run = _by_kernel if q.is_cuda else _by_torch
    every = [run(*one) for one in zip(q, k, v, lists, strict=True)]
    return tuple(torch.stack(each) for each in zip(*every, strict=True))


def _by_kernel(q, k, v, lists: BlockLists):
    from radial_core.kernels.portable_launch import Tiles, run

    order = torch.arange(lists.kept.shape[1], dtype=torch.int32, device=q.device)
    one = (x[None] for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    # Of the tiles that were tried the fastest for these blocks.
    out, lse = run(Tiles(16, 16, 1, 2), *one, *lists.rows, order, SMALL_BLOCK, scale, True)
    return out[0], lse[0]


def _by_torch(q, k, v, lists: BlockLists):
    keep = lists.kept.repeat_interleave(SMALL_BLOCK, 1).repeat_interleave(SMALL_BLOCK, 2)
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~keep, -torch.inf)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v.float())
    return out.to(q.dtype), scores.logsumexp(dim=-1)


def _means(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """Over so many tokens each: (s, h, d) -> float32 (h, s / tokens, d)."""
    return x.float().unflatten(0, (-1, tokens)).mean(dim=1).transpose(0, 1)


def _cheapest(cost: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Over all heads the entries with the least cost, as many as `rows` has; the first of equals.

    cost: (h, blocks, blocks).
    """
    order = cost.flatten().argsort(stable=True)[: len(cost) * rows.total]
    kept = torch.zeros_like(cost, dtype=torch.bool)
    kept.view(-1)[order] = True
    return kept
