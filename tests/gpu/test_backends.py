"""Every exact backend on this machine, against the oracle, on odd shapes. `tests/run.py --gpu`.

The approximate ones: test_eight_bits.py.
"""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from radial_core import BACKENDS, RadialPattern, VideoLayout, dense, make_plan, radial_attention
from radial_core.attention import why_not
from radial_core.backends import backend_module, cudnn
from radial_core.backends import ranking as rankings
from radial_core.backends.ranking import ranking
from radial_core.call import Call
from radial_core.reference import reference_attention, reference_lse

DEVICE = torch.device("cuda", 0)
KERNELS = [name for name in BACKENDS if name != "reference" and backend_module(name).ACCURACY.exact]
LAYOUTS = {
    "whole blocks": VideoLayout(9, 8, 16),
    "frames straddle blocks": VideoLayout(11, 9, 15),
    "frames smaller than a block": VideoLayout(40, 5, 7),
    "text before": VideoLayout(9, 9, 15, prefix=77),
    "text after": VideoLayout(9, 9, 15, suffix=100),
    "both": VideoLayout(9, 8, 16, prefix=3, suffix=1),
    "one frame": VideoLayout(1, 12, 20),
    "one block": VideoLayout(2, 3, 5),
}
SHAPES = [(1, 1, 128), (2, 3, 128), (2, 2, 64), (1, 3, 96), (1, 2, 80), (2, 1, 256)]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def draw(layout, shape, dtype, scale=1.0):
    batch, heads, head_dim = shape
    q, k, v = torch.randn(3, batch, layout.tokens, heads, head_dim, device=DEVICE).unbind(0)
    return [x.to(dtype) for x in (q * scale, k * scale, v)]


def relative_rms(x, y):
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


def sdpa(q, k, v):
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def exact_dense(q, k, v):
    return sdpa(q.double(), k.double(), v.double())


def dense_error(q, k, v):
    """The error of torch's dense attention on the same tensors."""
    everything = scaled_dot_product_attention(*(x.double().transpose(1, 2) for x in (q, k, v)))
    return relative_rms(sdpa(q, k, v), everything.transpose(1, 2))


def skip_unless(backend, dtype, head_dim, block_size, **more):
    reason = why_not(backend, Call(DEVICE, dtype, head_dim, block_size, **more))
    if reason is not None:
        assert "failed" not in reason, reason
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def fresh_seed():
    print(f"torch.manual_seed({torch.seed()})")  # shown if a test fails


@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "b{}h{}d{}".format(*s))
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("backend", KERNELS)
def test_is_as_exact_as_dense_attention(backend, layout, shape, block_size, dtype):
    skip_unless(backend, dtype, shape[-1], block_size)
    if backend == "flex" and (shape[0], shape[-1], dtype) != (2, 64, torch.bfloat16):
        pytest.skip("compiles for each shape: a sample of them")
    q, k, v = draw(layout, shape, dtype)
    plan = make_plan(RadialPattern(0.2, 1, block_size), layout, DEVICE)
    out = radial_attention(q, k, v, plan, backend)
    assert out.shape == q.shape and out.dtype == dtype
    error = relative_rms(out, reference_attention(q, k, v, plan))
    assert error <= 1.5 * dense_error(q, k, v)


@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("backend", KERNELS)
def test_large_logits_stay_finite(backend, dtype):
    skip_unless(backend, dtype, 128, 128)
    q, k, v = draw(LAYOUTS["both"], (2, 2, 128), dtype, scale=30.0)
    plan = make_plan(RadialPattern(0.2), LAYOUTS["both"], DEVICE)
    out = radial_attention(q, k, v, plan, backend)
    assert out.isfinite().all()
    error = relative_rms(out, reference_attention(q, k, v, plan))
    assert error <= 1.5 * dense_error(q, k, v) + 1e-5


STRIDES = {
    "(b, h, s, d)": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "a third of qkv": lambda x: torch.stack([x, x, x], dim=2)[:, :, 1],
    "rows after each sequence, never written": lambda x: torch.cat(
        [x, torch.full_like(x[:, :40], torch.nan)], dim=1
    )[:, : x.shape[1]],
    "every other element": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "offset by one token": lambda x: torch.cat([x[:, :1], x], dim=1)[:, 1:],
    "offset by one element": lambda x: torch.cat([x[..., :1], x], dim=-1)[..., 1:],
}


@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("change", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("backend", KERNELS)
def test_takes_any_strides(backend, change, block_size):
    skip_unless(backend, torch.bfloat16, 64, block_size)
    layout = LAYOUTS["text after"]
    q, k, v = (change(x) for x in draw(layout, (2, 3, 64), torch.bfloat16))
    plan = make_plan(RadialPattern(0.2, 1, block_size), layout, DEVICE)
    out = radial_attention(q, k, v, plan, backend)
    error = relative_rms(out, reference_attention(q, k, v, plan))
    assert error <= 1.5 * dense_error(q, k, v)


@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("backend", KERNELS)
def test_lse(backend, block_size):
    skip_unless(backend, torch.bfloat16, 128, block_size, lse=True)
    layout = LAYOUTS["both"]
    q, k, v = draw(layout, (2, 3, 128), torch.bfloat16)
    plan = make_plan(RadialPattern(0.2, 1, block_size), layout, DEVICE)
    out, lse = radial_attention(q, k, v, plan, backend, return_lse=True)
    truth = reference_lse(q, k, plan)
    assert lse.shape == truth.shape and lse.dtype == torch.float32
    assert relative_rms(lse, truth) < 1e-5
    assert relative_rms(out, reference_attention(q, k, v, plan)) < 5e-3


@pytest.mark.parametrize("backend", KERNELS)
def test_in_inference_mode_and_on_a_side_stream(backend):
    skip_unless(backend, torch.bfloat16, 128, 128)
    layout = LAYOUTS["text before"]
    plan = make_plan(RadialPattern(0.2), layout, DEVICE)
    stream = torch.cuda.Stream()
    with torch.inference_mode(), torch.cuda.stream(stream):
        q, k, v = draw(layout, (1, 2, 128), torch.bfloat16)
        out = radial_attention(q, k, v, plan, backend)
        stream.synchronize()
        assert relative_rms(out, reference_attention(q, k, v, plan)) < 5e-3


@pytest.mark.parametrize("backend", [b for b in KERNELS if b != "sdpa"])
def test_a_steady_call_neither_waits_nor_allocates_more_than_its_output(backend):
    skip_unless(backend, torch.bfloat16, 128, 128)
    layout = VideoLayout(16, 16, 32, suffix=7)
    q, k, v = draw(layout, (1, 4, 128), torch.bfloat16)
    plan = make_plan(RadialPattern(0.2), layout, DEVICE)
    for _ in range(2):
        out = radial_attention(q, k, v, plan, backend)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = radial_attention(q, k, v, plan, backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    size = out.numel() * out.element_size()
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * size + 2**16
    assert torch.equal(out, again)


def gradients(run, q, k, v, weight):
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = run(q, k, v)
    return torch.autograd.grad(out, (q, k, v), weight.to(out.dtype))


def gradient_errors(run, truth, q, k, v, weight):
    exact = gradients(truth, q, k, v, weight)
    return map(relative_rms, gradients(run, q, k, v, weight), exact)


@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("shape", [(1, 2, 64), (2, 3, 128)], ids=lambda s: "b{}h{}d{}".format(*s))
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_are_as_exact_as_dense_attentions(backend, layout, shape, block_size, dtype):
    skip_unless(backend, dtype, shape[-1], block_size, grad=True)
    if backend == "flex" and (layout, dtype) != (LAYOUTS["both"], torch.bfloat16):
        pytest.skip("compiles for each shape: a sample of them")
    q, k, v = draw(layout, shape, dtype)
    q = q.transpose(1, 2).contiguous().transpose(1, 2)  # the layout in HunyuanVideo
    plan, weight = make_plan(RadialPattern(0.2, 1, block_size), layout, DEVICE), torch.randn_like(q)
    radial = gradient_errors(
        lambda *qkv: radial_attention(*qkv, plan, backend),
        lambda *qkv: reference_attention(*qkv, plan),
        *(q, k, v, weight),
    )
    dense_ones = gradient_errors(
        sdpa, lambda *qkv: sdpa(*(x.double() for x in qkv)), q, k, v, weight
    )
    for ours, theirs in zip(radial, dense_ones, strict=True):
        assert ours <= 1.5 * theirs


@pytest.mark.parametrize("name", ["flash_attention", "cudnn"])
def test_dense_gradients(monkeypatch, name):
    call = Call(DEVICE, torch.bfloat16, 128, dense.BLOCK_SIZE, grad=True)
    if reason := dense.why_not(name, call):
        assert "failed" not in reason, reason
        pytest.skip(reason)
    monkeypatch.setattr(rankings, "DENSE", {torch.cuda.get_device_capability()[0]: (name,)})
    monkeypatch.setattr(dense, "_choices", {})
    q, k, v = draw(LAYOUTS["both"], (2, 3, 128), torch.bfloat16)
    weight = torch.randn_like(q)
    assert dense.dense_attention(q.requires_grad_(), k, v)[1] == name
    fast = gradient_errors(
        lambda *qkv: dense.dense_attention(*qkv)[0], exact_dense, q, k, v, weight
    )
    of_torch = gradient_errors(sdpa, exact_dense, q, k, v, weight)
    for ours, theirs in zip(fast, of_torch, strict=True):
        assert ours <= 1.5 * theirs


@pytest.mark.parametrize("grad", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("change", STRIDES.values(), ids=STRIDES)
def test_dense_cudnn_reads_any_strides_and_sets_no_flag(monkeypatch, change, head_dim, grad):
    call = Call(DEVICE, torch.bfloat16, head_dim, dense.BLOCK_SIZE, grad=grad)
    if reason := dense.why_not("cudnn", call):
        assert "failed" not in reason, reason
        pytest.skip(reason)
    q, k, v = (change(x) for x in draw(LAYOUTS["both"], (2, 3, head_dim), torch.bfloat16))
    exact, of_torch = exact_dense(q, k, v), sdpa(q, k, v)

    def attend(*qkv):
        return cudnn.dense(*qkv, head_dim**-0.5)

    def refuse(*_):
        raise AssertionError("a flag of the whole process was set")

    for flag in ("flash", "mem_efficient", "math", "cudnn"):
        monkeypatch.setattr(torch._C, f"_set_sdp_use_{flag}", refuse)
    assert relative_rms(attend(q, k, v), exact) <= 1.5 * relative_rms(of_torch, exact)
    if grad:
        weight = torch.randn_like(exact)
        fast = gradient_errors(attend, exact_dense, q, k, v, weight)
        slow = gradient_errors(sdpa, exact_dense, q, k, v, weight)
        for ours, theirs in zip(fast, slow, strict=True):
            assert ours <= 1.5 * theirs


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name in {name for names in rankings.DENSE.values() for name in names}
        if backend_module(name).ACCURACY.exact
    ),
)
def test_dense_kernels(monkeypatch, name, head_dim):
    if reason := dense.why_not(name, Call(DEVICE, torch.bfloat16, head_dim, dense.BLOCK_SIZE)):
        assert "failed" not in reason, reason
        pytest.skip(reason)
    monkeypatch.setattr(rankings, "DENSE", {torch.cuda.get_device_capability()[0]: (name,)})
    monkeypatch.setattr(dense, "_choices", {})
    for layout in (LAYOUTS["both"], LAYOUTS["one block"]):
        q, k, v = draw(layout, (2, 3, head_dim), torch.bfloat16)
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
        exact = sdpa(q.double(), k.double(), v.double())
        out, ran = dense.dense_attention(q, k, v)
        assert ran == name
        assert relative_rms(out, exact) <= 1.5 * relative_rms(sdpa(q, k, v), exact)


def test_auto_runs_the_first_backend_that_can():
    call = Call(DEVICE, torch.bfloat16, 128, 128)
    able = [name for name in ranking(call, LAYOUTS["both"].tokens) if why_not(name, call) is None]
    q, k, v = draw(LAYOUTS["both"], (1, 2, 128), torch.bfloat16)
    plan = make_plan(RadialPattern(0.2), LAYOUTS["both"], DEVICE)
    assert torch.equal(radial_attention(q, k, v, plan), radial_attention(q, k, v, plan, able[0]))
