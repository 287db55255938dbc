"""The residual repair of adaptive lists: what it adds, and that nothing else moves."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core import dense_rows as rows_module
from radial_core.adaptive import repair as module
from radial_core.adaptive.choice import rows_of
from radial_core.adaptive.repair import ROWS, add_product, exact_rows, fitted, repair, repaired
from radial_core.dense_rows import dense_rows

CPU = torch.device("cpu")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(q, k, v, scale=None):
    heads = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(*heads, scale=scale).transpose(1, 2)


def by_hand(q, k, v, out, video, scale=None):
    """In float64, head by head."""
    result = out.double().clone()
    rows = exact_rows(video.start, video.stop, CPU)
    full = dense(*(x.double() for x in (q, k, v)), scale)
    for i in range(q.shape[0]):
        for head in range(q.shape[2]):
            sparse = out[i, rows, head].double()
            gram = sparse.T @ sparse
            ridge = module.RIDGE * gram.diagonal().diag()
            matrix = torch.linalg.solve(gram + ridge, sparse.T @ (full[i, rows, head] - sparse))
            result[i, video, head] += out[i, video, head].double() @ matrix
    return result


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize(("tokens", "prefix", "suffix"), [(333, 7, 5), (90, 0, 0), (130, 1, 0)])
def test_it_adds_what_the_formula_says(tokens, prefix, suffix, scale):
    q, k, v, out = draw(4, 2, tokens, 3, 16).unbind(0)
    video = slice(prefix, tokens - suffix)
    expected = by_hand(q, k, v, out, video, scale)
    mine = out.clone()
    assert repair(q, k, v, mine, video, scale) is None
    torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-4)
    outside = torch.ones(tokens, dtype=torch.bool)
    outside[video] = False
    assert torch.equal(mine[:, outside], out[:, outside])
    assert not torch.equal(mine, out)


@pytest.mark.parametrize("prefix", [0, 5, 64])
@pytest.mark.parametrize("suffix", [0, 7, 64, 100])
def test_queries_in_blocks_with_text_are_left_out(prefix, suffix):
    """They attend to everything. Of the others none does, where a tenth of the blocks is kept."""
    layout = VideoLayout(9, 10, 9, prefix, suffix)
    rows = rows_of(make_plan(RadialPattern(0.2, 1, 64), layout), 0.1)
    lacks = (rows.lengths < len(rows.lengths)).repeat_interleave(64)[: layout.tokens]
    found = repaired(layout, 64)
    assert lacks[found].all() and lacks.sum() == found.stop - found.start


@pytest.mark.parametrize("layout", [(1, 5, 5, 20, 20), (2, 8, 8, 30, 40)])
def test_there_may_be_nothing_to_repair(layout):
    layout = VideoLayout(*layout)
    q, k, v, out = draw(4, 1, layout.tokens, 2, 16).unbind(0)
    mine = out.clone()
    repair(q, k, v, mine, repaired(layout, 128))
    assert torch.equal(mine, out)


def test_it_leaves_dense_outputs_as_they_are():
    q, k, v = draw(3, 1, 200, 2, 32).unbind(0)
    out = dense(q, k, v)
    mine = out.clone()
    repair(q, k, v, mine, slice(0, 200))
    torch.testing.assert_close(mine, out, rtol=0, atol=1e-5)


def test_it_finds_a_linear_loss():
    """Where what is missing is a linear function of what is there, it comes back."""
    q, k, v = draw(3, 1, 700, 2, 16).unbind(0)
    mixed = torch.eye(16) + 0.2 * draw(2, 16, 16, seed=1)
    full = dense(q, k, 3 * v)
    out = torch.einsum("bshd,hde->bshe", full, torch.linalg.inv(mixed))
    mine = out.clone()
    repair(q, k, 3 * v, mine, slice(0, 700))
    assert (mine - full).norm() < 0.25 * (out - full).norm()


@pytest.mark.parametrize("tokens", [5, ROWS, 1000, 69_120])
def test_the_exact_rows_are_spread_over_the_video(tokens):
    rows = exact_rows(7, 7 + tokens, CPU) - 7
    assert len(rows) == len(rows.unique()) == min(ROWS, tokens)
    assert 0 <= rows.min() and rows.max() < tokens
    run = tokens / len(rows)
    assert ((rows / run).long() - torch.arange(len(rows))).abs().max() <= 1
    if tokens == 69_120:  # frames of 3840 tokens in rows of 80
        assert len((rows % 80).unique()) > 40


@pytest.mark.parametrize("value", [0.0, torch.inf, torch.nan])
def test_a_head_without_a_fit_stays_as_it_is(value):
    sparse, full = draw(2, 1, 3, 128, 16).unbind(0)
    sparse[0, 1] = value
    matrix = fitted(sparse, full)
    assert matrix.isfinite().all() and (matrix[0, 1] == 0).all()
    assert matrix[0, 0].abs().sum() > 0 and matrix[0, 2].abs().sum() > 0


def test_a_large_channel_takes_nothing_from_the_others():
    sparse, full = draw(2, 1, 1, 128, 16).unbind(0)
    scale = torch.ones(16)
    scale[3] = 1000.0
    small, large = fitted(sparse, full), fitted(sparse * scale, full * scale)
    torch.testing.assert_close(large * scale[:, None] / scale, small, rtol=1e-3, atol=1e-4)


def test_a_matrix_beyond_half_precision_is_none():
    sparse, full = (x.half() for x in draw(2, 1, 1, 128, 16).unbind(0))
    sparse[..., 2] /= 2**20
    full[..., 5] = 60_000
    matrix = fitted(sparse, full)
    assert matrix.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    q, k, v, out = draw(4, 1, 260, 2, 64).to(dtype).unbind(0)
    expected = by_hand(q, k, v, out, slice(0, 260))
    mine = out.clone()
    repair(q, k, v, mine, slice(0, 260))
    assert mine.dtype == dtype
    assert (mine.double() - expected).norm() < 6 * torch.finfo(dtype).eps * expected.norm()


def test_autocast_changes_nothing():
    q, k, v, out = draw(4, 1, 260, 2, 64).bfloat16().unbind(0)
    plain, mine = out.clone(), out.clone()
    repair(q, k, v, plain, slice(0, 260))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        repair(q, k, v, mine, slice(0, 260))
    assert torch.equal(mine, plain)


@pytest.mark.parametrize(("head_dim", "is_built"), [(64, False), (64, True), (20, True)])
def test_dense_rows_where_torch_has_no_flash_attention(monkeypatch, head_dim, is_built):
    """As its builds for Windows."""
    asked = []

    class Aten(SimpleNamespace):
        def _scaled_dot_product_flash_attention(self, q, k, v, scale):
            asked.append(q.shape)
            return [scaled_dot_product_attention(q, k, v, scale=scale)]

    monkeypatch.setattr(rows_module, "aten", Aten())
    monkeypatch.setattr(rows_module, "capability", lambda device: (8, 6))
    is_available = "torch.backends.cuda.is_flash_attention_available"
    monkeypatch.setattr(is_available, lambda: is_built)
    q, k, v = draw(3, 1, 90, 2, head_dim).bfloat16().unbind(0)
    torch.testing.assert_close(dense_rows(q, k, v, 0.2), dense(q, k, v, 0.2))
    assert bool(asked) == (is_built and head_dim == 64)


def test_a_few_dense_rows():
    q, k, v = draw(3, 2, 90, 3, 16).unbind(0)
    rows = torch.tensor([3, 50, 89])
    found = dense_rows(q[:, rows], k, v, 0.2)
    torch.testing.assert_close(found, dense(q, k, v, 0.2)[:, rows])


def test_the_product_is_added_in_place_to_a_part():
    whole, matrices = draw(2, 100, 3, 16), draw(2, 3, 16, 16)
    before, part = whole.clone(), whole[:, 10:90]
    add_product(part, matrices)
    expected = before[:, 10:90] + torch.einsum("bshd,bhde->bshe", before[:, 10:90], matrices)
    torch.testing.assert_close(part, expected)
    assert torch.equal(whole[:, :10], before[:, :10])
