"""Why a run, or a pass, stays on one GPU: it gives the same, and says why in one line."""

import logging
import sys
import threading
from functools import partial
from types import ModuleType, SimpleNamespace
from unittest.mock import patch as replaced

import comfy.ldm.wan.model as wan_file
import comfy.model_management
import comfy.sd
import pytest
import torch
import zoo
from conftest import (
    difference,
    own_wan,  # noqa: F401  (a fixture)
    pack_module,
    sample,
    with_lora,
    with_override,
    with_wrapper,
)
from multi_gpu import (
    cards,  # noqa: F401  (a fixture)
    cards_on_the_cpu,
    said,
    split,
)
from step_caches import cache_dit, teacache
from test_compat_weights import Int8, hooked

packs = pack_module("nodes.comfyui.packs")


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "radial_attention")
    return caplog


@pytest.fixture
def no_process(monkeypatch):
    """What is known before needs none."""

    def refuse(*_):
        raise AssertionError("a process was to start")

    monkeypatch.setattr(pack_module("nodes.cards.wrapper"), "team_of", refuse)


def check(log, model, why, sample=sample):
    """One line says why, and the result is that of the model without the node."""
    one = sample(model)
    log.clear()
    assert torch.equal(sample(split(model)), one)
    warnings = [each for each in log.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 1 and why in warnings[0].getMessage()
    assert said(log)


def object_patch(model):
    model = model.clone()
    ffn = model.model.diffusion_model.blocks[0].ffn
    twice = partial(lambda own, x: 2 * own(x), ffn.forward)
    model.add_object_patch("diffusion_model.blocks.0.ffn.forward", twice)
    return model


def doubled(module, args, output):
    return 2 * output


def injected(model):
    from comfy.patcher_extension import PatcherInjection as Injection

    handles, model = [], model.clone()
    layer = model.model.diffusion_model.blocks[0].ffn

    def inject(_patcher):
        handles.append(layer.register_forward_hook(doubled))

    def eject(_patcher):
        while handles:
            handles.pop().remove()

    model.set_injections("test", [Injection(inject, eject)])
    return model


def weight_wrapper(model):
    model = model.clone()
    model.add_weight_wrapper("diffusion_model.blocks.0.ffn.0.weight", lambda weight: 2 * weight)
    return model


MODELS = {
    "an object patch": (object_patch, "a node replaces diffusion_model.blocks.0.ffn.forward"),
    "an injection": (injected, "a node injects something into the model"),
    "a weight wrapper": (weight_wrapper, "a node changes weights as they are used"),
    "teacache": (teacache, "step_caches replaces forward_orig of the model"),
}


@pytest.mark.parametrize("change, why", MODELS.values(), ids=MODELS)
def test_what_a_node_does_to_a_model(wan, log, no_process, change, why):
    check(log, change(wan), why)


@pytest.mark.oldest
def test_a_lora_with_a_schedule(wan, log, no_process):
    check(log, wan, "a LoRA has a schedule", lambda model: sample(model, positive=hooked(3)))


def test_layers_of_another_pack(wan_weights, log, no_process):
    weights, metadata = wan_weights
    options = {"custom_operations": Int8}
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights), options, metadata)
    check(log, model, "its layers are test_compat_weights's")


def test_a_family_that_is_not_split(log, no_process):
    case = next(each for each in zoo.CASES if each.name.startswith("ltx"))
    model, inputs = case.model(), case.inputs()
    check(log, model, "can't be split among GPUs yet", lambda model: zoo.sample(model, inputs))


def test_more_gpus_than_heads(wan, log, no_process):
    with cards_on_the_cpu(3):
        check(log, wan, "the model has 2 heads, fewer than there are GPUs")


def test_torch_compile(wan, log, no_process):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    compiled = wan.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager")
    check(log, compiled, "the model is compiled by torch.compile")


def test_training(wan, log, no_process, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    check(log, wan, "the model is in training")


def test_a_forward_for_good(own_wan, log, no_process):  # noqa: F811
    replaced_forward = cache_dit(own_wan, warmup=1000)
    check(log, replaced_forward, "step_caches replaces forward of the model")


def test_multi_gpu_cfg_split(wan, log, no_process):
    marked = wan.clone()
    marked.model_options["transformer_options"]["multigpu_thread_device"] = "cuda:1"
    check(log, marked, "MultiGPU CFG Split")


@pytest.fixture
def a_pack(monkeypatch):
    """A module as ComfyUI loads one from custom_nodes."""
    name = "/somewhere/custom_nodes/a_pack"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))

    def of_the_pack(function):
        function.__module__ = name
        return function

    return of_the_pack


def test_a_function_of_a_class(wan, log, no_process, a_pack, monkeypatch):
    own = wan_file.WanModel.forward_orig
    monkeypatch.setattr(
        wan_file.WanModel, "forward_orig", a_pack(lambda *args, **kwargs: own(*args, **kwargs))
    )
    check(log, wan, "a_pack replaces WanModel.forward_orig")


def test_comfyuis_attention(wan, log, no_process, a_pack, monkeypatch):
    own = wan_file.optimized_attention
    monkeypatch.setattr(
        wan_file, "optimized_attention", a_pack(lambda *args, **kwargs: own(*args, **kwargs))
    )
    check(log, wan, "a_pack replaces ComfyUI's attention")


def test_another_function_of_comfyuis_file(wan, log, no_process, a_pack, monkeypatch):
    own = wan_file.sinusoidal_embedding_1d
    changed = a_pack(lambda *args: 0.5 * own(*args))
    monkeypatch.setattr(wan_file, "sinusoidal_embedding_1d", changed)
    check(log, wan, "a_pack replaces sinusoidal_embedding_1d of comfy.ldm.wan.model")


def test_a_hook_of_a_pack(wan, log, no_process, a_pack):
    layer = wan.model.diffusion_model.blocks[0].ffn
    handle = layer.register_forward_hook(a_pack(lambda module, args, output: 2 * output))
    try:
        check(log, wan, "a_pack hooks into blocks.0.ffn")
    finally:
        handle.remove()


def test_a_part_of_a_pack(wan, log, no_process, a_pack, monkeypatch):
    layer = wan.model.diffusion_model.blocks[0].ffn
    monkeypatch.setattr(layer, "__class__", a_pack(type("Theirs", (type(layer),), {})))
    check(log, wan, "blocks.0.ffn is a_pack's")


def on_the_hook(func, *args, **kwargs):
    return 0.5 * func(*args, **kwargs)


def with_patch(model):
    model = model.clone()
    model.set_model_patch_replace(
        lambda args, extra: extra["original_block"](args), "dit", "double_block", 0
    )
    return model


def with_control(model):
    """ControlNet's result, at the model's door."""

    def wrapper(executor, x, t, c_concat, c_crossattn, control, *args, **kwargs):
        return executor(x, t, c_concat, c_crossattn, {"output": []}, *args, **kwargs)

    return with_wrapper(model, wrapper)


def changed_for_a_pass(model):
    """By a wrapper inside of ours."""
    block = model.model.diffusion_model.blocks[1]

    def wrapper(executor, *args, **kwargs):
        with replaced.object(block, "forward", lambda x, **_: x):
            return executor(*args, **kwargs)

    return with_wrapper(model, wrapper)


PASSES = {
    "an override": (lambda model: with_override(model, on_the_hook), "is on the attention hook"),
    "a block's patch": (with_patch, "a node patches dit"),
    "ControlNet": (with_control, "ControlNet"),
    "a forward for a pass": (changed_for_a_pass, "replaces forward of blocks.1"),
}


@pytest.mark.parametrize("change, why", PASSES.values(), ids=PASSES)
def test_a_pass_that_is_not_split(wan, log, change, why):
    check(log, change(wan), f"passes run on one GPU: {why}" if why == "ControlNet" else why)


@pytest.mark.parametrize("is_packs", [True, False])
def test_an_input_that_cannot_be_sent(wan, log, a_pack, is_packs):
    value = a_pack(type("State", (), {}))() if is_packs else threading.Lock()

    def wrapper(executor, *args, **kwargs):
        return executor(*args, **kwargs, state=value)

    why = "State of a_pack is in this process only" if is_packs else "TypeError: cannot pickle"
    check(log, with_wrapper(wan, wrapper), f"passes run on one GPU: {why}")


def test_torchs_switches_go_along():
    """ComfyUI's --fast sets some of them, and so do nodes."""
    Switches, matmul = pack_module("nodes.cards.pass_call").Switches, torch.backends.cuda.matmul
    before = Switches.now()
    try:
        for name in vars(before):
            setattr(matmul, name, not getattr(before, name))
        changed = Switches.now()
        before.apply()
        assert Switches.now() == before
        changed.apply()
        assert Switches.now() == changed
    finally:
        before.apply()


def test_other_nodes_objects_in_the_options_stay(wan, log, a_pack):
    """Their own wrappers read them, such as those of caches."""
    model, cls = wan.clone(), a_pack(type("State", (SimpleNamespace,), {}))
    model.model_options["transformer_options"]["a pack's state"] = cls(seen=0)
    one = sample(model)
    log.clear()
    assert difference(sample(split(model)), one) < 1e-5
    assert said(log)[-1].startswith("2 GPUs, 2 passes")


def test_once_the_reason_is_gone_it_is_split(wan, log):
    """Of the same MODEL too: the next prompt may have no LoRA of its own."""
    sample(split(object_patch(wan)))
    model = split(with_lora(wan))
    sample(model, positive=hooked(3))
    assert "a LoRA has a schedule" in said(log)[-1]
    assert difference(sample(model), sample(with_lora(wan))) < 1e-5
    assert any(line.startswith("2 GPUs, 2 passes") for line in said(log))
