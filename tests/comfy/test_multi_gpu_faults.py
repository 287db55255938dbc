"""Radial Multi-GPU with real processes when something goes wrong in one of them.

The order matters: a run that loses a process begins with that of the run before, or starts one.
"""

import signal

import comfy.model_management as management
import pytest
import torch
from adaptive import SETTINGS
from comfy.model_management import InterruptProcessingException
from conftest import pack_module, patch
from multi_gpu_faults import (
    Calls,
    Program,
    exhaust_memory,
    interrupt,
    is_gone,
    kill,
    never_longer,
    pids,
    stop,
    team,
    wait_until,
    warnings,
    wrapper,
)
from zoo.case import sample
from zoo.wan import video, wan

pytestmark = pytest.mark.usefixtures("any_density", "summaries")

PASSES, LAYERS = 3, 3


@pytest.fixture(scope="module")
def model():
    return wan(dim=384, num_heads=3, num_layers=LAYERS)


@pytest.fixture(scope="module")
def expected(model):
    """Of one card: dense, and with lists that are looked for in the second pass."""
    return {False: run(model), True: run(patch(model, **SETTINGS))}


@pytest.fixture(scope="module", autouse=True)
def end():
    yield
    team.end_all()


@pytest.fixture(autouse=True)
def cards(monkeypatch):
    monkeypatch.setenv("RADIAL_ATTENTION_CPU_CARDS", "2")


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


def run(model):
    with never_longer():
        return sample(model, video(), PASSES)


def on_two(model, radial=False):
    model = (patch(model, **SETTINGS) if radial else model).clone()
    pack_module("nodes.cards.attach").attach(model, 2)
    return model


def check(model, expected, calls, passes=PASSES, radial=False):
    """A run is right, and that many of its passes were split, the last one maybe in part."""
    before = calls.number
    torch.testing.assert_close(run(on_two(model, radial)), expected[radial], rtol=1e-4, atol=1e-4)
    assert -(-(calls.number - before) // LAYERS) == passes


def test_interrupt_and_own_error(model, expected, calls, caplog, monkeypatch):
    check(model, expected, calls)
    first = pids()

    def fail():
        """From now on every op of this process does."""
        monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", _of_a_node)

    for at, fault, error in (
        (5, interrupt, InterruptProcessingException),
        (1, fail, RuntimeError),
    ):
        calls.at = {calls.number + at: fault}
        with pytest.raises(error), never_longer(10), monkeypatch.context() as monkeypatch:
            run(on_two(model))
        check(model, expected, calls, radial=True)
    assert pids() == first and len(first) == 1
    assert not warnings(caplog)


def _of_a_node():
    raise RuntimeError("of a node")


def test_a_pass_that_only_fails_on_several(model, expected, calls, caplog):
    """Such as with a version of ComfyUI whose blocks take other arguments."""
    first, patched = pids(), on_two(model)
    calls.at = {calls.number + 4: _of_a_node}
    torch.testing.assert_close(run(patched), expected[False], rtol=1e-4, atol=1e-4)
    assert warnings(caplog) == ["Radial Multi-GPU: one GPU: RuntimeError: of a node"]
    before = calls.number
    torch.testing.assert_close(run(patched), expected[False], rtol=1e-4, atol=1e-4)
    assert calls.number == before and len(warnings(caplog)) == 2  # not tried again
    check(model, expected, calls)
    assert pids() == first


def test_interrupt_while_weights_go(model, expected, calls, monkeypatch):
    replica, first = pack_module("nodes.cards.replica"), pids()
    weights_of = replica.weights_of

    def interrupted(patcher):
        yield from list(weights_of(patcher))[:5]
        interrupt()

    other = wan(dim=384, num_heads=3, num_layers=LAYERS, seed=1)
    monkeypatch.setattr(replica, "weights_of", interrupted)
    with pytest.raises(InterruptProcessingException), never_longer(10):
        run(on_two(other))
    monkeypatch.undo()
    monkeypatch.setenv("RADIAL_ATTENTION_CPU_CARDS", "2")
    torch.testing.assert_close(run(on_two(other)), run(other), rtol=1e-4, atol=1e-4)
    assert pids() == first


@pytest.mark.parametrize("radial", [False, True], ids=["dense", "adaptive"])
def test_killed_in_a_pass(model, expected, calls, caplog, radial):
    """In the adaptive case in the pass that looks for lists."""
    killed = []
    calls.at = {LAYERS + 2: lambda: killed.extend(pids()) or kill(killed[0])}
    check(model, expected, calls, passes=2, radial=radial)
    (line,) = warnings(caplog)
    assert "the process of cpu has ended (signal 9)" in line
    assert is_gone(killed[0]) and not pids()


def test_out_of_memory(model, expected, calls, caplog, monkeypatch):
    exhaust_memory(monkeypatch, at=2)
    check(model, expected, calls, passes=2)
    (line,) = warnings(caplog)
    assert "cpu: RuntimeError" in line and "allocate memory" in line


def test_killed_between_runs(model, expected, calls, caplog):
    check(model, expected, calls)
    kill(pids()[0])
    assert wait_until(lambda: not pids())
    check(model, expected, calls)
    assert not warnings(caplog)


def in_a_pass(calls, _monkeypatch):
    calls.at = {LAYERS + 2: lambda: stop(pids()[0])}


def before_a_message(_calls, monkeypatch):
    """Which is more than a pipe holds."""
    real = wrapper.Pass

    def large(key, cargo, specs):
        stop(pids()[0])
        return real(key, cargo + bytes(2**22), specs)

    monkeypatch.setattr(wrapper, "Pass", large)


def while_weights_go(_calls, monkeypatch):
    replica = pack_module("nodes.cards.replica")
    weights_of = replica.weights_of

    def stopped(patcher):
        yield from list(weights_of(patcher))[:5]
        stop(pids()[0])
        yield from list(weights_of(patcher))[5:]

    monkeypatch.setattr(replica, "weights_of", stopped)


@pytest.mark.parametrize(
    "fault, passes", [(in_a_pass, 2), (before_a_message, 0), (while_weights_go, 0)]
)
def test_stopped(model, expected, calls, caplog, monkeypatch, fault, passes):
    monkeypatch.setattr(team, "LIMIT", 2.0)
    fault(calls, monkeypatch)
    check(model, expected, calls, passes=passes)
    (line,) = warnings(caplog)
    assert "no progress for 2 s" in line
    assert not pids()


def test_does_not_start(model, expected, calls, caplog, monkeypatch):
    process = pack_module("nodes.cards.process")
    setup = process._setup
    monkeypatch.setattr(process, "_setup", lambda *args: {**setup(*args), "root": "/nowhere"})
    check(model, expected, calls, passes=0)
    (line,) = warnings(caplog)
    assert "cpu: ModuleNotFoundError: No module named" in line
    monkeypatch.setattr(team, "START_LIMIT", 1.0)
    monkeypatch.setattr(team.Process, "__init__", stopped_at_start(team.Process.__init__))
    check(model, expected, calls, passes=0)
    assert "no answer within 1 s" in warnings(caplog)[1]
    assert not pids()


def stopped_at_start(init):
    def start(self, *args):
        init(self, *args)
        stop(self.pid)

    return start


def test_comfyui_ends(tmp_path):
    """At its end, killed, and by Ctrl+C in the terminal; the last two in the middle of a pass."""
    waits = {"end": 0, "killed": 1000, "ctrl_c": 1000}
    programs = {name: Program(tmp_path / name, seconds) for name, seconds in waits.items()}
    found = {name: program.pids() for name, program in programs.items()}
    programs["killed"].send(signal.SIGKILL)
    programs["ctrl_c"].send(signal.SIGINT)
    ended = {name: program.end() for name, program in programs.items()}
    assert ended["end"][0] == 0, ended["end"]
    for code, said in (ended["end"], ended["ctrl_c"]):
        assert "terminate called" not in said and code in (0, 1, -signal.SIGINT), said
    for name, numbers in found.items():
        assert numbers and wait_until(lambda numbers=numbers: all(map(is_gone, numbers))), name
    assert not [*(tmp_path / "end").iterdir(), *(tmp_path / "ctrl_c").iterdir()]
