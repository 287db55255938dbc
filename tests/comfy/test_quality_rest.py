"""The quality lab's ways to give back what sparse attention dropped, against float64 loops."""

import pytest
import small_lab  # noqa: F401 (puts the lab on the path)
import torch
from conftest import difference

# isort: split

import per_head
import rest

from radial_core.adaptive.repair import exact_rows

CPU = torch.device("cpu")

BLOCKS, BLOCK = 7, 3
SHAPES = pytest.mark.parametrize("heads", [1, 3], ids=["one head", "three heads"])


def videos(heads=3, tokens=BLOCKS * BLOCK, width=8, seed=0):
    """q, k, v (2, s, h, d)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, tokens, heads, width, generator=generator).unbind(0)


def lists_of(heads, blocks=BLOCKS, shared=False):
    """For two videos. The first row keeps every block, the second only itself."""
    kept = torch.randn(2, heads, blocks, blocks, generator=torch.Generator().manual_seed(1)) < 0
    kept |= torch.eye(blocks, dtype=torch.bool)
    kept[:, :, 0] = True
    kept[:, :, 1] = torch.arange(blocks) == 1
    return [per_head.BlockLists(each[:1] if shared else each) for each in kept]


def sparse(q, k, v, lists):
    """Over lists of blocks of any size: out (b, s, h, d), and the LSE (b, h, s)."""
    block = q.shape[1] // lists[0].kept.shape[-1]
    kept = torch.stack([each.kept.expand(q.shape[2], -1, -1) for each in lists])
    kept = kept.repeat_interleave(block, 2).repeat_interleave(block, 3)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~kept, -torch.inf)
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=-1), v)
    return out, scores.logsumexp(dim=-1)


def dense(q, k, v):
    every = per_head.BlockLists(torch.ones(1, 1, 1, dtype=torch.bool))
    return sparse(q, k, v, [every] * len(q))[0]


def by_loops(q, k, v, lists, with_slope):
    """Numerator and denominator of one softmax, in float64, row by row."""
    q, k, v = (x.double() for x in (q, k, v))
    out = torch.zeros_like(q)
    videos, tokens, heads, width = q.shape
    blocks = lists[0].kept.shape[-1]
    size = tokens // blocks
    for video in range(videos):
        kept = lists[video].kept.expand(heads, -1, -1)
        for head in range(heads):
            keys, values = (x[video, :, head].unflatten(0, (blocks, size)) for x in (k, v))
            each = zip(keys, values, strict=True)
            slope = sum((key - key.mean(0)).T @ value for key, value in each) / blocks
            for row in range(tokens):
                query = q[video, row, head] * width**-0.5
                above, below = 0, 0
                for block in range(blocks):
                    if kept[head, row // size, block]:
                        weights = (keys[block] @ query).exp()
                        above, below = above + weights @ values[block], below + weights.sum()
                        continue
                    weight = (keys[block].mean(0) @ query).exp()
                    above = above + weight * size * values[block].mean(0)
                    above = above + weight * (query @ slope) * with_slope
                    below = below + weight * size
                out[video, row, head] = above / below
    return out


@SHAPES
@pytest.mark.parametrize("shared", [False, True], ids=["lists per head", "one list"])
@pytest.mark.parametrize("way", [rest.pooled, rest.first_order])
def test_pooled_and_first_order_are_one_softmax(way, heads, shared):
    q, k, v = videos(heads)
    lists = lists_of(heads, shared=shared)
    out, lse = sparse(q, k, v, lists)
    expected = by_loops(q, k, v, lists, with_slope=way is rest.first_order)
    given = way(q, k, v, lists, out, lse)
    assert difference(given, expected) < 1e-6
    torch.testing.assert_close(given[:, :BLOCK], out[:, :BLOCK])  # a row that drops nothing
    assert difference(out, expected) > 0.1


@pytest.mark.parametrize("way", [rest.pooled, rest.first_order])
def test_with_blocks_of_one_token_nothing_is_lost(way):
    q, k, v = videos()
    lists = lists_of(3, blocks=BLOCKS * BLOCK)
    assert difference(way(q, k, v, lists, *sparse(q, k, v, lists)), dense(q, k, v)) < 1e-6


def test_the_first_order_term_leaves_an_error_of_second_order():
    """Where all blocks have the same deviations from their means, so that each is the mean one."""
    q, k, v = videos()
    lists = lists_of(3)
    step = torch.randn(BLOCK, 3, 8, generator=torch.Generator().manual_seed(2))
    step -= step.mean(dim=0)
    means = k.unflatten(1, (BLOCKS, -1)).mean(dim=2, keepdim=True)
    v = v.unflatten(1, (BLOCKS, -1)).mean(dim=2, keepdim=True).add(step.flip(-1)).flatten(1, 2)
    errors = {rest.pooled: [], rest.first_order: []}
    for size in (0.2, 0.1):
        near = (means + size * step).flatten(1, 2)
        out, lse = sparse(q, near, v, lists)
        for way, of_way in errors.items():
            of_way.append(difference(way(q, near, v, lists, out, lse), dense(q, near, v)))
    (pooled, pooled_halved), (first, first_halved) = errors.values()
    assert 1.8 < pooled / pooled_halved < 2.2 and 3.5 < first / first_halved < 4.5
    assert first < pooled / 5


def test_first_order_is_nearer_where_keys_and_values_are_smooth():
    """Values that are a function of the keys, which change slowly from token to token."""
    q, k, v = videos(tokens=160)
    k = k.cumsum(dim=1) / 8
    function = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(6))
    v = torch.einsum("bshd,hde->bshe", k, function) + 0.1 * v
    lists = lists_of(3, blocks=10)
    out, lse = sparse(q, k, v, lists)
    pooled, first = (
        difference(way(q, k, v, lists, out, lse), dense(q, k, v))
        for way in (rest.pooled, rest.first_order)
    )
    assert first < 0.8 * pooled < 0.5 * difference(out, dense(q, k, v))


def test_a_constant_residual_is_given_back_exactly():
    q, k, v = videos()
    lacks = torch.randn(2, 1, 3, 8, generator=torch.Generator().manual_seed(3))
    for way in (rest.mean_residual(5), rest.repair_in_directions(2, 5)):
        given = way(q, k, v, [], dense(q, k, v) - lacks, None)
        assert difference(given, dense(q, k, v)) < 1e-5


def test_the_mean_of_all_rows_is_the_mean_residual():
    q, k, v = videos()
    out, lse = sparse(q, k, v, lists_of(3))
    lacks = (dense(q, k, v) - out).mean(dim=1, keepdim=True)
    given = rest.mean_residual(BLOCKS * BLOCK)(q, k, v, [], out, lse)
    assert difference(given, out + lacks) < 1e-6
    assert difference(given, dense(q, k, v)) < difference(out, dense(q, k, v))


@SHAPES
def test_an_affine_residual_is_repaired_from_some_rows(heads):
    """Of full rank with all directions, and of rank 2 with two, in each head another one."""
    q, k, v = videos(heads, tokens=65)
    generator = torch.Generator().manual_seed(4)
    whole = dense(q, k, v)
    columns, rows = torch.randn(2, 2, heads, 8, 2, generator=generator)
    for change in (0.3 * torch.randn(2, heads, 8, 8, generator=generator), 0.1 * columns @ rows.mT):
        lacks = torch.einsum("bshd,bhde->bshe", whole, change) + 1
        rank = int(torch.linalg.matrix_rank(change).max())
        for count in (20, 65):
            repair = rest.repair_in_directions(rank, count, ridge=1e-9)
            assert difference(repair(q, k, v, [], whole - lacks, None), whole) < 1e-4
        repair = rest.repair_in_directions(rank - 1, 20, ridge=1e-9)
        assert difference(repair(q, k, v, [], whole - lacks, None), whole) > 1e-3


@SHAPES
def test_repair_in_directions_is_a_ridge_regression_of_some_rank(heads):
    q, k, v = videos(heads, tokens=65, width=12)
    out, lse = sparse(q, k, v, lists_of(heads, blocks=13))
    rows, rank, ridge = 21, 3, 0.1
    chosen = exact_rows(0, 65, CPU, rows)
    expected = torch.empty_like(out, dtype=torch.float64)
    for video in range(2):
        for head in range(heads):
            all_of_it = out[video, :, head].double()
            x = all_of_it[chosen]
            y = (dense(q, k, v)[video, :, head].double() - all_of_it)[chosen]
            standard, shift = (x - x.mean(0)) / x.std(0), y.mean(0)
            penalty = ridge * (standard.T @ standard).trace() / 12
            # A ridge is a least-squares fit to more rows, which are those of a scaled identity.
            more = torch.eye(12, dtype=torch.float64) * penalty.sqrt()
            asked = torch.cat([y - shift, torch.zeros(12, 12, dtype=torch.float64)])
            slope = torch.linalg.lstsq(torch.cat([standard, more]), asked).solution
            top = torch.linalg.svd(standard @ slope).Vh[:rank]
            predicted = (all_of_it - x.mean(0)) / x.std(0) @ slope @ top.T @ top + shift
            expected[video, :, head] = all_of_it + predicted
    given = rest.repair_in_directions(rank, rows, ridge)(q, k, v, [], out, lse)
    assert difference(given - out, expected - out) < 1e-4


@pytest.mark.parametrize("centred", [False, True], ids=["linear", "affine"])
def test_repair_is_a_ridge_regression(centred):
    q, k, v = videos(tokens=65, width=12)
    out, lse = sparse(q, k, v, lists_of(3, blocks=13))
    chosen, ridge = exact_rows(0, 65, CPU, 21), 0.1
    lacks, expected = (dense(q, k, v) - out).double(), torch.empty_like(out, dtype=torch.float64)
    for video in range(2):
        for head in range(3):
            x, y = out[video, chosen, head].double(), lacks[video, chosen, head]
            mean, shift = x.mean(0) * centred, y.mean(0) * centred
            gram = (x - mean).T @ (x - mean)
            gram += ridge * gram.trace() / 12 * torch.eye(12)
            slope = torch.linalg.inv(gram) @ (x - mean).T @ (y - shift)
            expected[video, :, head] = (out[video, :, head] - mean) @ slope + shift
    given = rest.residual_repair(21, ridge, centred)(q, k, v, [], out, lse)
    assert difference(given - out, expected) < 1e-4
    assert difference(expected, lacks) < 0.95


def test_a_kept_repair_is_fitted_again_each_few_calls_and_for_other_lists():
    q, k, v = videos(tokens=65, width=12)
    lists, others = lists_of(3, blocks=13), lists_of(3, blocks=13)
    outs = [sparse(q, k, v, lists)[0], dense(q, k, v) - 1]
    fitted = [rest.residual_repair()(q, k, v, [], out, None) for out in outs]
    again, once = rest.kept_repair(2), rest.kept_repair()
    for way in (again, once):
        assert way(q, k, v, lists, outs[0], None).equal(fitted[0])
        assert difference(way(q, k, v, lists, outs[1], None), fitted[1]) > 0.01
    assert again(q, k, v, lists, outs[1], None).equal(fitted[1])  # the third call
    assert not once(q, k, v, lists, outs[1], None).equal(fitted[1])
    assert once(q, k, v, others, outs[1], None).equal(fitted[1])


def test_both_are_the_repair_of_what_the_first_order_lacks():
    q, k, v = videos(tokens=65)
    lists = lists_of(3, blocks=13)
    out, lse = sparse(q, k, v, lists)
    first, both = (
        way(q, k, v, lists, out, lse) for way in (rest.first_order, rest.first_order_and_repair)
    )
    assert both.equal(rest.residual_repair()(q, k, v, [], first, None))
    assert difference(both, dense(q, k, v)) < difference(first, dense(q, k, v))


def test_repair_from_all_rows_lowers_the_error_more_than_the_mean_does():
    q, k, v = videos(tokens=65)
    out, lse = sparse(q, k, v, lists_of(3, blocks=13))
    ways = [rest.repair_in_directions(8, 65, 1e-9), rest.repair_in_directions(2, 65)]
    ways.append(rest.mean_residual(65))
    errors = [difference(way(q, k, v, [], out, lse), dense(q, k, v)) for way in ways]
    assert errors == sorted(errors) and errors[-1] < difference(out, dense(q, k, v))


def test_directions_are_those_of_a_decomposition():
    x = torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(5)).double()
    for given in (x, torch.zeros_like(x), x[..., :1] * x[..., :1, :]):  # any, none and one
        found = rest._top_directions(given, 16)
        torch.testing.assert_close(found.mT @ found, torch.eye(16).double().expand(2, 3, -1, -1))
        best = torch.linalg.svd(given).Vh[..., :16, :]
        assert (given @ found).norm() >= 0.999 * (given @ best.mT).norm()


def test_exact_rows_are_in_all_parts_of_frames():
    for rows in (64, 128):
        found = exact_rows(0, 8192, CPU, rows)
        assert (found * rows // 8192).tolist() == list(range(rows))  # one in each run
    eighths = (exact_rows(0, 8192, CPU, 64) % 128 // 16).bincount()  # of a run
    assert len(eighths) == 8 and eighths.min() >= 7
    assert len(exact_rows(0, 65, CPU, 20).unique()) == 20
    assert exact_rows(0, 65, CPU, 65).tolist() == list(range(65))


@pytest.mark.parametrize(
    "way",
    [
        rest.pooled,
        rest.first_order,
        rest.mean_residual(5),
        rest.repair_in_directions(2, 9),
        rest.residual_repair(9),
        rest.first_order_and_repair,
    ],
    ids=["pooled", "first order", "mean", "repair in directions", "repair", "both"],
)
def test_dtypes_are_kept_and_calls_repeat(way):
    q, k, v = videos()
    lists = lists_of(3)
    given = [*(x.bfloat16() for x in (q, k, v)), lists]
    out, lse = sparse(*(x.float() for x in given[:3]), lists)
    half = way(*given, out.bfloat16(), lse)
    assert half.dtype == torch.bfloat16 and half.equal(way(*given, out.bfloat16(), lse))
    expected = way(*(x.float() for x in given[:3]), lists, out, lse)
    assert expected.dtype == torch.float32 and difference(half.float(), expected) < 2e-2
