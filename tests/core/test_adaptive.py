"""Adaptive lists: where heads look, what they keep of it, and how that is kept."""

from itertools import pairwise

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, make_plan, radial_attention
from radial_core.adaptive import lists, mass
from radial_core.adaptive.bits import packed, unpacked, unpacked_indices
from radial_core.adaptive.choice import Rows, backbone, most_attended, rows_of
from radial_core.adaptive.lists import AdaptiveLists, look
from radial_core.adaptive.mass import block_mass
from radial_core.reference import reference_attention

LAYOUTS = {
    "whole blocks": VideoLayout(6, 8, 16),
    "frames straddle blocks, text on both sides": VideoLayout(7, 9, 15, prefix=77, suffix=31),
    "frames smaller than a block, text after": VideoLayout(33, 5, 7, suffix=3),
    "text before": VideoLayout(9, 7, 13, prefix=70),
    "one frame": VideoLayout(1, 12, 20, prefix=5),
    "one block": VideoLayout(2, 3, 5),
}
HEADS, HEAD_DIM = 3, 16
on_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
on_block_sizes = pytest.mark.parametrize("block_size", [64, 128])
on_budgets = pytest.mark.parametrize("budget", [0.0, 0.67, 1.0, 1.5])


@pytest.fixture(autouse=True)
def fresh_seed():
    print(f"torch.manual_seed({torch.seed()})")  # shown if a test fails


def draw(tokens, factor=3.0):
    q, k, v = torch.randn(3, tokens, HEADS, HEAD_DIM).unbind(0)
    return factor * q, k, v


def plan_of(layout, block_size=64):
    return make_plan(RadialPattern(0.2, 1, block_size), layout)


def mass_of_all(layout, block_size=64):
    """Made-up mass, in which some blocks have none, and many of them the same."""
    blocks = layout.blocks(block_size)
    drawn = torch.randint(5, (HEADS, blocks, blocks)).float()
    return drawn / drawn.sum(dim=-1, keepdim=True).clamp(min=1)


def dense_mass(q, k, block_size, scale):
    """In float64, from the weights of dense attention, one row of blocks after another."""
    tokens = len(q)
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * scale
    weights = (scores.exp() / scores.exp().sum(dim=-1, keepdim=True)).split(block_size, dim=2)
    weights = torch.stack([part.sum(dim=-1) for part in weights], dim=-1)
    rows = []
    for first in range(0, tokens, block_size):
        asked = [min(first + i, tokens - 1) for i in range(2, block_size, 4)]
        rows.append(weights[:, asked].mean(dim=1))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("at_once", [1, mass.SCORES_AT_ONCE])
@pytest.mark.parametrize("scale", [None, 0.1])
@on_block_sizes
@pytest.mark.parametrize("tokens", [1, 64, 200, 513])
def test_mass_is_that_of_dense_attention(monkeypatch, tokens, block_size, scale, at_once):
    monkeypatch.setattr(mass, "SCORES_AT_ONCE", at_once)
    q, k, _ = draw(tokens)
    found = block_mass(q, k, block_size, scale)
    assert found.dtype == torch.float32
    expected = dense_mass(q, k, block_size, scale or HEAD_DIM**-0.5)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_large_products_do_not_overflow_in_float16():
    q = torch.full((70, 1, 128), 40.0, dtype=torch.float16)
    assert torch.allclose(block_mass(q, q, 64).sum(dim=-1), torch.ones(2))


@on_block_sizes
@on_layouts
def test_the_backbone_is_text_and_what_is_near(layout, block_size):
    kept = backbone(layout, block_size)
    is_text = torch.ones(layout.tokens, dtype=torch.bool)
    is_text[layout.prefix : layout.prefix + layout.video_tokens] = False
    has_text = [bool(part.any()) for part in is_text.split(block_size)]
    for p, row in enumerate(kept.tolist()):
        middle = p * block_size + block_size // 2
        places = [(middle + f * layout.tokens_per_frame) // block_size for f in (-1, 0, 1)]
        for b, found in enumerate(row):
            near = any(abs(place - b) <= 1 for place in places)
            assert found == (has_text[p] or has_text[b] or near), (p, b)


@on_budgets
@on_block_sizes
@on_layouts
def test_rows_have_their_lengths_and_the_backbone(layout, block_size, budget):
    plan, found = plan_of(layout, block_size), mass_of_all(layout, block_size)
    rows = rows_of(plan, budget)
    kept = most_attended(found, rows)
    radial = plan.block_mask().sum(dim=1)
    least = backbone(layout, block_size).sum(dim=1)
    wanted = torch.maximum((radial * budget).round().clamp(max=plan.blocks), least).long()
    assert torch.equal(rows.lengths, wanted)
    assert rows.total == wanted.sum() and rows.density == kept[0].float().mean()
    assert torch.equal(kept.sum(dim=-1), wanted.expand(HEADS, -1)) and wanted.min() > 0
    assert kept[:, rows.backbone].all()
    # Nothing that was left out has more than something that was kept beside the backbone.
    chosen = found.masked_fill(~kept | rows.backbone, torch.inf).amin(dim=-1)
    assert (found.masked_fill(kept, 0).amax(dim=-1) <= chosen).all()


def test_of_equals_the_first_are_kept():
    rows = Rows(torch.eye(6, dtype=torch.bool), torch.full((6,), 3), 18)
    kept = most_attended(torch.ones(1, 6, 6), rows)
    assert kept[0].nonzero()[:, 1].view(6, 3).tolist() == [
        [0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 3], [0, 1, 4], [0, 1, 5]
    ]  # fmt: skip


@on_layouts
def test_a_larger_budget_keeps_the_same_blocks_and_more(layout):
    plan, found = plan_of(layout), mass_of_all(layout)
    kept = [most_attended(found, rows_of(plan, budget)) for budget in (0.3, 0.67, 1.0, 1.2, 9.0)]
    for smaller, larger in pairwise(kept):
        assert (larger | ~smaller).all()
    assert kept[-1].all()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 77])
def test_bits_come_back(n):
    kept = torch.rand(2, n, n) < 0.4
    bits = packed(kept)
    assert bits.shape == (2, n, -(-n // 8)) and bits.dtype == torch.uint8
    assert torch.equal(unpacked(bits, n), kept)
    ends = kept.sum(dim=-1).flatten().cumsum(0)
    indptr = torch.cat([torch.zeros(1), ends]).int().unfold(0, n + 1, n)
    indices = unpacked_indices(bits, indptr, int(kept.sum()))
    assert indices.dtype == torch.int32 and torch.equal(indices, kept.nonzero()[:, -1].int())


@pytest.mark.parametrize("blocks_at_once", [1, 2**24])
@on_block_sizes
@on_layouts
def test_a_look_becomes_a_plan(monkeypatch, layout, block_size, blocks_at_once):
    monkeypatch.setattr("radial_core.adaptive.lists.BLOCKS_AT_ONCE", blocks_at_once)
    q, k, v = draw(layout.tokens)
    radial = plan_of(layout, block_size)
    lists = look(q, k, radial, 0.67, softmax_scale=0.5)
    plan = lists.plan()
    found = block_mass(q, k, block_size, 0.5)
    kept = most_attended(found, rows_of(radial, 0.67))
    assert torch.equal(plan.block_mask(), kept) and plan.indices.dtype == torch.int32
    assert plan.lists == HEADS and plan.density == pytest.approx(lists.rows.density)

    exact = dense_mass(q, k, block_size, 0.5)
    for share, blocks in zip(lists.attended, (kept, radial.block_mask()), strict=True):
        assert share == pytest.approx((exact * blocks).sum(dim=-1).mean().item(), abs=1e-5)

    dropped = ~kept.repeat_interleave(block_size, 1).repeat_interleave(block_size, 2)
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * 0.5
    scores.masked_fill_(dropped[:, : layout.tokens, : layout.tokens], -torch.inf)
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v.double())
    q, k, v = q[None], k[None], v[None]
    torch.testing.assert_close(reference_attention(q, k, v, plan, 0.5)[0], expected)
    out = radial_attention(q, k, v, plan, softmax_scale=0.5)[0]
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_lists_share_what_does_not_depend_on_them():
    radial = plan_of(LAYOUTS["text before"])
    q, k, _ = draw(radial.tokens)
    lists = look(q, k, radial)
    one, other = lists.plan(), lists.plan()
    assert one.order is other.order is radial.order
    assert one.layout is radial.layout and one.block_size == radial.block_size


def test_two_looks_find_the_same():
    radial = plan_of(LAYOUTS["whole blocks"])
    q, k, _ = draw(radial.tokens)
    assert torch.equal(look(q, k, radial).bits, look(q.clone(), k.clone(), radial).bits)


def test_more_blocks_than_a_plan_can_keep_are_refused(monkeypatch):
    plan = plan_of(LAYOUTS["whole blocks"])
    q, k, _ = draw(plan.tokens)
    kept = look(q, k, plan).plan().indices.numel()
    monkeypatch.setattr(lists, "MOST_KEPT", kept)
    assert look(q, k, plan).plan().indices.numel() == kept
    monkeypatch.setattr(lists, "MOST_KEPT", kept - 1)
    with pytest.raises(OverflowError, match=f"{kept:,} blocks"):
        look(q, k, plan)


def test_the_lists_of_a_large_model_are_small():
    """Wan 14B, 81 frames, 720p: 40 heads in each of 40 transformer blocks."""
    radial = make_plan(RadialPattern(0.2, 1), VideoLayout(21, 45, 80))
    bits = packed(torch.zeros(40, radial.blocks, radial.blocks, dtype=torch.bool))
    lists = AdaptiveLists(radial, rows_of(radial, 1.0), bits, torch.zeros(2))
    assert 40 * lists.bytes < 75e6
