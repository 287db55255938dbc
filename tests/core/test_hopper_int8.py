"""What the 8-bit kernel for Hopper is given: its codes and how it finds them, read here in torch.

The kernel itself runs on a GPU only (tests/gpu/test_eight_bits.py); test_kernels.py compiles it.
"""

import pytest
import torch
from hard_inputs import BAR, draw, error_of

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.backends import triton_int8
from radial_core.masks.per_head import MaskPerHead
from radial_core.reference import reference_attention, reference_lse

pytest.importorskip("triton.experimental.gluon.nvidia.hopper", exc_type=ImportError)
from radial_core.kernels import hopper_int8_launch, int8_launch, tuning  # noqa: E402
from radial_core.kernels.launch import HOPPER  # noqa: E402

DTYPE = torch.float16  # Triton's interpreter gets bfloat16 wrong
BLOCK = 128
LAYOUTS = {
    "frames straddle blocks, text on both sides": VideoLayout(3, 7, 9, prefix=3, suffix=50),
    "whole blocks": VideoLayout(4, 8, 16),
    "a tail of one token": VideoLayout(4, 8, 8, suffix=1),
    "one block": VideoLayout(2, 3, 5),
}
# The order in which a thread holds the keys of 16, and so that of v's codes.
KEYS = torch.tensor(
    [16 * i + (0, 1, 8, 9)[j % 4] + 2 * (j // 4) for i in range(8) for j in range(16)]
)


def matrix(descriptor) -> torch.Tensor:
    base = descriptor.base
    return base.as_strided(descriptor.shape, descriptor.strides, base.storage_offset()).float()


def attend(key, kernel, grid, arguments, **options):
    """The kernel, in place of its launch."""
    (
        q, k, v, q_scales, k_scales, v_scales, v_mean, v_deviation, lse_shift, out, lse, indptr,
        indices, order, list_stride, tokens, blocks, heads, all_heads, head_dim, block_size,
        one_list, with_lse,
    ) = arguments  # fmt: skip
    assert grid[0] == blocks == -(-tokens // block_size) and grid[1] % heads == 0
    q_codes, k_codes, v_codes = (matrix(each) for each in (q, k, v))
    assert q.block_shape == (block_size // 2, head_dim)
    assert (k.block_shape, v.block_shape) == ((block_size, head_dim), (head_dim, block_size))
    found = []
    for pair in range(grid[1]):
        batch, head = divmod(pair, heads)
        for place in range(grid[0]):
            row = place if one_list else order[place]
            first = int(row) * block_size
            bounds = indptr[head if list_stride else 0]
            begin, end = bounds[:2] if one_list else bounds[row : row + 2]
            rows = slice(first, min(first + block_size, tokens))
            of_q = q_codes[batch * tokens + rows.start : batch * tokens + rows.stop]
            of_q = of_q[:, 2 * head * head_dim :][:, :head_dim] * q_scales[pair, rows, None]
            scores, values, weights = [], [], []
            for block in indices[begin:end].tolist():
                at = pair * blocks + block
                of_k = k_codes[at * block_size :][:block_size] * k_scales[pair, block]
                of_v = v_codes[at * head_dim :][:head_dim] * v_scales[pair, block]
                score = of_q @ of_k.T
                score[:, torch.arange(block_size) + block * block_size >= tokens] = -torch.inf
                largest = score.max(1, keepdim=True).values
                scores.append(largest)
                weights.append((126 * torch.exp2(score - largest)).round()[:, KEYS])
                values.append(of_v.T)
            top = torch.cat(scores, 1).max(1, keepdim=True).values
            grow = [torch.exp2(score - top) for score in scores]
            total = sum(g * w.sum(1, keepdim=True) for g, w in zip(grow, weights, strict=True))
            acc = sum(g * (w @ x) for g, w, x in zip(grow, weights, values, strict=True))
            values = acc / total * v_deviation[pair] + v_mean[pair]
            found.append((batch, head, rows, values))
            if with_lse:
                value = (top + (total / 126).log2())[:, 0] + lse_shift[pair, rows]
                lse[batch, head, rows] = value / torch.tensor(torch.e).log2()
    for batch, head, rows, values in found:  # not earlier: q's codes are there
        out[batch, rows, head] = values.to(out.dtype)


@pytest.fixture(autouse=True)
def in_torch(monkeypatch):
    monkeypatch.setattr(hopper_int8_launch, "launch", attend)


def plan_of(layout, sinks=(0,)):
    """sinks: one for each head, or one for all."""
    return make_plan(MaskPerHead(tuple(RadialPattern(0.2, s, BLOCK) for s in sinks)), layout)


def check(plan, qkv):
    out, lse = triton_int8.run(*qkv, plan, 0.1, True, config=HOPPER)
    assert out.shape == qkv[0].shape and out.dtype == DTYPE and out.is_contiguous()
    assert error_of("normal", out, reference_attention(*qkv, plan, 0.1)) <= BAR
    apart = lse - reference_lse(*qkv[:2], plan, 0.1)
    assert apart.square().mean().sqrt() <= 2 * BAR


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_equals_the_oracle(layout, head_dim):
    check(plan_of(layout), draw("channel biases", layout, (1, 1, head_dim), DTYPE))


@pytest.mark.parametrize("sinks", [(0,), (0, 3, 6)], ids=["one list", "lists per head"])
def test_batches_and_heads_a_few_at_a_time(monkeypatch, sinks):
    layout = VideoLayout(6, 6, 8, suffix=3)
    monkeypatch.setattr(int8_launch, "CODES_AT_ONCE", 5 * 2 * 3 * BLOCK * 64)  # of two heads
    check(plan_of(layout, sinks), draw("normal", layout, (2, 3, 64), DTYPE))


@pytest.mark.parametrize("tokens", [300, 256, 40])
def test_dense_walks_one_list_for_all_rows(monkeypatch, tokens):
    monkeypatch.setattr(tuning, "best_config", lambda *_: HOPPER)  # needs a GPU
    layout = VideoLayout(1, 1, tokens)
    q, k, v = draw("normal", layout, (2, 2, 64), DTYPE)
    out = triton_int8.dense(q, k, v, 0.1)
    assert error_of("normal", out, reference_attention(q, k, v, plan_of(layout), 0.1)) <= BAR
