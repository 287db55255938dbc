"""What goes wrong where several cards compute, and a program that has a team of its own."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import comfy.model_management
import torch
from conftest import pack_module

team = pack_module("nodes.cards.team")
split_pass = pack_module("nodes.cards.split_pass")
wrapper = pack_module("nodes.cards.wrapper")

TESTS = Path(__file__).parent
SECONDS = 60  # in which a run with a fault must be over


@contextlib.contextmanager
def never_longer(seconds=SECONDS):
    """Kills the team when time is up, so that a hang becomes a failure."""
    late = threading.Event()

    def end():
        late.set()
        for pid in pids():
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not late.is_set(), f"it took longer than {seconds} s"


def pids() -> list[int]:
    """Of the processes of the team that is there."""
    found = [each for each in team._teams.values() if each.why_lost is None]
    return [process.pid for each in found for process in each.processes]


def is_gone(pid: int) -> bool:
    """Neither running nor a zombie."""
    return not Path(f"/proc/{pid}").exists()


def interrupt():
    """What ComfyUI's button does, and the op that it ends."""
    comfy.model_management.interrupt_current_processing()
    comfy.model_management.throw_exception_if_processing_interrupted()


def stop(pid: int):
    os.kill(pid, signal.SIGSTOP)


def kill(pid: int):
    os.kill(pid, signal.SIGKILL)


class Calls:
    """Self-attention on this card in split passes. at: the number of a call -> what it does."""

    def __init__(self, monkeypatch):
        self.number, self.at = 0, {}
        attend = split_pass.attend

        def counted(*args):
            self.number += 1
            self.at.get(self.number, lambda: None)()
            return attend(*args)

        monkeypatch.setattr(split_pass, "attend", counted)


def exhaust_memory(monkeypatch, at: int):
    """The others can't have the memory for a pass. at: its number."""
    numbers = iter(range(1, 1000))
    spec = pack_module("nodes.cards.cargo").Spec((2**50,), torch.float32)
    real = wrapper.Pass

    def too_large(key, cargo, specs):
        return real(key, cargo, specs + [spec] * (next(numbers) == at))

    monkeypatch.setattr(wrapper, "Pass", too_large)


PROGRAM = """
import json, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background
sys.path.insert(0, {tests!r})
from conftest import pack_module
from multi_gpu_faults import Calls, pids
from pytest import MonkeyPatch
from zoo.case import sample
from zoo.wan import video, wan

model = wan(dim=384, num_heads=3, num_layers=3).clone()
pack_module("nodes.cards.attach").attach(model, 2)
calls = Calls(MonkeyPatch())
calls.at[5] = lambda: print(json.dumps(pids()), flush=True) or time.sleep({seconds})
thread = threading.Thread(target=sample, args=(model, video()), daemon=True)  # as in ComfyUI
thread.start()
thread.join()
"""


class Program:
    """ComfyUI's parts in another Python. In its second pass it says the pids of its team."""

    def __init__(self, folder: Path, seconds: float):
        """folder: for its temporary files. seconds: that the second pass waits."""
        folder.mkdir()
        self.folder, self._errors = folder, folder.with_suffix(".errors").open("w+")
        environment = {"TMPDIR": str(folder), "RADIAL_ATTENTION_CPU_CARDS": "2"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(tests=str(TESTS), seconds=seconds)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,  # of what a terminal's Ctrl+C reaches
        )

    def pids(self) -> list[int]:
        """Waits for them."""
        for line in self._process.stdout:
            if line.startswith("["):
                return json.loads(line)
        raise AssertionError(self.end()[1])

    def send(self, number: int):
        """A signal, to all that a terminal sends it to."""
        os.killpg(self._process.pid, number)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it wrote besides."""
        try:
            code = self._process.wait(SECONDS)
        finally:
            self._process.kill()
        self._errors.seek(0)
        return code, self._errors.read()


def wait_until(is_so, seconds=10) -> bool:
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
    return is_so()


def warnings(caplog) -> list[str]:
    """Of Radial Multi-GPU."""
    found = (r for r in caplog.records if r.levelno >= logging.WARNING)
    return [r.getMessage() for r in found if "Radial Multi-GPU" in r.getMessage()]
