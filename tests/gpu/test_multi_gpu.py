"""Radial Multi-GPU on two GPUs, in the real ComfyUI: results, weights, and all that can go wrong.

    RADIAL_ATTENTION_COMFYUI=FOLDER python -m pytest tests/gpu/test_multi_gpu.py

RADIAL_ATTENTION_DYNAMIC=1 has ComfyUI load weights as they are used (DynamicVRAM), as its main.py
does on NVIDIA's GPUs.
"""

import logging
import os
import signal
import threading
import time

import pytest
import torch
from in_comfyui import COMFYUI, differ, sample, with_lora

pytestmark = pytest.mark.skipif(
    COMFYUI is None or torch.cuda.device_count() < 2, reason="no ComfyUI, or fewer than two GPUs"
)
CLOSE = 1e-2  # relative RMS after all steps, where bits differ


@pytest.fixture
def multi(pack):
    node = pack("multi_gpu").RadialMultiGPU
    return lambda model, gpus=2: node.execute(model, gpus=gpus).args[0]


@pytest.fixture
def radial(pack):
    node = pack("patch").RadialAttentionPatch
    settings = dict(dense_steps=1, dense_last_steps=1, dense_blocks=1, sink_frames=1, decay=0.2)
    settings |= dict(block_size="128", backend="auto")
    return lambda model, **more: node.execute(model, **settings | more).args[0]


def team(pack):
    (team,) = pack("cards.team")._teams.values()
    return team


def pids(pack):
    return [process.pid for process in team(pack).processes]


@pytest.fixture(scope="module")
def one(model):
    runs = [sample(model) for _ in range(3)]
    print("runs on one GPU differ by", differ(runs[0], runs[1]), differ(runs[1], runs[2]))
    return runs[-1]


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "radial_attention")
    return lambda: [r.getMessage() for r in caplog.records if "Multi-GPU" in r.getMessage()]


def test_dense(model, multi, one, said):
    begin = time.perf_counter()
    two = sample(multi(model))
    print(f"first run {time.perf_counter() - begin:.1f} s", said())
    begin = time.perf_counter()
    again = sample(multi(model))
    print(f"second run {time.perf_counter() - begin:.1f} s", said()[-1])
    print("difference", differ(one, two), "same bits", torch.equal(one, two))
    assert differ(one, two) < CLOSE and torch.equal(two, again)


@pytest.mark.parametrize("more", [{}, {"preset": "balanced"}, {"precision": "8 bit"}])
def test_radial(model, multi, radial, said, more):
    one = sample(radial(model, **more))
    two, before = sample(multi(radial(model, **more))), sample(radial(multi(model), **more))
    print(more, "difference", differ(one, two), "same bits", torch.equal(one, two), said()[-1])
    assert differ(one, two) < CLOSE and torch.equal(two, before)


def test_lora(model, multi, one, said):
    changed = with_lora(model)
    alone = sample(changed)
    two = sample(multi(changed))
    print("LoRA changes", differ(one, alone), "difference", differ(alone, two), said()[-2:])
    assert differ(one, alone) > 0.02 and differ(alone, two) < 10 * CLOSE
    assert differ(one, sample(multi(model))) < CLOSE


def in_pass(seconds, do):
    """Do something some seconds from now, in another thread."""
    threading.Timer(seconds, do).start()


def test_a_killed_process(pack, model, multi, one, said):
    sample(multi(model))
    (pid,) = pids(pack)
    in_pass(0.4, lambda: os.kill(pid, signal.SIGKILL))
    begin = time.perf_counter()
    two = sample(multi(model))
    print(f"killed: {time.perf_counter() - begin:.1f} s", said()[-2:])
    assert differ(one, two) < CLOSE and any("SIGKILL" in s or "signal 9" in s for s in said())
    assert differ(one, sample(multi(model))) < CLOSE and pids(pack) != [pid]
    assert "4 passes" in said()[-1]


def test_a_stopped_process(pack, model, multi, one, said, monkeypatch):
    sample(multi(model))
    monkeypatch.setattr(pack("cards.team"), "LIMIT", 4.0)
    (pid,) = pids(pack)
    in_pass(0.4, lambda: os.kill(pid, signal.SIGSTOP))
    begin = time.perf_counter()
    two = sample(multi(model))
    print(f"stopped: {time.perf_counter() - begin:.1f} s", said()[-2:])
    assert differ(one, two) < CLOSE and time.perf_counter() - begin < 30
    monkeypatch.undo()
    assert differ(one, sample(multi(model))) < CLOSE and "4 passes" in said()[-1]


def test_an_interrupt(pack, model, multi, one, said):
    import comfy.model_management as management

    sample(multi(model))
    before = pids(pack)
    in_pass(0.4, management.interrupt_current_processing)
    begin = time.perf_counter()
    with pytest.raises(management.InterruptProcessingException):
        sample(multi(model))
    print(f"interrupted after {time.perf_counter() - begin:.1f} s")
    begin = time.perf_counter()
    assert differ(one, sample(multi(model))) < CLOSE and pids(pack) == before
    print(f"next run: {time.perf_counter() - begin:.1f} s", said()[-1])


def test_too_little_memory_there(pack, model, multi, one, said):
    sample(multi(model))
    free, _ = torch.cuda.mem_get_info(1)
    filled = torch.empty(free - 2**28, dtype=torch.uint8, device="cuda:1")
    try:
        two = sample(multi(model))
        print("out of memory:", said()[-2:])
        assert differ(one, two) < CLOSE
        if pack("cards.team")._teams:
            two = sample(multi(model))
            print("then:", said()[-2:])
            assert differ(one, two) < CLOSE
    finally:
        del filled
        torch.cuda.empty_cache()
    assert differ(one, sample(multi(model))) < CLOSE and "4 passes" in said()[-1]
