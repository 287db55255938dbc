"""Tables that leave out the rows that see everything, and those rows computed densely."""

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core import plan as plans
from radial_core.backends import cudnn, flex
from radial_core.dense_rows import fill_dense_rows
from radial_core.masks.per_head import MaskPerHead
from radial_core.plan import Plan
from radial_core.reference import reference_attention, reference_lse

# The tokens of the rows that hold text, in blocks of 64.
LAYOUTS = {
    "text before": (VideoLayout(9, 9, 15, prefix=70), [slice(0, 128)]),
    "text after": (VideoLayout(40, 5, 7, suffix=77), [slice(1344, 1477)]),
    "both": (VideoLayout(12, 8, 16, prefix=64, suffix=1), [slice(0, 64), slice(1600, 1601)]),
    "none": (VideoLayout(13, 9, 15), []),
}
on_layouts = pytest.mark.parametrize("layout, text", LAYOUTS.values(), ids=LAYOUTS)
on_heads = pytest.mark.parametrize("sinks", [(1,), (0, 2)], ids=["one list", "per head"])


@pytest.fixture
def any_table_is_large(monkeypatch):
    monkeypatch.setattr(plans, "TABLE_BYTES", 0)


def fresh_plan(layout, sinks, block_size=64):
    """Not the cached one, which may know its table."""
    mask = MaskPerHead(tuple(RadialPattern(0.1, sink, block_size) for sink in sinks))
    made = make_plan(mask, layout)
    return Plan(mask, layout, made.indptr, made.indices)


def draw(layout, dtype=torch.float64, heads=2):
    print(f"torch.manual_seed({torch.seed()})")  # shown if it fails
    return torch.randn(3, 2, layout.tokens, heads, 16, dtype=dtype).unbind(0)


def attend_by(table, plan, q, k, v):
    """What a backend makes of a table alone: out, and lse as float32."""
    kept = torch.zeros(plan.lists, plan.blocks, plan.blocks, dtype=torch.bool)
    lengths, listed = table
    for head in range(plan.lists):
        for row in range(plan.blocks):
            kept[head, row, listed[head, row, : lengths[head, row]].long()] = True
    block = torch.arange(plan.tokens) // plan.block_size
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~kept[:, block[:, None], block], -torch.inf)
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
    return out, scores.logsumexp(-1).float()


@on_heads
@on_layouts
def test_a_bounded_table_is_the_table_but_for_the_cut_rows(any_table_is_large, layout, text, sinks):
    plan = fresh_plan(layout, sinks)
    assert list(plan.cut_rows) == text
    (lengths, table), (whole_lengths, whole) = plan.bounded_table, plan.table
    cut = torch.zeros(plan.blocks, dtype=torch.bool)
    for tokens in text:
        cut[tokens.start // 64 : -(-tokens.stop // 64)] = True
    assert (lengths[:, cut] == 1).all() and not table[:, cut].any()
    assert torch.equal(lengths[:, ~cut], whole_lengths[:, ~cut])
    width = table.shape[2]
    assert torch.equal(table[:, ~cut], whole[:, ~cut, :width]) and width == lengths.max()
    if text:
        assert width < whole.shape[2] == plan.blocks


@on_heads
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@on_layouts
def test_with_the_dense_rows_it_equals_the_oracle(any_table_is_large, layout, text, sinks, dtype):
    plan = fresh_plan(layout, sinks)
    q, k, v = draw(layout, dtype)
    truth, true_lse = reference_attention(q, k, v, plan), reference_lse(q, k, plan)
    for wants_lse in (False, True):
        out, lse = attend_by(plan.bounded_table, plan, q, k, v)
        lse = lse if wants_lse else None
        if text:
            assert (out - truth).norm() > 0.05 * truth.norm()  # the kernel alone is wrong
        fill_dense_rows(out, lse, q, k, v, plan.cut_rows, q.shape[-1] ** -0.5)
        assert (out - truth).norm() < 1e-6 * truth.norm()
        if wants_lse:
            assert (lse - true_lse).norm() < 1e-6 * true_lse.norm()


def test_dense_rows_take_any_strides(any_table_is_large):
    layout, _ = LAYOUTS["both"]
    plan = fresh_plan(layout, (1,))
    q, k, v = (torch.stack([x, x], dim=-1)[..., 0].transpose(1, 2) for x in draw(layout))
    q, k, v = (x.contiguous().transpose(1, 2)[..., 1:] for x in (q, k, v))
    out, _ = attend_by(plan.bounded_table, plan, q, k, v)
    fill_dense_rows(out, None, q, k, v, plan.cut_rows, q.shape[-1] ** -0.5)
    truth = reference_attention(q, k, v, plan)
    assert (out - truth).norm() < 1e-6 * truth.norm()


def test_a_row_that_sees_everything_in_one_head_only_is_not_cut(any_table_is_large):
    layout = VideoLayout(13, 9, 15)
    plan = fresh_plan(layout, (0, 13))
    assert plan.density > 0.5 and plan.cut_rows == () and plan.bounded_table is plan.table


def test_small_tables_are_not_cut():
    plan = fresh_plan(VideoLayout(32, 45, 80, suffix=256), (1,), 128)  # 115k tokens
    assert plan.cut_rows == () and plan.bounded_table is plan.table


@pytest.mark.parametrize("block_size, mib", [(128, 11), (64, 36)])
def test_the_table_of_a_long_video_with_text_is_bounded(block_size, mib):
    """509 frames at 720p: all of it would be 49 and 198 MiB."""
    plan = fresh_plan(VideoLayout(128, 45, 80, suffix=256), (1,), block_size)
    assert sum(x.nbytes for x in plan.bounded_table) < mib * 2**20
    assert [rows.stop - rows.start for rows in plan.cut_rows] == [256]


def test_the_backends_take_the_bounded_table_without_gradients_and_else_the_whole(
    any_table_is_large, monkeypatch
):
    plan = fresh_plan(LAYOUTS["both"][0], (1,))
    assert torch.equal(flex.block_mask(plan, False).full_kv_indices[0], plan.bounded_table[1])
    assert torch.equal(flex.block_mask(plan, True).full_kv_indices[0], plan.table[1])
    tables = []

    def forward(q, k, v, plan, softmax_scale, table):
        tables.append(table)
        return attend_by(table, plan, q, k, v)

    monkeypatch.setattr(cudnn, "_forward", forward)
    q, k, v = draw(plan.layout)
    truth = reference_attention(q, k, v, plan)
    for grad in (False, True):
        out, _ = cudnn.run(q.requires_grad_(grad), k, v, plan, q.shape[-1] ** -0.5, False)
        assert (out - truth).norm() < 1e-6 * truth.norm()
    assert tables[0] is plan.bounded_table and tables[1] is plan.table
