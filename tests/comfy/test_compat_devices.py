"""The patch with a model on two devices at once, each with its own thread and some of the passes.

Both devices are the CPU here. The clones, the threads and the split are ComfyUI's own.
"""

import sys
import threading

import comfy.ldm.wan.model
import comfy.model_management
import comfy.sd
import pytest
import torch
import torch._dynamo
from adaptive import times_looked
from comfy.ldm.modules.attention import attention_pytorch
from comfy_extras.nodes_torch_compile import TorchCompileModel
from conftest import BLOCKS, difference, newest_only, patch, prompt, sample, with_lora

pytestmark = newest_only("it has no clones for other devices")
STEPS = 2


@pytest.fixture(scope="module")
def on_disk(stand_ins):
    """A model that ComfyUI can load again, for another device."""
    path = stand_ins / "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"
    return comfy.sd.load_diffusion_model(str(path))


@pytest.fixture
def split(on_disk, monkeypatch):
    """model -> model, as the node that splits the passes does."""
    from comfy.multigpu import create_multigpu_deepclones

    devices = [on_disk.load_device, torch.device("cpu", 1)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda **_: devices)
    return lambda model: create_multigpu_deepclones(model, len(devices))


def test_each_device_takes_a_conditioning(on_disk, split, check):
    summary, _ = check(on_disk, split)
    assert (summary["steps"], summary["model_calls"]) == (STEPS, 2 * STEPS)
    assert summary["radial_calls"] == BLOCKS * summary["model_calls"]


def test_with_a_lora_and_three_prompts(on_disk, split, check):
    positive = [*prompt(3), *prompt(4)]
    check(on_disk, lambda model: with_lora(split(model)), positive=positive)


@pytest.fixture
def in_step():
    """Both devices begin each pass together, and Python switches threads often."""
    meeting = threading.Barrier(2, timeout=60)

    def meet(apply, arguments):
        meeting.wait()
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield meet
    sys.setswitchinterval(interval)


def twice_the_calls(both, one):
    """Whether the report of two devices has each call that `one` had in a batch of two."""
    dense = {why: 2 * n for why, n in one["dense_calls"].items()}
    names = ("model_calls", "radial_calls")
    return both["dense_calls"] == dense and all(both[name] == 2 * one[name] for name in names)


SETTINGS = {"dense_steps": 2, "dense_last_steps": 1, "dense_blocks": 1}


def test_both_at_once_are_in_one_report(on_disk, split, summaries, in_step):
    expected = sample(patch(on_disk, **SETTINGS), steps=8)
    model = split(patch(on_disk, **SETTINGS))
    model.set_model_unet_function_wrapper(in_step)
    assert difference(sample(model, steps=8), expected) < 1e-4
    one, both = summaries
    assert one["steps"] == both["steps"] == 8 and twice_the_calls(both, one)


def test_both_at_once_under_torch_compile(on_disk, split, summaries, in_step, monkeypatch):
    """The graphs use the pass of their own thread."""
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)
    torch._dynamo.reset()
    expected = sample(patch(on_disk, **SETTINGS), steps=5)
    model = split(TorchCompileModel.execute(patch(on_disk, **SETTINGS), "eager").args[0])
    sample(model, steps=5)  # compiles
    model.set_model_unet_function_wrapper(in_step)
    assert difference(sample(model, steps=5), expected) < 1e-4
    one, _, both = summaries
    assert twice_the_calls(both, one)


def test_each_device_has_its_adaptive_lists(on_disk, split, summaries, in_step, any_density):
    settings = {"dense_steps": 1, "lists": "adaptive"}
    one, model = patch(on_disk, **settings), split(patch(on_disk, **settings))
    expected = sample(one, steps=4)
    model.set_model_unet_function_wrapper(in_step)
    assert difference(sample(model, steps=4), expected) < 1e-4
    assert times_looked(one) == times_looked(model) == [2 * BLOCKS]
    assert difference(expected, sample(patch(on_disk, dense_steps=1), steps=4)) > 1e-3
