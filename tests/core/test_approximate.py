"""Approximate backends: held to the tolerance that they state, and run only where asked for."""

import logging
from types import ModuleType

import pytest
import torch
from registering import forget, register

from radial_core import RadialPattern, VideoLayout, dense, make_plan, proof, radial_attention
from radial_core.attention import attend, choose_backend, why_not
from radial_core.backends import reference as oracle
from radial_core.backends import sdpa
from radial_core.backends.contract import EXACT, Accuracy
from radial_core.call import Call
from radial_core.reference import reference_attention
from radial_core.runs import next_run

CPU = torch.device("cpu")
CALL = Call(CPU, torch.float32, 64, 64)
PLAN = make_plan(RadialPattern(0.1, 1, 64), VideoLayout(4, 5, 9, suffix=20))
TWO_PERCENT = Accuracy(False, {torch.float32: 0.02})
STOPPED = RuntimeError("illegal instruction")


def in_8_bits(x):
    """x with each row of head_dim rounded to 255 levels."""
    step = x.abs().amax(dim=-1, keepdim=True) / 127
    return torch.where(step > 0, (x / step).round() * step, x)


def backend(accuracy, change=lambda x: x):
    """A module like those in radial_core/backends, which computes with changed q and k.

    calls: those of `run`. error: what `run` and `dense` raise, if anything.
    """
    module = ModuleType("radial_core.backends.made")
    module.ACCURACY, module.calls, module.error = accuracy, 0, None

    def run(q, k, v, plan, softmax_scale, return_lse):
        module.calls += 1
        if module.error is not None:
            raise module.error
        return oracle.run(change(q), change(k), v, plan, softmax_scale, return_lse)

    def run_dense(q, k, v, softmax_scale):
        everything = RadialPattern(sink_frames=1)
        plan = make_plan(everything, VideoLayout(1, 1, q.shape[1]))
        return run(q, k, v, plan, softmax_scale, False)[0]

    module.run, module.dense = run, run_dense
    module.why_not = module.why_not_dense = lambda call: None
    return module


@pytest.fixture
def made(monkeypatch):
    """Registered: two in 8 bits, an exact one, torch's; in this order of speed."""
    forget()
    modules = {
        "rounded": backend(TWO_PERCENT, in_8_bits),
        "rounded_too": backend(TWO_PERCENT, in_8_bits),
        "exact": backend(EXACT),
    }
    ranked = ("rounded", "exact", "rounded_too", "sdpa")
    register(monkeypatch, ranked, **modules, sdpa=sdpa)
    yield modules
    forget()


def draw():
    return torch.randn(3, 1, PLAN.tokens, 2, 64).unbind(0)


def ran(*arguments, **options):
    return attend(*draw(), PLAN, *arguments, **options)[2]


def relative_rms(x, y):
    return ((x.double() - y).norm() / y.norm()).item()


def test_auto_takes_them_only_where_asked_for(made):
    assert [ran(), ran(approximate=True), ran()] == ["exact", "rounded", "exact"]
    assert choose_backend("auto", CALL) == "exact"
    assert choose_backend("auto", CALL, approximate=True) == "rounded"
    made["rounded"].why_not = lambda call: "not installed"
    made["exact"].why_not = lambda call: "not installed"
    next_run()
    assert [ran(), ran(approximate=True)] == ["sdpa", "rounded_too"]


def test_radial_attention_passes_the_wish_on(made):
    q, k, v = draw()
    truth = reference_attention(q, k, v, PLAN)
    assert relative_rms(radial_attention(q, k, v, PLAN), truth) < 1e-6
    assert 1e-3 < relative_rms(radial_attention(q, k, v, PLAN, approximate=True), truth) < 0.02


def test_a_named_one_runs_where_it_is_named(made):
    assert choose_backend("rounded_too", CALL) == "rounded_too"
    assert [ran("rounded_too"), ran()] == ["rounded_too", "exact"]


@pytest.mark.parametrize(
    "named, approximate, takes_over",
    [
        ("auto", True, ["exact", "rounded_too", "sdpa"]),
        ("rounded", True, ["exact", "rounded_too", "sdpa"]),
        ("rounded", False, ["exact", "sdpa", "sdpa"]),
        ("rounded_too", False, ["exact", "sdpa", "sdpa"]),
    ],
)
def test_who_takes_over_from_one_that_fails(made, named, approximate, takes_over):
    """The next of the ranking; for an exact request never an approximate one."""
    first = "rounded" if named == "auto" else named
    assert ran(named, approximate=approximate) == first
    names = []
    for _ in takes_over:
        failing = names[-1] if names else first
        if failing in made:
            made[failing].error = STOPPED
        names.append(ran(named, approximate=approximate))
        assert ran(named, approximate=approximate) == names[-1]  # the choice for the next calls
    assert names == takes_over
    for module in made.values():
        module.error = None
    next_run()
    assert ran(named, approximate=approximate) == first


def test_an_exact_request_that_fails_goes_on_to_exact_ones(made):
    assert ran() == "exact"
    made["exact"].error = STOPPED
    assert [ran(), ran()] == ["sdpa", "sdpa"]
    assert made["rounded"].calls == made["rounded_too"].calls == 0


def test_one_is_held_to_its_own_tolerance_and_says_how_close_it_is(made, caplog):
    with caplog.at_level(logging.INFO, "radial_attention"):
        assert why_not("rounded", CALL) is None and why_not("exact", CALL) is None
        made["rounded_too"].ACCURACY = Accuracy(False, {torch.float32: 1e-4})
        assert "relative error of its output" in why_not("rounded_too", CALL)
    rounded, exact, refused = (record.getMessage() for record in caplog.records)
    assert "rounded" in rounded and "within 2 %" in rounded and "exact" not in rounded
    assert "is exact" in exact and "not used" in refused
    assert ran(approximate=True) == "rounded"


def test_one_that_calls_itself_exact_is_found_out(made):
    made["rounded"].ACCURACY = EXACT
    assert "relative error of its output" in why_not("rounded", CALL)
    assert ran() == ran(approximate=True) == "exact"


def test_one_is_not_used_on_a_dtype_that_it_states_no_tolerance_for(made):
    assert "float64" in why_not("rounded", Call(CPU, torch.float64, 64, 64))


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda x: x.transpose(1, 2).reshape(x.shape), "output"),  # misreads what is heads first
        (lambda x: x if x.abs().max() < 50 else x * torch.nan, "not finite"),
    ],
    ids=["strides", "large logits"],
)
def test_the_proof_of_one_still_tries_strides_and_large_logits(made, change, fault):
    def heads_first_only(x):
        return change(x) if not x.is_contiguous() else x

    module = backend(TWO_PERCENT, heads_first_only)
    assert fault in proof.fault_of(module.run, CALL, TWO_PERCENT)


def test_dense_ones_too(made):
    q, k, v = draw()

    def ran(**options):
        return dense.dense_attention(q, k, v, **options)[1]

    assert [ran(), ran(approximate=True), ran()] == ["exact", "rounded", "exact"]
    made["rounded"].error = made["exact"].error = STOPPED
    assert [ran(approximate=True), ran()] == ["sdpa", "sdpa"]
    assert ran(approximate=True) == "rounded_too"
