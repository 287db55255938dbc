"""Cards exchange tokens and heads: real processes over Gloo on the CPU."""

import os
import signal
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import ulysses_cases as cases
from card_processes import on_cards

from radial_core.ulysses import group as groups
from radial_core.ulysses.group import GroupFailed, connect

CPU = torch.device("cpu")


@pytest.fixture
def seed():
    drawn = torch.randint(2**31, ()).item()
    print(f"seed {drawn}")  # shown if a test fails
    return drawn


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_exchange(size, seed):
    on_cards(cases.everything, size, seed)


def test_one_card_alone(tmp_path, seed):
    group = connect(tmp_path / "store", 0, 1, CPU, 5)
    cases.everything(group, CPU, seed)
    group.abort()
    assert cases.raises(lambda: cases.nothing(group, CPU)) < 1
    assert not torch.distributed.is_initialized()


def test_the_default_group_is_left_alone(seed):
    on_cards(cases.beside_a_default_group, 2, seed)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_listens_beyond_this_computer():
    for addresses in on_cards(cases.listening, 2):
        assert set(addresses) == {"0100007F"}  # 127.0.0.1


def test_a_killed_card():
    for seconds in on_cards(cases.a_card_is_lost, 3, signal.SIGKILL, lost=[2])[:2]:
        assert seconds < 2


def test_a_stopped_card():
    for seconds in on_cards(cases.a_card_is_lost, 3, signal.SIGSTOP, seconds=2, lost=[2])[:2]:
        assert seconds < 4


def test_abort_frees_whoever_waits():
    first, second, _ = on_cards(cases.aborted, 3, seconds=3)
    assert 0.4 < first < 1.4
    assert second < 4  # that one was not aborted


def test_another_group_after_an_aborted_one(tmp_path, seed):
    assert on_cards(cases.again, 2, seed, tmp_path / "again")[0] < 1.4


def test_a_card_that_never_comes(tmp_path):
    begin = time.monotonic()
    with pytest.raises(GroupFailed, match="card 0 of 2 could not connect"):
        connect(tmp_path / "store", 0, 2, CPU, 1)
    assert time.monotonic() - begin < 4


def test_a_card_that_never_connects(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "_gloo", lambda *_: time.sleep(3))
    with pytest.raises(GroupFailed, match="not connected within 0.3 s"):
        connect(tmp_path / "store", 0, 1, CPU, 0.3)


class FakeNccl:
    """As much of ProcessGroupNCCL as `connect` asks for."""

    class Options:
        pass

    def __init__(self, store, rank, size, options):
        self.environment, self.options = dict(os.environ), options
        self.lost, self.calls = False, []

    def eager_connect_single_device(self, device):
        self.calls.append((device, os.environ["NCCL_SOCKET_IFNAME"]))

    def alltoall_base(self, out, x, out_sizes, sizes):
        if self.lost:
            raise RuntimeError("NCCL communicator was aborted")
        return SimpleNamespace(wait=lambda: None)

    def abort(self):
        self.calls.append("abort")
        raise ValueError("such as CUDA errors")


@contextmanager
def environment(monkeypatch, **values):
    for name in groups.LIVE_ON.keys() | {"NCCL_SOCKET_IFNAME"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    yield
    assert dict(os.environ) == before


@pytest.mark.parametrize("interface", [None, "eth7"])
def test_how_nccl_is_made(tmp_path, monkeypatch, interface):
    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", FakeNccl, raising=False)
    mine = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    mine |= {"NCCL_SOCKET_IFNAME": interface} if interface else {}
    with environment(monkeypatch, **mine):
        group = connect(tmp_path / "store", 0, 1, torch.device("cuda", 0), 7)
    fake = group._backend
    assert fake.calls == [(torch.device("cuda", 0), interface or "lo")]
    assert fake.environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "2"
    assert fake.environment["TORCH_NCCL_ENABLE_MONITORING"] == "0"
    assert fake.options._timeout.total_seconds() == 7
    cases.nothing(group, CPU)
    fake.lost = True
    with pytest.raises(GroupFailed, match="communicator was aborted"):
        cases.nothing(group, CPU)
    group.abort()
    group.abort()
    assert fake.calls[1:] == ["abort"]
