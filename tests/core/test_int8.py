"""Our 8-bit kernels in Triton's interpreter: against the oracle, and why each of their tricks."""

import pytest
import torch
from hard_inputs import BAR, HARD, draw, draw_loud_token, error_of, errors_of_loud_token

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.backends import triton_int8
from radial_core.masks.per_head import MaskPerHead
from radial_core.reference import reference_attention, reference_lse

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from radial_core.kernels import int8_launch, tuning  # noqa: E402
from radial_core.kernels.int8 import _weights  # noqa: E402
from radial_core.kernels.int8_quantize import _quantize_v  # noqa: E402
from radial_core.kernels.portable_launch import Tiles  # noqa: E402
from radial_core.kernels.tuning import INT8, SAFE  # noqa: E402

DTYPE = torch.float16  # the interpreter gets bfloat16 wrong
LAYOUTS = {
    "frames straddle blocks, text on both sides": VideoLayout(3, 7, 9, prefix=3, suffix=50),
    "whole blocks": VideoLayout(5, 4, 16),
    "a tail that few rows attend to": VideoLayout(6, 8, 9),
    "a tail of more than 64 tokens": VideoLayout(3, 8, 14),
    "a tail of one token": VideoLayout(4, 8, 8, suffix=1),
    "one block": VideoLayout(2, 3, 5),
    "one frame": VideoLayout(1, 10, 20, prefix=7),
    "frames smaller than a block": VideoLayout(9, 5, 7, prefix=3, suffix=20),
}
# As the kernel's results depend on them: in the interpreter there are no warps, and no stages.
SIZES = [
    (block_size, *size)
    for block_size, options in INT8.candidates.items()
    for size in sorted({(each.block_m, each.block_n) for each in (*options, *INT8.elsewhere)})
    if size[0] <= block_size
]


def plan_of(layout, block_size=64, sinks=(0,)):
    """sinks: one for each head, or one for all."""
    return make_plan(MaskPerHead(tuple(RadialPattern(0.2, s, block_size) for s in sinks)), layout)


def check(plan, qkv, tiles=SAFE, scale=0.1):
    out, lse = triton_int8.run(*qkv, plan, scale, True, config=tiles)
    assert out.shape == qkv[0].shape and out.dtype == DTYPE and out.is_contiguous()
    truth = reference_attention(*qkv, plan, scale)
    assert error_of("normal", out, truth) <= triton_int8.ACCURACY.tolerance[DTYPE] == BAR
    apart = lse - reference_lse(*qkv[:2], plan, scale)
    assert apart.square().mean().sqrt() <= BAR


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("block_size", [64, 128])
def test_equals_the_oracle(layout, block_size):
    tiles = SAFE if block_size == 64 else Tiles(128, 128, 8, 3)
    check(plan_of(layout, block_size), draw("normal", layout, (1, 1, 64), DTYPE), tiles)


@pytest.mark.parametrize("block_size, block_m, block_n", SIZES)
def test_all_tiles_of_the_tuner_are_right(block_size, block_m, block_n):
    layout = VideoLayout(4, 9, 9, prefix=2, suffix=5)
    tiles = Tiles(block_m, block_n, 4, 2)
    check(plan_of(layout, block_size), draw("normal", layout, (1, 1, 128), DTYPE), tiles)


@pytest.mark.parametrize("batch, block_size", [(2, 64), (1, 128)])
def test_walks_a_list_for_each_head(batch, block_size):
    layout = VideoLayout(9, 5, 7, prefix=3, suffix=20)
    plan = plan_of(layout, block_size, sinks=(0, 3, 9))
    assert plan.lists == 3
    check(plan, draw("normal", layout, (batch, 3, 64), DTYPE), Tiles(64, 128, 4, 3))


@pytest.mark.parametrize("tokens", [300, 256, 40])
def test_dense_walks_one_list_for_all_rows(monkeypatch, tokens):
    monkeypatch.setattr(tuning, "best_config", lambda *_: Tiles(128, 128, 8, 3))  # needs a GPU
    layout = VideoLayout(1, 1, tokens)
    q, k, v = draw("normal", layout, (2, 2, 64), DTYPE)
    out = triton_int8.dense(q, k, v, 0.1)
    truth = reference_attention(q, k, v, plan_of(layout), 0.1)
    assert error_of("normal", out, truth) <= BAR


def heads_first(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def third_of_qkv(x):
    return torch.stack([x * torch.nan, x, x * torch.nan], dim=2)[:, :, 1]


def after_other_tokens(x):
    return torch.cat([x[:, :8] * torch.nan, x], dim=1)[:, 8:]


def every_other_channel(x):
    return torch.stack([x, x * torch.nan], dim=-1)[..., 0]


CHANGES = (heads_first, third_of_qkv, after_other_tokens, every_other_channel)


@pytest.mark.parametrize("first", range(len(CHANGES)))
def test_memory_layouts_change_nothing(first):
    """Each of q, k and v in another one."""
    layout = VideoLayout(3, 5, 6, prefix=3)
    qkv, plan = draw("normal", layout, (2, 2, 64), DTYPE), plan_of(layout)
    changed = [(CHANGES * 2)[first + i](x) for i, x in enumerate(qkv)]
    expected, out = (triton_int8.run(*x, plan, 0.1, True, config=SAFE) for x in (qkv, changed))
    assert all(torch.equal(*pair) for pair in zip(expected, out, strict=True))


def test_inputs_stay_as_they_were_and_the_same_come_out_the_same():
    layout = VideoLayout(3, 5, 6, prefix=3)
    plan, qkv = plan_of(layout), draw("channel biases", layout, (1, 2, 64), DTYPE)
    before = [x.clone() for x in qkv]
    first, second = (triton_int8.run(*qkv, plan, 0.1, True, config=SAFE) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(before, qkv, strict=True))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("sinks", [(0,), (0, 3, 6)], ids=["one list", "lists per head"])
def test_heads_are_computed_a_few_at_a_time(monkeypatch, sinks):
    """Two and one, where the codes of three would take too much memory."""
    layout = VideoLayout(6, 6, 8, suffix=3)
    plan = plan_of(layout, sinks=sinks)
    assert plan.lists == 1 or not torch.equal(*plan.indptr[[0, 2]])
    qkv = draw("channel biases", layout, (2, 3, 64), DTYPE)
    launches, launch = [], int8_launch.launch

    def count(key, kernel, grid, *rest, **options):
        launches.append((kernel, grid))
        return launch(key, kernel, grid, *rest, **options)

    monkeypatch.setattr(int8_launch, "launch", count)
    expected = triton_int8.run(*qkv, plan, 0.1, True, config=SAFE)
    codes_of_a_head = 2 * 2 * plan.blocks * 64 * 64
    monkeypatch.setattr(int8_launch, "CODES_AT_ONCE", 3 * codes_of_a_head - 1)
    out = triton_int8.run(*qkv, plan, 0.1, True, config=SAFE)
    assert [grid[1] for kernel, grid in launches if kernel is int8_launch.attend] == [6, 4, 2]
    assert all(torch.equal(*pair) for pair in zip(expected, out, strict=True))


@pytest.mark.parametrize("name", [name for name in HARD if DTYPE in HARD[name].dtypes])
def test_hard_inputs(name):
    layout = VideoLayout(5, 6, 9, prefix=3, suffix=1)
    qkv, plan = draw(name, layout, (1, 2, 128), DTYPE), plan_of(layout, 128)
    out, lse = triton_int8.run(*qkv, plan, 128**-0.5, True, config=Tiles(128, 128, 8, 3))
    assert out.isfinite().all() and lse.isfinite().all()
    if HARD[name].bound is not None:
        assert error_of(name, out, reference_attention(*qkv, plan)) <= HARD[name].bound
        assert (lse - reference_lse(*qkv[:2], plan)).square().mean().sqrt() <= BAR


def test_any_scale_is_finite():
    """The largest that q and k may have in bfloat16, which the interpreter gets wrong."""
    layout = VideoLayout(5, 6, 9)
    qkv = draw("normal", layout, (1, 1, 64), DTYPE)
    out, _ = triton_int8.run(*qkv, plan_of(layout), 1e38, False, config=SAFE)
    assert out.isfinite().all()


def test_in_the_tail_only_tokens_count():
    """Where all of its scores are far below 0, which is that of the places after the last token."""
    layout = VideoLayout(6, 8, 9)
    plan = plan_of(layout)
    attended = plan.block_mask()[-1].repeat_interleave(64)[: layout.tokens]
    assert not attended.all()
    q, k, v = draw("normal", layout, (1, 1, 64), DTYPE)
    k[:, ~attended] += 2  # and so the mean of all
    check(plan, (q + 1, k, v))


def test_a_loud_token_costs_only_the_blocks_that_attend_to_it():
    layout = VideoLayout(12, 4, 12)
    plan, qkv = plan_of(layout), draw_loud_token(layout, (1, 1, 64), DTYPE)
    out, _ = triton_int8.run(*qkv, plan, 64**-0.5, False, config=SAFE)
    assert max(errors_of_loud_token(out, reference_attention(*qkv, plan), *qkv, plan)) <= BAR


@pytest.mark.parametrize("size", [32, 64])
def test_the_rotation_is_orthogonal_and_spreads(size):
    matrix = int8_launch.rotation_matrix(size, torch.device("cpu"))
    assert set(matrix.unique().tolist()) == {-1, 1}
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size))
    for of_all_channels in (torch.ones(size), *torch.eye(size)):
        rotated = of_all_channels @ matrix / size**0.5
        assert rotated.square().max() <= 0.3 * rotated.square().sum()


@triton.jit
def weights_of(codes, out):
    """Of queries and keys that are the same codes (64, 64)."""
    places = tl.arange(0, 64)[:, None] * 64 + tl.arange(0, 64)[None, :]
    same = tl.load(codes + places)
    weights, _ = _weights(same, same, tl.full([64], 0.02, tl.float32), None, False)
    tl.store(out + places, weights)


@triton.jit
def codes_of_v(v, mean, deviation, out, scale):
    _quantize_v(v, mean, deviation, out, scale, 0, 0, 64, 64, 64, 64)


def test_weights_and_values_are_in_the_same_order():
    """In any other, a weight would meet the value of another key."""
    one_each = torch.eye(64)  # query i attends to key i, whose value is in channel i
    weights, of_v = torch.zeros(2, 64, 64, dtype=torch.int8)
    weights_of[(1,)]((127 * one_each).to(torch.int8), weights)
    codes_of_v[(1,)](one_each, torch.zeros(64), torch.ones(64), of_v, torch.zeros(1))
    assert torch.equal(weights > 0, of_v > 0)
    assert (weights > 125).sum() == 64 == (weights != 0).sum()
    assert not torch.equal(weights > 0, one_each > 0)


def test_what_all_keys_share_changes_nothing():
    layout, plan = VideoLayout(5, 4, 16), plan_of(VideoLayout(5, 4, 16))
    q, k, v = draw("normal", layout, (1, 1, 64), DTYPE)
    k = (k * 64).round() / 64  # so that the sum is exact, and all that differs is the kernel's
    shared = torch.randint(-10, 11, (64,), generator=torch.Generator().manual_seed(0)).to(DTYPE)
    outs, lses = zip(
        *(triton_int8.run(q, x, v, plan, 0.1, True, config=SAFE) for x in (k, k + shared)),
        strict=True,
    )
    assert error_of("normal", outs[1], outs[0]) <= 2e-3
    apart = lses[1] - lses[0] - (q.float() @ shared.float()).transpose(1, 2) * 0.1
    assert apart.abs().max() <= 2e-3


def test_a_tiny_v_is_divided_by_no_less_than_has_a_reciprocal():
    v = torch.randn(1, 200, 1, 64, generator=torch.Generator().manual_seed(0)) * 1e-39
    assert v.any()
    k_mean, v_mean, v_deviation = torch.zeros(3, 64)
    int8_launch.statistics[(1,)](
        v, v, k_mean, v_mean, v_deviation, 200, 1, 1, *(2 * v.stride()[:3]), 64
    )
    assert (v_deviation > 0).all() and (1 / v_deviation).isfinite().all()


def test_a_negative_scale():
    layout = VideoLayout(2, 6, 9, suffix=1)
    check(plan_of(layout), draw("normal", layout, (1, 1, 64), DTYPE), scale=-0.1)


def test_means_of_a_sample_will_do(monkeypatch):
    monkeypatch.setattr(int8_launch, "SAMPLE", 50)
    layout = VideoLayout(5, 6, 9, prefix=3, suffix=1)
    for name in ("channel biases", "a key bias of 10"):
        check(plan_of(layout), draw(name, layout, (1, 1, 64), DTYPE))


def test_a_channel_may_be_0_in_the_sample(monkeypatch):
    monkeypatch.setattr(int8_launch, "SAMPLE", 50)
    layout = VideoLayout(5, 6, 9, prefix=3, suffix=1)
    q, k, v = draw("normal", layout, (1, 1, 64), DTYPE)
    v[:, :: -(-layout.tokens // 50), :, 5] = 0
    out, _ = triton_int8.run(q, k, v, plan_of(layout), 0.1, False, config=SAFE)
    truth = reference_attention(q, k, v, plan_of(layout), 0.1)
    assert error_of("normal", out, truth) <= 0.3  # its values are the largest of the codes
