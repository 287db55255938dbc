import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from radial_core import BACKENDS, RadialPattern, VideoLayout, make_plan, radial_attention
from radial_core.backends.ranking import ranking
from radial_core.call import Call
from radial_core.reference import reference_attention

# Odd on purpose: lengths off the block size, frames smaller than a block, one frame, one block.
LAYOUTS = {
    "whole blocks": VideoLayout(6, 8, 16),
    "frames straddle blocks": VideoLayout(7, 9, 15),
    "frames smaller than a block": VideoLayout(13, 5, 7),
    "text before": VideoLayout(5, 9, 15, prefix=77),
    "text after": VideoLayout(5, 9, 15, suffix=100),
    "both": VideoLayout(5, 8, 16, prefix=3, suffix=1),
    "one frame": VideoLayout(1, 12, 20),
    "one block": VideoLayout(2, 3, 5),
}
# batch, heads, head_dim
SHAPES = [(1, 1, 128), (2, 3, 64), (2, 1, 40), (1, 2, 7)]


def draw(layout, shape, dtype=torch.float32):
    batch, heads, head_dim = shape
    return torch.randn(3, batch, layout.tokens, heads, head_dim, dtype=dtype).unbind(0)


def relative_rms(x, y):
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


@pytest.fixture(autouse=True)
def fresh_seed():
    print(f"torch.manual_seed({torch.seed()})")  # shown if a test fails


@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "b{}h{}d{}".format(*s))
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_equals_the_oracle(layout, shape, block_size):
    q, k, v = draw(layout, shape)
    plan = make_plan(RadialPattern(0.2, 1, block_size), layout)
    out = radial_attention(q, k, v, plan, "sdpa")
    assert out.shape == q.shape and out.dtype == q.dtype
    assert relative_rms(out, reference_attention(q, k, v, plan)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_is_as_exact_as_dense_attention_in_the_same_dtype(dtype):
    layout = LAYOUTS["both"]
    q, k, v = draw(layout, (1, 2, 64), dtype)
    everything = make_plan(RadialPattern(4.0, layout.frames), layout)
    truth = reference_attention(q, k, v, everything)
    dense = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    plan = make_plan(RadialPattern(0.2, 0, 64), layout)
    error = relative_rms(radial_attention(q, k, v, plan), reference_attention(q, k, v, plan))
    assert error <= 1.5 * relative_rms(dense, truth) + 1e-15


def test_a_plan_that_keeps_everything_is_dense_attention():
    layout = LAYOUTS["frames straddle blocks"]
    q, k, v = draw(layout, (2, 2, 32))
    plan = make_plan(RadialPattern(1.0, layout.frames), layout)
    dense = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    assert relative_rms(radial_attention(q, k, v, plan), dense) < 1e-6


@pytest.mark.parametrize("scale", [0.05, 30.0])
def test_takes_any_scale_and_large_logits(scale):
    layout = LAYOUTS["text after"]
    q, k, v = draw(layout, (1, 2, 64))
    plan = make_plan(RadialPattern(0.2, 1, 64), layout)
    out = radial_attention(q, k, v, plan, softmax_scale=scale)
    assert out.isfinite().all()
    assert relative_rms(out, reference_attention(q, k, v, plan, scale)) < 3e-5


def test_takes_any_strides():
    layout = LAYOUTS["frames straddle blocks"]
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in draw(layout, (2, 3, 64)))
    q = torch.cat([q, q], dim=-1)[..., ::2]
    assert not any(x.is_contiguous() for x in (q, k, v))
    plan = make_plan(RadialPattern(0.2, 0, 64), layout)
    out = radial_attention(q, k, v, plan)
    assert relative_rms(out, reference_attention(q, k, v, plan)) < 1e-6


def test_really_skips_the_dropped_blocks():
    """Keys and values that no query block keeps may hold anything."""
    layout = VideoLayout(40, 8, 8)
    plan = make_plan(RadialPattern(0.1, 0, 64), layout)
    q, k, v = draw(layout, (1, 1, 16))
    dropped = ~plan.block_mask()[10]
    poisoned = dropped.repeat_interleave(64)
    k[:, poisoned], v[:, poisoned] = float("nan"), float("nan")
    row = slice(10 * 64, 11 * 64)
    assert dropped.any() and radial_attention(q, k, v, plan)[:, row].isfinite().all()


def gradients(run, tensors, weight):
    """Of a weighted sum of what `run` makes of q, k, v."""
    q, k, v = (x.detach().requires_grad_() for x in tensors)
    out = run(q, k, v)
    return torch.autograd.grad(out, (q, k, v), weight.to(out.dtype))


@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "b{}h{}d{}".format(*s))
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_gradients_equal_the_oracles(layout, shape, block_size):
    tensors = draw(layout, shape, torch.float64)
    plan = make_plan(RadialPattern(0.2, 1, block_size), layout)
    weight = torch.randn_like(tensors[0])
    ours = gradients(lambda *qkv: radial_attention(*qkv, plan), tensors, weight)
    truth = gradients(lambda *qkv: reference_attention(*qkv, plan), tensors, weight)
    assert all(relative_rms(a, b) < 1e-12 for a, b in zip(ours, truth, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradients_are_as_exact_as_those_of_dense_attention(dtype):
    layout = LAYOUTS["both"]
    tensors = draw(layout, (1, 2, 64), dtype)
    weight = torch.randn_like(tensors[0])
    plan = make_plan(RadialPattern(0.2, 0, 64), layout)
    everything = make_plan(RadialPattern(4.0, layout.frames), layout)

    def dense(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2)

    def errors(run, kept):
        truth = gradients(lambda *qkv: reference_attention(*qkv, kept), tensors, weight)
        return map(relative_rms, gradients(run, tensors, weight), truth)

    radial = errors(lambda *qkv: radial_attention(*qkv, plan), plan)
    for ours, theirs in zip(radial, errors(dense, everything), strict=True):
        assert ours <= 1.5 * theirs


def test_a_checkpoint_may_end_in_attention():
    """It stops the second run by an exception, which is no failure of the backend."""
    layout = LAYOUTS["both"]
    plan = make_plan(RadialPattern(0.2, 0, 64), layout)
    tensors = draw(layout, (1, 2, 16), torch.float64)
    weight = torch.randn_like(tensors[0])
    plain = gradients(lambda *qkv: radial_attention(*qkv, plan), tensors, weight)

    def checkpointed(*qkv):
        return checkpoint(lambda *x: radial_attention(*x, plan), *qkv, use_reentrant=False)

    for _ in range(2):
        again = gradients(checkpointed, tensors, weight)
        assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))


def test_refuses_what_does_not_fit():
    plan = make_plan(RadialPattern(), VideoLayout(2, 8, 8))
    q = torch.randn(1, 128, 2, 16)
    cases = [
        ((q[:, :100],) * 3, {}, r"q must be \(b, 128, h, d\), got \(1, 100, 2, 16\)"),
        ((q[0],) * 3, {}, "q must be"),
        ((q, q[:, :, :1], q), {}, "k must be like q"),
        ((q, q, q.half()), {}, "v must be like q"),
        ((q.to("meta"),) * 3, {}, "the plan must be on meta, got a plan on cpu"),
        (
            (q,) * 3,
            {"backend": "sparge"},
            "backend must be one of auto, triton, flash_attention, .*, spargeattn, reference",
        ),
        ((q.int(),) * 3, {}, "sdpa needs float16"),
    ]
    for tensors, options, message in cases:
        with pytest.raises(ValueError, match=message):
            radial_attention(*tensors, plan, **options)


def test_auto_never_takes_the_oracle():
    call = Call(torch.device("cpu"), torch.float32, 64, 128)
    assert "reference" in BACKENDS and "reference" not in ranking(call, 75_600)
