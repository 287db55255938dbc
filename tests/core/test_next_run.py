"""What fails in one run is tried again in the next, and what fails in every run stays off.

Plans are freed.
"""

import gc
import logging
import weakref
from types import SimpleNamespace

import pytest
import torch
from registering import forget, register

from radial_core import VideoLayout, dense, make_plan, proof
from radial_core.attention import attend, choose_backend, why_not
from radial_core.backends import cudnn, flex
from radial_core.backends import reference as oracle
from radial_core.backends.contract import EXACT
from radial_core.call import Call
from radial_core.failures import MOST_RUNS
from radial_core.masks.radial import RadialPattern
from radial_core.runs import next_run

CPU = torch.device("cpu")
CALL = Call(CPU, torch.float32, 16, 64)
PLAN = make_plan(RadialPattern(0.1, 1, 64), VideoLayout(3, 4, 8))
BROKEN = RuntimeError("the cache folder is locked")
FULL = torch.OutOfMemoryError("CUDA out of memory")


class Kernel:
    """An exact kernel that raises `error` if it is set. factor: 1.1 makes it wrong."""

    ACCURACY = EXACT

    def __init__(self):
        self.calls, self.error, self.factor = 0, None, 1.0

    def why_not(self, call):
        return None

    why_not_dense = why_not

    def run(self, q, k, v, *rest):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return oracle.run(q, k, v * self.factor, *rest)

    def dense(self, q, k, v, softmax_scale):
        layout = VideoLayout(1, 1, q.shape[1])
        return self.run(q, k, v, make_plan(RadialPattern(1.0, 1), layout), softmax_scale, False)[0]


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    forget()
    monkeypatch.setattr(proof, "LAYOUT", VideoLayout(3, 4, 8, prefix=7))
    yield
    forget()


@pytest.fixture(params=["radial", "dense"])
def machine(request, monkeypatch):
    """Kernels "a" and "b", and a function that makes a call and returns the name of its kernel."""
    made = {"a": Kernel(), "b": Kernel()}
    register(monkeypatch, **made)

    def call():
        q, k, v = torch.randn(3, 1, PLAN.tokens, 2, 16).unbind(0)
        if request.param == "radial":
            return attend(q, k, v, PLAN)[2]
        return dense.dense_attention(q, k, v)[1]

    return SimpleNamespace(**made, call=call)


def run_of(machine, calls=3):
    """The names of the kernels of a run's calls."""
    names = [machine.call() for _ in range(calls)]
    next_run()
    return names


def test_a_kernel_that_failed_in_a_call_is_used_again_in_the_next_run(machine):
    assert run_of(machine) == ["a"] * 3
    machine.a.error = BROKEN
    first, *rest = run_of(machine)
    assert first in ("b", "sdpa") and rest == ["b"] * 2
    machine.a.error = None
    assert run_of(machine) == ["a"] * 3


def test_a_kernel_that_failed_in_its_proof_is_proven_again_in_the_next_run(machine):
    machine.a.error = BROKEN
    assert run_of(machine) == ["b"] * 3 and machine.a.calls == 1
    machine.a.error = None
    assert run_of(machine) == ["a"] * 3


@pytest.mark.parametrize("proven", [True, False])
def test_a_kernel_that_fails_in_every_run_stays_off(machine, caplog, proven):
    if proven:
        machine.call()
    machine.a.calls, machine.a.error = 0, BROKEN
    with caplog.at_level(logging.WARNING, "radial_attention"):
        for _ in range(MOST_RUNS + 2):
            run_of(machine)
    assert machine.a.calls == MOST_RUNS
    messages = [r.getMessage() for r in caplog.records if str(BROKEN) in r.getMessage()]
    assert len(messages) == 2  # the failure itself, and that it stays off
    assert f"in {MOST_RUNS} runs in a row: it stays off until a restart" in messages[1]
    machine.a.error = None
    assert run_of(machine) == ["b"] * 3


def test_separate_failures_do_not_add_up(machine):
    for _ in range(MOST_RUNS + 2):
        assert run_of(machine) == ["a"] * 3
        machine.a.error = BROKEN
        assert run_of(machine)[1:] == ["b"] * 2
        machine.a.error = None


def test_a_wrong_kernel_stays_off_for_the_process(machine):
    machine.a.factor = 1.1
    assert run_of(machine) == ["b"] * 3 and machine.a.calls == 1
    machine.a.factor = 1.0
    assert run_of(machine) == ["b"] * 3 and machine.a.calls == 1


def test_a_full_gpu_does_not_affect_later_runs(machine, caplog):
    machine.a.error = FULL
    with caplog.at_level(logging.INFO, "radial_attention"):
        for _ in range(MOST_RUNS + 2):
            assert run_of(machine, calls=proof.MOST_TRIES + 2)[0] == "b"
    assert machine.a.calls == proof.MOST_TRIES * (MOST_RUNS + 2)
    assert len([r for r in caplog.records if "memory" in r.getMessage()]) == 1
    machine.a.error = None
    assert run_of(machine) == ["a"] * 3


@pytest.mark.parametrize("machine", ["radial"], indirect=True)
def test_a_named_backend_that_failed_is_no_longer_refused(machine):
    assert why_not("a", CALL) is None
    q = torch.randn(1, PLAN.tokens, 2, 16)
    machine.a.error = BROKEN
    assert attend(q, q, q, PLAN, "a")[2] == "b"
    with pytest.raises(ValueError, match="a failed: RuntimeError: the cache folder is locked"):
        choose_backend("a", CALL)
    machine.a.error = None
    next_run()
    assert choose_backend("a", CALL) == "a" and attend(q, q, q, PLAN, "a")[2] == "a"


@pytest.mark.parametrize("machine", ["radial"], indirect=True)
def test_a_named_backend_without_a_proof_is_refused_at_each_call(machine):
    machine.a.error = BROKEN
    q = torch.randn(1, PLAN.tokens, 2, 16)
    for _ in range(2):
        with pytest.raises(ValueError, match="a failed its proof"):
            attend(q, q, q, PLAN, "a")


def test_the_configuration_of_the_triton_kernel_is_measured_again(monkeypatch, tmp_path, caplog):
    tuning = pytest.importorskip("radial_core.kernels.tuning")
    kind = (tuning.TRITON, torch.device("cuda", 0), torch.bfloat16, 128, 128, None)
    best, tries = tuning.TRITON.candidates[128][2], []

    def measure(*kind):
        tries.append(kind)
        if len(tries) < MOST_RUNS:
            raise BROKEN
        return best

    monkeypatch.setattr(tuning, "_load_or_measure", measure)
    monkeypatch.setattr(tuning, "_chosen", {})
    with caplog.at_level(logging.WARNING, "radial_attention"):
        for _ in range(MOST_RUNS - 1):
            assert [tuning.best_config(*kind) for _ in range(3)] == [tuning.SAFE] * 3
            next_run()
    assert [tuning.best_config(*kind) for _ in range(3)] == [best] * 3
    assert len(tries) == MOST_RUNS and len(caplog.records) == 1


def test_plans_are_freed_with_what_backends_made_of_them():
    plan = make_plan(RadialPattern(0.3, 1, 64), VideoLayout(5, 9, 15, prefix=3))
    made = [plan.table[1], plan.columns[1], plan.order]
    made += [cudnn.block_sizes(plan), flex.block_mask(plan, True).full_kv_indices]
    alive = [weakref.ref(each) for each in (plan, *made)]
    made.clear()
    del plan
    gc.collect()
    assert all(each() is not None for each in alive)  # kept for the next call of the run
    next_run()
    gc.collect()
    assert not any(each() is not None for each in alive)


def test_a_plan_in_use_outlives_its_run():
    plan = make_plan(PLAN.mask, PLAN.layout)
    next_run()
    assert torch.equal(plan.block_mask(), make_plan(PLAN.mask, PLAN.layout).block_mask())
