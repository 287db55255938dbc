"""Lists for each head, and tables that leave out the rows with text, on every backend."""

from dataclasses import replace

import pytest
import torch
from test_backends import (
    DEVICE,
    HALVES,
    KERNELS,
    LAYOUTS,
    dense_error,
    draw,
    exact_dense,
    gradient_errors,
    relative_rms,
    sdpa,
    skip_unless,
)

from radial_core import RadialPattern, VideoLayout, make_plan, radial_attention
from radial_core import plan as plans
from radial_core.masks.per_head import MaskPerHead
from radial_core.reference import reference_attention, reference_lse

BY_TABLE = ("flash_attention", "cudnn", "flex")
SHAPES = [(2, 3, 128), (1, 2, 64)]
on_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "b{}h{}d{}".format(*s))
on_block_sizes = pytest.mark.parametrize("block_size", [64, 128])
on_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(autouse=True)
def fresh_seed():
    print(f"torch.manual_seed({torch.seed()})")  # shown if a test fails


def plan_of(layout, heads, block_size):
    """A list for each head; a fresh plan, which knows no table yet."""
    masks = tuple(RadialPattern(0.2, sink, block_size) for sink in range(heads))
    return replace(make_plan(MaskPerHead(masks), layout, DEVICE))


@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@on_block_sizes
@on_shapes
@on_layouts
@pytest.mark.parametrize("backend", KERNELS)
def test_lists_per_head(backend, layout, shape, block_size, dtype):
    skip_unless(backend, dtype, shape[-1], block_size, per_head=True)
    if backend == "flex" and (shape, dtype) != (SHAPES[0], torch.bfloat16):
        pytest.skip("compiles for each shape: a sample of them")
    q, k, v = draw(layout, shape, dtype)
    plan = plan_of(layout, shape[1], block_size)
    out = radial_attention(q, k, v, plan, backend)
    assert out.shape == q.shape and out.dtype == dtype
    assert relative_rms(out, reference_attention(q, k, v, plan)) <= 1.5 * dense_error(q, k, v)


@on_block_sizes
@pytest.mark.parametrize("backend", KERNELS)
def test_lse_of_lists_per_head(backend, block_size):
    skip_unless(backend, torch.bfloat16, 128, block_size, lse=True, per_head=True)
    layout = LAYOUTS["both"]
    q, k, v = draw(layout, (2, 3, 128), torch.bfloat16)
    plan = plan_of(layout, 3, block_size)
    _, lse = radial_attention(q, k, v, plan, backend, return_lse=True)
    assert relative_rms(lse, reference_lse(q, k, plan)) < 1e-5


@on_block_sizes
@on_shapes
@on_layouts
@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_of_lists_per_head(backend, layout, shape, block_size):
    skip_unless(backend, torch.bfloat16, shape[-1], block_size, grad=True, per_head=True)
    if backend == "flex" and layout != LAYOUTS["both"]:
        pytest.skip("compiles for each shape: a sample of them")
    q, k, v = draw(layout, shape, torch.bfloat16)
    plan, weight = plan_of(layout, shape[1], block_size), torch.randn_like(q)
    radial = gradient_errors(
        lambda *qkv: radial_attention(*qkv, plan, backend),
        lambda *qkv: reference_attention(*qkv, plan),
        *(q, k, v, weight),
    )
    dense = gradient_errors(sdpa, exact_dense, q, k, v, weight)
    for ours, theirs in zip(radial, dense, strict=True):
        assert ours <= 1.5 * theirs


@pytest.mark.parametrize("heads", [1, 3], ids=["one list", "per head"])
@pytest.mark.parametrize("wants_lse", [False, True], ids=["out", "lse"])
@on_block_sizes
@pytest.mark.parametrize("name", ["text before", "text after", "both"])
@pytest.mark.parametrize("backend", BY_TABLE)
def test_cut_rows_are_computed_densely(monkeypatch, backend, name, block_size, wants_lse, heads):
    monkeypatch.setattr(plans, "TABLE_BYTES", 0)
    per_head = heads > 1
    skip_unless(backend, torch.bfloat16, 128, block_size, lse=wants_lse, per_head=per_head)
    layout = replace(LAYOUTS[name], frames=40)
    q, k, v = draw(layout, (2, 3, 128), torch.bfloat16)
    plan = plan_of(layout, heads, block_size)
    assert plan.cut_rows and plan.bounded_table[1].shape[2] < plan.blocks
    with torch.inference_mode():
        for first in (True, False):
            torch.cuda.set_sync_debug_mode("default" if first else "error")
            try:
                out = radial_attention(q, k, v, plan, backend, return_lse=wants_lse)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    out, lse = out if wants_lse else (out, None)
    assert relative_rms(out, reference_attention(q, k, v, plan)) <= 1.5 * dense_error(q, k, v)
    if wants_lse:
        assert relative_rms(lse, reference_lse(q, k, plan)) < 1e-5


@pytest.mark.parametrize("backend", BY_TABLE)
def test_gradients_take_the_whole_table(monkeypatch, backend):
    monkeypatch.setattr(plans, "TABLE_BYTES", 0)
    skip_unless(backend, torch.bfloat16, 128, 128, grad=True)
    q, k, v = draw(LAYOUTS["both"], (2, 3, 128), torch.bfloat16)
    plan, weight = plan_of(LAYOUTS["both"], 1, 128), torch.randn_like(q)
    radial = gradient_errors(
        lambda *qkv: radial_attention(*qkv, plan, backend),
        lambda *qkv: reference_attention(*qkv, plan),
        *(q, k, v, weight),
    )
    dense = gradient_errors(sdpa, exact_dense, q, k, v, weight)
    for ours, theirs in zip(radial, dense, strict=True):
        assert ours <= 1.5 * theirs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("wants_lse", [False, True], ids=["out", "lse"])
def test_dense_rows(wants_lse, dtype):
    """Without a kernel in front: what torch computes is what is written, and nothing else."""
    from radial_core.dense_rows import fill_dense_rows

    layout = VideoLayout(9, 9, 15, prefix=77, suffix=100)
    q, k, v = draw(layout, (2, 3, 128), dtype)
    everything = make_plan(RadialPattern(1.0, layout.frames), layout, DEVICE)
    out, lse = torch.zeros_like(q), torch.zeros(2, 3, layout.tokens, device=DEVICE)
    rows = (slice(0, 128), slice(1280, layout.tokens))
    fill_dense_rows(out, lse if wants_lse else None, q, k, v, rows, 128**-0.5)
    truth, true_lse = reference_attention(q, k, v, everything), reference_lse(q, k, everything)
    bound = 5 * torch.finfo(dtype).eps if dtype != torch.float32 else 1e-3  # it may be TF32
    for part in rows:
        assert relative_rms(out[:, part], truth[:, part]) < bound
        if wants_lse:
            assert relative_rms(lse[:, :, part], true_lse[:, :, part]) < max(bound / 10, 1e-5)
    assert not out[:, 128:1280].any() and not lse[:, :, 128:1280].any()
