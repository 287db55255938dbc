"""The approximate backends on this machine: their errors on hard inputs, and odd calls.

At the end the errors are printed (conftest.py), and written to $OUT/eight_bits.txt if OUT is set.
"""

import pytest
import torch
from hard_inputs import (
    BAR,
    HARD,
    draw,
    draw_loud_token,
    error_of,
    errors_of_loud_token,
    relative_rms,
)
from test_backends import DEVICE, HALVES, LAYOUTS, STRIDES, exact_dense, skip_unless
from test_per_head import plan_of

from radial_core import BACKENDS, RadialPattern, VideoLayout, dense, make_plan, radial_attention
from radial_core.backends import backend_module
from radial_core.call import Call
from radial_core.padding import with_padding, without_padding
from radial_core.reference import reference_attention, reference_lse

HALF = torch.bfloat16
TOLERANCES = {
    name: backend_module(name).ACCURACY.tolerance[HALF]
    for name in BACKENDS
    if not backend_module(name).ACCURACY.exact
}
# Those that are held to BAR on hard inputs: SpargeAttn promises less.
NEAR = [name for name, tolerance in TOLERANCES.items() if tolerance <= BAR]
TEXT = VideoLayout(12, 8, 10, prefix=3, suffix=1)  # text on both sides, and a tail
SPARSE = VideoLayout(24, 12, 20)  # each token is seen by some blocks only
MANY_KEYS = VideoLayout(16, 32, 32)
ALL_LAYOUTS = LAYOUTS | {"one token": VideoLayout(1, 1, 1)}

on_backends = pytest.mark.parametrize("backend", NEAR)
on_block_sizes = pytest.mark.parametrize("block_size", [64, 128])
on_head_dims = pytest.mark.parametrize("head_dim", [64, 128])
on_halves = pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)


@pytest.fixture
def check(record_property):
    """check(what, error, bound): notes an error for the table, and that it is within its bound."""

    def check(what: str, error: float, bound: float | None = BAR):
        record_property("measured", (what, error, bound))
        assert bound is None or error <= bound

    return check


def radial_plan(layout, block_size=128, sink_frames=0):
    return make_plan(RadialPattern(0.2, sink_frames, block_size), layout, DEVICE)


@on_halves
@on_block_sizes
@pytest.mark.parametrize("shape", [(1, 1, 128), (2, 3, 128), (2, 2, 64)], ids=str)
@pytest.mark.parametrize("layout", ALL_LAYOUTS.values(), ids=ALL_LAYOUTS)
@pytest.mark.parametrize("backend", TOLERANCES)
def test_layouts(check, backend, layout, shape, block_size, dtype):
    skip_unless(backend, dtype, shape[-1], block_size)
    q, k, v = draw("channel biases", layout, shape, dtype, DEVICE)
    plan = radial_plan(layout, block_size, 1)
    out = radial_attention(q, k, v, plan, backend)
    assert out.shape == q.shape and out.dtype == dtype
    error = relative_rms(out, reference_attention(q, k, v, plan))
    check(f"layouts, {backend}", error, TOLERANCES[backend])


@on_halves
@on_block_sizes
@on_head_dims
@pytest.mark.parametrize("name", HARD)
@on_backends
def test_hard_inputs(check, backend, name, head_dim, block_size, dtype):
    skip_unless(backend, dtype, head_dim, block_size)
    if dtype not in HARD[name].dtypes:
        pytest.skip(f"no such values in {dtype}")
    q, k, v = draw(name, TEXT, (1, 3, head_dim), dtype, DEVICE)
    plan = radial_plan(TEXT, block_size)
    out = radial_attention(q, k, v, plan, backend)
    assert out.isfinite().all()
    check(name, error_of(name, out, reference_attention(q, k, v, plan)), HARD[name].bound)


@on_halves
@on_block_sizes
@on_backends
def test_one_loud_token(check, backend, block_size, dtype):
    skip_unless(backend, dtype, 128, block_size)
    q, k, v = draw_loud_token(SPARSE, (1, 2, 128), dtype, DEVICE)
    plan = radial_plan(SPARSE, block_size)
    out = radial_attention(q, k, v, plan, backend)
    truth = reference_attention(q, k, v, plan)
    others, hearing = errors_of_loud_token(out, truth, q, k, v, plan)
    check("one loud token, blocks that do not attend to it", others)
    check("one loud token, blocks that do, of |v|", hearing)


@pytest.mark.parametrize("name", ["normal", "channel biases", "70 % of K in 4 channels"])
@on_backends
def test_many_keys(check, backend, name):
    """Flat attention over thousands of keys: each weight is small."""
    skip_unless(backend, HALF, 128, 128)
    q, k, v = draw(name, MANY_KEYS, (1, 1, 128), HALF, DEVICE)
    plan = radial_plan(MANY_KEYS, sink_frames=8)
    out = radial_attention(q, k, v, plan, backend)
    check(f"{name}, 16k tokens", relative_rms(out, reference_attention(q, k, v, plan)))


@on_block_sizes
@on_backends
def test_lists_per_head(check, backend, block_size):
    skip_unless(backend, HALF, 128, block_size, per_head=True)
    q, k, v = draw("channel biases", TEXT, (2, 3, 128), HALF, DEVICE)
    plan = plan_of(TEXT, 3, block_size)
    out = radial_attention(q, k, v, plan, backend)
    check("lists per head", relative_rms(out, reference_attention(q, k, v, plan)))


@on_head_dims
@on_block_sizes
@pytest.mark.parametrize("change", STRIDES.values(), ids=STRIDES)
@on_backends
def test_strides(check, backend, change, block_size, head_dim):
    skip_unless(backend, HALF, head_dim, block_size)
    q, k, v = map(change, draw("channel biases", TEXT, (2, 3, head_dim), HALF, DEVICE))
    plan = radial_plan(TEXT, block_size)
    out = radial_attention(q, k, v, plan, backend)
    check("strides", relative_rms(out, reference_attention(q, k, v, plan)))


@on_block_sizes
@on_backends
def test_padding(check, backend, block_size):
    skip_unless(backend, HALF, 128, block_size)
    whole, absent = VideoLayout(11, 9, 15, prefix=77), (5, *range(40, 77))
    present = [i for i in range(whole.tokens) if i not in absent]
    qkv = draw("channel biases", whole, (2, 3, 128), HALF, DEVICE)
    before = [x.clone() for x in qkv]
    plan = radial_plan(VideoLayout(11, 9, 15, prefix=77 - len(absent)), block_size)
    with without_padding(qkv, whole.prefix, absent) as (q, k, v):
        out = with_padding(radial_attention(q, k, v, plan, backend), whole.prefix, absent)
    assert all(map(torch.equal, qkv, before))
    truth = reference_attention(*(x[:, present] for x in before), plan)
    check("padding", relative_rms(out[:, present], truth))


@on_block_sizes
@on_head_dims
@pytest.mark.parametrize("name", ["normal", "channel biases", "a key bias of 10"])
@on_backends
def test_lse(check, backend, name, head_dim, block_size):
    """In absolute terms: two outputs are joined by the exponential of the difference."""
    skip_unless(backend, HALF, head_dim, block_size, lse=True)
    q, k, v = draw(name, TEXT, (2, 3, head_dim), HALF, DEVICE)
    plan = radial_plan(TEXT, block_size)
    out, lse = radial_attention(q, k, v, plan, backend, return_lse=True)
    truth = reference_lse(q, k, plan)
    assert lse.shape == truth.shape and lse.dtype == torch.float32
    check(f"lse, {name}, absolute", (lse - truth).square().mean().sqrt().item())
    check(f"{name}, with lse", relative_rms(out, reference_attention(q, k, v, plan)))


@on_halves
@on_backends
def test_runs_again_alike_without_waiting_and_changes_no_input(backend, dtype):
    skip_unless(backend, dtype, 128, 128)
    qkv = draw("a key bias of 10", TEXT, (2, 3, 128), dtype, DEVICE)
    before, plan = [x.clone() for x in qkv], radial_plan(TEXT)
    with torch.inference_mode():
        outs = [radial_attention(*qkv, plan, backend) for _ in range(2)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            outs.append(radial_attention(*qkv, plan, backend))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(map(torch.equal, qkv, before))
    assert all(torch.equal(outs[0], out) for out in outs)


def dense_of(backend, dtype, head_dim):
    """The dense kernel of a backend; skips the test if it can't take such a call."""
    reason = dense.why_not(backend, Call(DEVICE, dtype, head_dim, dense.BLOCK_SIZE))
    if reason is not None:
        assert "failed" not in reason, reason
        pytest.skip(reason)
    return backend_module(backend).dense


@pytest.mark.parametrize("change", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("layout", [TEXT, LAYOUTS["one block"]], ids=["tail", "one block"])
@on_head_dims
@on_backends
def test_dense(check, backend, head_dim, layout, change):
    run = dense_of(backend, HALF, head_dim)
    q, k, v = map(change, draw("channel biases", layout, (2, 3, head_dim), HALF, DEVICE))
    out = run(q, k, v, head_dim**-0.5)
    assert out.shape == q.shape and out.dtype == HALF
    check("dense", relative_rms(out, exact_dense(q, k, v)))


@on_halves
@pytest.mark.parametrize("name", [name for name, hard in HARD.items() if hard.bound])
@on_backends
def test_dense_on_hard_inputs(check, backend, name, dtype):
    run = dense_of(backend, dtype, 128)
    if dtype not in HARD[name].dtypes:
        pytest.skip(f"no such values in {dtype}")
    q, k, v = draw(name, TEXT, (1, 3, 128), dtype, DEVICE)
    check(f"{name}, dense", error_of(name, run(q, k, v, 128**-0.5), exact_dense(q, k, v)))


@on_backends
def test_under_torch_compile(backend):
    skip_unless(backend, HALF, 128, 128)
    q, k, v = draw("channel biases", TEXT, (1, 2, 128), HALF, DEVICE)
    plan = radial_plan(TEXT)

    def attend(q, k, v):
        return 2 * radial_attention(q + 1, k, v, plan, backend)

    with torch.no_grad():
        expected = attend(q, k, v)
        assert relative_rms(torch.compile(attend)(q, k, v), expected.double()) < 1e-2
