"""Masks with lists of their own for each head, from the plan to the backends."""

import logging

import pytest
import torch
from registering import forget, register

from radial_core import RadialPattern, VideoLayout, make_plan, proof
from radial_core.attention import attend, radial_attention
from radial_core.backends import cudnn, flash_attention, flashinfer, flex, sdpa
from radial_core.backends import reference as oracle
from radial_core.backends.contract import EXACT
from radial_core.call import Call
from radial_core.mask_sample import sample
from radial_core.masks.per_head import MaskPerHead
from radial_core.reference import reference_attention, reference_lse

CPU = torch.device("cpu")
LAYOUTS = {
    "whole blocks": VideoLayout(6, 8, 16),
    "frames straddle blocks, text on both sides": VideoLayout(7, 9, 15, prefix=77, suffix=31),
    "frames smaller than a block": VideoLayout(13, 5, 7, suffix=3),
    "one frame": VideoLayout(1, 12, 20, prefix=5),
    "one block": VideoLayout(2, 3, 5),
}
on_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
on_block_sizes = pytest.mark.parametrize("block_size", [64, 128])


def masks_of(block_size):
    """One for each of three heads: each drops blocks that another keeps."""
    return tuple(
        RadialPattern(decay, sink, block_size) for decay, sink in ((1, 0), (0.1, 2), (4, 9))
    )


def plans_of(layout, block_size):
    """A plan with a list for each head, and for each head a plan of its own."""
    masks = masks_of(block_size)
    return make_plan(MaskPerHead(masks), layout), [make_plan(mask, layout) for mask in masks]


def draw(layout, batch=2, head_dim=16, dtype=torch.float64):
    return torch.randn(3, batch, layout.tokens, 3, head_dim, dtype=dtype).unbind(0)


def relative_rms(x, y):
    return ((x.double() - y).norm() / y.norm()).item()


@pytest.fixture(autouse=True)
def fresh_seed():
    print(f"torch.manual_seed({torch.seed()})")  # shown if a test fails


@on_block_sizes
@on_layouts
def test_a_plan_has_the_lists_of_each_heads_mask(layout, block_size):
    plan, plans = plans_of(layout, block_size)
    assert plan.per_head and plan.lists == 3 and not plans[0].per_head
    assert plan.indptr.dtype == plan.indices.dtype == torch.int32
    assert torch.equal(plan.block_mask(), torch.stack([one.block_mask() for one in plans]))
    for share in ("density", "video_density"):
        mean = sum(getattr(one, share) for one in plans) / 3
        assert getattr(plan, share) == pytest.approx(mean)
    for name, mask in (("table", plan.block_mask()), ("columns", plan.block_mask().mT)):
        lengths, table = getattr(plan, name)
        assert lengths.dtype == table.dtype == torch.int32
        kept = torch.zeros_like(mask)
        for head, row in torch.cartesian_prod(torch.arange(3), torch.arange(plan.blocks)).tolist():
            listed = table[head, row, : lengths[head, row]].long()
            assert (listed.diff() > 0).all() and not table[head, row, len(listed) :].any()
            kept[head, row, listed] = True
        assert torch.equal(kept, mask)


def test_the_heads_of_a_sample_are_those_of_the_plan():
    layout = LAYOUTS["frames straddle blocks, text on both sides"]
    plan, plans = plans_of(layout, 64)
    for head, one in enumerate(plans):
        assert sample(plan.mask, layout, head).density == pytest.approx(one.density)


@on_layouts
def test_the_oracle_gives_each_head_its_own_mask(layout):
    plan, plans = plans_of(layout, 64)
    q, k, v = draw(layout)
    out, lse = reference_attention(q, k, v, plan), reference_lse(q, k, plan)
    for head, one in enumerate(plans):
        of_head = [x[:, :, head : head + 1] for x in (q, k, v)]
        assert torch.equal(out[:, :, head : head + 1], reference_attention(*of_head, one))
        assert torch.equal(lse[:, head : head + 1], reference_lse(*of_head[:2], one))


@on_block_sizes
@on_layouts
def test_sdpa_equals_the_oracle_forward_and_backward(layout, block_size):
    plan, _ = plans_of(layout, block_size)
    tensors = [x.requires_grad_() for x in draw(layout)]
    ours, truth = radial_attention(*tensors, plan, "sdpa"), reference_attention(*tensors, plan)
    assert ours.shape == truth.shape and relative_rms(ours, truth) < 1e-12
    weight = torch.randn_like(truth)
    pairs = zip(*(torch.autograd.grad(x, tensors, weight) for x in (ours, truth)), strict=True)
    assert all(relative_rms(a, b) < 1e-12 for a, b in pairs)


def test_the_libraries_tables_have_a_list_for_each_head():
    plan, _ = plans_of(LAYOUTS["frames straddle blocks, text on both sides"], 64)
    lists = flash_attention.block_lists(*plan.table)
    assert all(x.shape[:3] == (1, 3, plan.blocks) for x in lists.values())
    counts, indices = cudnn.block_lists(*plan.table, 2, 3)
    assert counts.shape == (2, 3, plan.blocks) and torch.equal(indices[1], plan.table[1])
    for grad in (False, True):
        mask = flex.block_mask(plan, grad)
        assert mask.full_kv_num_blocks.shape == mask.kv_num_blocks.shape == (1, 3, plan.blocks)
        assert torch.equal(mask.full_kv_indices[0], plan.table[1])
    assert torch.equal(mask.full_q_indices[0], plan.columns[1])


def test_the_number_of_heads_must_be_that_of_the_plan():
    layout = LAYOUTS["one block"]
    q = torch.randn(1, layout.tokens, 2, 16)
    with pytest.raises(ValueError, match="must have 3 heads, .* got 2"):
        radial_attention(q, q, q, plans_of(layout, 64)[0])


def test_masks_of_one_plan_share_a_block_size():
    with pytest.raises(ValueError, match=r"one block size, got \[64, 128\]"):
        MaskPerHead((RadialPattern(1.0, 1, 64), RadialPattern(1.0, 1, 128)))
    with pytest.raises(ValueError, match=r"got \[\]"):
        MaskPerHead(())


def test_flashinfer_says_that_it_cannot():
    assert "for all heads" in flashinfer.why_not(Call(CPU, torch.float16, 64, 64, per_head=True))


class FirstListForAll:
    """A backend that is exact but for lists per head, of which it walks the first."""

    ACCURACY = EXACT

    def why_not(self, call):
        return None

    def run(self, q, k, v, plan, *rest):
        first = plan.mask.masks[0] if plan.per_head else plan.mask
        return oracle.run(q, k, v, make_plan(first, plan.layout), *rest)


@pytest.fixture
def first_list_for_all(monkeypatch):
    """That backend in front of sdpa, in a process that has proven none."""
    register(monkeypatch, first=FirstListForAll(), sdpa=sdpa)
    monkeypatch.setattr(proof, "LAYOUT", VideoLayout(9, 5, 9, prefix=7, suffix=5))
    forget()
    yield
    forget()


def test_a_backend_proves_lists_per_head_apart(first_list_for_all, caplog):
    layout = LAYOUTS["frames smaller than a block"]
    plan, plans = plans_of(layout, 64)
    q, k, v = draw(layout, dtype=torch.float32)
    with caplog.at_level(logging.WARNING, "radial_attention"):
        assert attend(q, k, v, plans[0])[2] == "first"
        out, _, name = attend(q, k, v, plan)
    assert name == "sdpa" and relative_rms(out, reference_attention(q, k, v, plan)) < 1e-5
    assert "per_head" in caplog.text and "relative error of its output" in caplog.text
