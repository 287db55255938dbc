"""Any mask makes a plan: here one that is not radial, with overlapping and empty runs."""

from dataclasses import dataclass

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, make_plan, radial_attention
from radial_core.mask_sample import sample
from radial_core.masks.mask import kept_runs
from radial_core.masks.per_head import MaskPerHead
from radial_core.reference import reference_attention

LAYOUTS = {
    "video alone": VideoLayout(9, 9, 15),
    "text on both sides": VideoLayout(9, 9, 15, prefix=77, suffix=31),
    "text fills blocks": VideoLayout(6, 8, 16, prefix=128, suffix=64),
    "one block": VideoLayout(2, 3, 5, suffix=1),
}


@dataclass(frozen=True)
class EveryOther:
    """A row keeps itself, and every `step`-th block up to itself, as overlapping and empty runs."""

    step: int
    block_size: int = 64
    name: str = "every other"
    heads: int = 1

    def most_runs(self, layout):
        return 2 * layout.blocks(self.block_size) + 1

    def key_runs(self, layout, rows, head=0):
        first = torch.arange(0, layout.blocks(self.block_size), self.step).repeat_interleave(2)
        first = first.expand(len(rows), -1)
        last = torch.where(first <= rows[:, None], first, -1)
        first = torch.cat([first, rows[:, None]], 1).sort(dim=1)
        last = torch.cat([last, rows[:, None]], 1).gather(1, first.indices)
        return first.values, last


def block_map(mask, layout):
    """The same, block by block."""
    size, blocks = mask.block_size, layout.blocks(mask.block_size)
    kept = torch.zeros(blocks, blocks, dtype=torch.bool)
    video = range(layout.prefix, layout.prefix + layout.video_tokens)
    for p in range(blocks):
        for q in range(blocks):
            tokens = (*range(p * size, p * size + size), *range(q * size, q * size + size))
            text = any(t not in video for t in tokens if t < layout.tokens)
            kept[p, q] = text or p == q or (q < p and q % mask.step == 0)
    return kept


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_plan_and_a_sample_hold_any_mask_and_the_text(layout, step):
    mask, expected = EveryOther(step), block_map(EveryOther(step), layout)
    plan, rows = make_plan(mask, layout), sample(mask, layout)
    assert torch.equal(plan.block_mask(), expected)
    assert rows.exact and rows.density == pytest.approx(expected.float().mean().item())


def test_rows_come_in_any_order_and_runs_do_not_overlap():
    layout, mask = LAYOUTS["text on both sides"], EveryOther(2)
    rows = torch.randperm(layout.blocks(64))
    first, last = kept_runs(mask, layout, rows)
    assert (last >= first - 1).all()
    assert torch.equal((last - first + 1).sum(1), block_map(mask, layout)[rows].sum(1))


def test_heads_may_have_masks_of_different_kinds():
    layout = LAYOUTS["text on both sides"]
    masks = EveryOther(2), RadialPattern(0.1, 0, 64)
    plan = make_plan(MaskPerHead(masks), layout)
    assert plan.mask.name == "every other / radial"
    assert torch.equal(
        plan.block_mask(), torch.stack([make_plan(m, layout).block_mask() for m in masks])
    )
    q, k, v = torch.randn(3, 2, layout.tokens, 2, 16, dtype=torch.float64).unbind(0)
    out, truth = radial_attention(q, k, v, plan), reference_attention(q, k, v, plan)
    assert (out - truth).norm() < 1e-12 * truth.norm()
