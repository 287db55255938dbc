"""Ways to give back to sparse attention some of what it dropped.

GiveBack   (q, k, v, lists, out, lse) -> out, with `out` and `lse` as per_head.attend has them for
           these lists: q, k, v and out (b, s, h, d), the natural lse (b, h, s), one BlockLists a
           video. The output has out's dtype.

`pooled` and `first_order` put something in the place of each dropped key block. The others compute
some rows of the dense output too, and say from these what all the other rows lack. They need no
lists, so they work for any approximation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import per_head
import torch
from masked import Attention
from per_head import BlockLists
from sol import NEIGHBOURS
from torch.nn.functional import scaled_dot_product_attention

from radial_core.adaptive.choice import Rows
from radial_core.adaptive.repair import RIDGE, ROWS, exact_rows

GiveBack = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Sequence[BlockLists], torch.Tensor, torch.Tensor],
    torch.Tensor,
]
ITERATIONS = 8


def pooled(q, k, v, lists, out, lse):
    """GiveBack: each dropped block is one mean key and value, as many times as it has tokens."""
    return _joined(out, lse, *_pooled_rest(q, k, v, lists))


def with_the_rest_pooled(rows: Rows) -> Attention:
    """sol_attn's rule, see sol.py, with as many blocks in each row as the other lists have.

    In each call, and for each head, a query block attends exactly to its neighbours and to the key
    blocks with the best pooled scores, and to each other block as one mean key and value.
    """
    block = torch.arange(len(rows.lengths), device=rows.lengths.device)
    rows = replace(rows, backbone=(block[:, None] - block).abs() <= NEIGHBOURS)
    find = per_head.finder(per_head.pooled(1), rows)

    def attention(q, k, v, layer):
        lists = find(q, k)
        return pooled(q, k, v, lists, *per_head.attend(q, k, v, lists))

    return attention


def first_order(q, k, v, lists, out, lse):
    """GiveBack: `pooled`, with a term for how keys and values differ from their block's mean.

    In a block j with the mean key m, exp(q.k / sqrt(d)) is nearly exp(q.m / sqrt(d)) times
    1 + q.(k - m) / sqrt(d). The second term's sum over the block is 0 in the softmax's denominator.
    In its numerator it is q.H_j / sqrt(d), with H_j the sum of the outer products (k - m) v.
    As in PISA (arXiv 2602.01077), each H_j is taken to be the mean one. So the mean output of the
    rest gets q.H / sqrt(d), with H the mean of (k - m) v over all tokens of the head.
    """
    rest, rest_lse = _pooled_rest(q, k, v, lists)
    blocks = lists[0].kept.shape[-1]
    centred = k.float().unflatten(1, (blocks, -1))
    centred = (centred - centred.mean(dim=2, keepdim=True)).flatten(1, 2)
    slope = torch.einsum("bshd,bshe->bhde", centred, v.float()) / k.shape[1]
    rest += torch.einsum("bshd,bhde->bshe", q.float(), slope * q.shape[-1] ** -0.5)
    return _joined(out, lse, rest, rest_lse)


def mean_residual(rows: int = ROWS) -> GiveBack:
    """The mean of what the exact rows of a head lack, in all of its rows."""

    def give_back(q, k, v, lists, out, lse):
        _, residual = _at_exact_rows(q, k, v, out, rows)
        shift = residual.mean(dim=2).unsqueeze(1)
        return (out.float() + shift).to(out.dtype)

    return give_back


def residual_repair(rows: int = ROWS, ridge: float = RIDGE, centred: bool = False) -> GiveBack:
    """What a row lacks as a linear function of its sparse output, fitted to a head's exact rows.

    As the pack does it (radial_core/adaptive/repair.py), but with one penalty for all channels.
    ridge: that penalty, as a share of the mean of the diagonal to which it is added. centred: an
    affine function.
    """

    def give_back(q, k, v, lists, out, lse):
        x, residual = _at_exact_rows(q, k, v, out, rows)
        if not centred:
            return _with_product(out, _ridge(x.float(), residual.float(), ridge))
        mean, shift = (each.mean(dim=2, keepdim=True) for each in (x, residual))
        slope = _ridge(x - mean, residual - shift, ridge)
        return _with_product(out, slope, shift - mean @ slope)

    return give_back


def kept_repair(every: int | None = None) -> GiveBack:
    """`residual_repair`, fitted in some of the calls with the same lists and kept in the others.

    every: a fit in every so many calls, from the first one on; None for only there. For lists
    that are chosen for each layer: those that layers share would share a fit.
    """
    kept = WeakKeyDictionary()  # lists of the first video -> slope, calls

    def give_back(q, k, v, lists, out, lse):
        slope, calls = kept.get(lists[0], (None, 0))
        if calls == 0 or (every is not None and calls % every == 0):
            x, residual = _at_exact_rows(q, k, v, out, ROWS)
            slope = _ridge(x.float(), residual.float(), RIDGE)
        kept[lists[0]] = slope, calls + 1
        return _with_product(out, slope)

    return give_back


def repair_in_directions(rank: int | None, rows: int = ROWS, ridge: float = RIDGE) -> GiveBack:
    """What a row lacks as an affine function of its sparse output, of so low a rank.

    As SparsePR (arXiv 2608.18484) does it: a ridge regression from the standardized outputs, of
    which only the `rank` directions with the most of the fitted residual are used; None for all.
    Its weights are the numbers of tokens for which the rows stand. They are equal here, as the rows
    are spread evenly, so there are none.
    """

    def give_back(q, k, v, lists, out, lse):
        x, residual = _at_exact_rows(q, k, v, out, rows)
        mean, shift = (each.mean(dim=2, keepdim=True) for each in (x, residual))
        deviation = x.std(dim=2, keepdim=True).clamp_min(1e-5)
        x = (x - mean) / deviation
        slope = _ridge(x, residual - shift, ridge)
        if rank is not None:
            directions = _top_directions(x @ slope, rank)
            slope = slope @ directions @ directions.mT
        slope = slope / deviation.mT
        return _with_product(out, slope, shift - mean @ slope)

    return give_back


def first_order_and_repair(q, k, v, lists, out, lse):
    """GiveBack: `first_order`, and what that lacks by `residual_repair`."""
    return residual_repair()(q, k, v, lists, first_order(q, k, v, lists, out, lse), lse)


def _pooled_rest(q, k, v, lists) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to the blocks that are not kept, one key and value each, in float32.

    Returns out (b, s, h, d) and the LSE (b, h, s).
    """
    every = [_pooled_rest_of_one(*one) for one in zip(q, k, v, lists, strict=True)]
    return tuple(torch.stack(each) for each in zip(*every, strict=True))


def _pooled_rest_of_one(q, k, v, lists) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = lists.kept.shape[-1]
    k, v = (x.float().unflatten(0, (blocks, -1)).mean(dim=1).transpose(0, 1) for x in (k, v))
    scores = q.transpose(0, 1).float() @ (k * q.shape[-1] ** -0.5).mT  # (h, s, blocks)
    # A row may keep every block. So it gets a very small LSE, not one of -inf.
    scores.unflatten(1, (blocks, -1)).masked_fill_(lists.kept[:, :, None], -1e9)
    tokens = q.shape[0] // blocks  # for which a mean stands
    return (scores.softmax(dim=-1) @ v).transpose(0, 1), scores.logsumexp(dim=-1) + math.log(tokens)


def _joined(out, lse, rest, rest_lse) -> torch.Tensor:
    """One softmax over what is kept and the rest."""
    share = (lse - rest_lse).sigmoid().transpose(1, 2)[..., None]
    return (share * out + (1 - share) * rest).to(out.dtype)


def _at_exact_rows(q, k, v, out, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The output at some rows, and how far it is below dense attention's: float64 (b, h, rows, d).

    In float64 because the fit to them squares their condition number; they are few.
    """
    chosen = exact_rows(0, q.shape[1], q.device, rows)
    heads = (x.transpose(1, 2) for x in (q[:, chosen], k, v))
    at_rows = out[:, chosen].transpose(1, 2).double()
    return at_rows, scaled_dot_product_attention(*heads).double() - at_rows


def _with_product(out, slope, shift=None) -> torch.Tensor:
    """out + out @ slope + shift. slope (b, h, d, d), shift (b, h, 1, d)."""
    repaired = out.float() + torch.einsum("bshd,bhde->bshe", out.float(), slope.float())
    if shift is not None:
        repaired += shift.transpose(1, 2).float()
    return repaired.to(out.dtype)


def _ridge(x: torch.Tensor, y: torch.Tensor, ridge: float) -> torch.Tensor:
    """The matrix (..., d, d) with which x (..., rows, d) predicts y."""
    gram = x.mT @ x
    penalty = ridge * gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1) + 1e-30
    gram.diagonal(dim1=-2, dim2=-1).add_(penalty[..., None])
    root = torch.linalg.cholesky(gram)
    half = torch.linalg.solve_triangular(root, x.mT @ y, upper=False)
    return torch.linalg.solve_triangular(root.mT, half, upper=True)


def _top_directions(x: torch.Tensor, rank: int) -> torch.Tensor:
    """The first right singular vectors of x (..., rows, d), as columns: (..., d, rank).

    By subspace iteration: a GPU decomposes many matrices of this size one after the other. With
    twice the columns that are wanted these converge fast, and what is left to decompose is small.
    """
    gram = x.mT @ x
    # A little of the identity, so that nothing below divides by 0. The directions are the same.
    gram /= gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None] + 1e-30
    gram.diagonal(dim1=-2, dim2=-1).add_(1e-6)
    width = gram.shape[-1]
    start = torch.Generator().manual_seed(0)
    basis = torch.randn(width, min(2 * rank, width), generator=start, dtype=x.dtype).to(x.device)
    for _ in range(ITERATIONS):
        basis = gram @ basis
        root = torch.linalg.cholesky(basis.mT @ basis)
        basis = torch.linalg.solve_triangular(root.mT, basis, upper=True, left=False)
    return basis @ torch.linalg.eigh(basis.mT @ gram @ basis).eigenvectors[..., -rank:]
