"""Radial Train Layers and Radial Trim LoRA: which layers train, and which stay in the file."""

import re

import comfy.model_management
import pytest
import torch
import zoo
from comfy_extras.nodes_torch_compile import TorchCompileModel
from comfy_extras.nodes_train import LoraModelLoader
from conftest import newest_only, pack_module, patch, prompt, sample, with_override
from test_models import around_the_video
from trainer import layers, train, trim, wan_model
from zoo import hunyuan_video as hunyuan
from zoo.mochi import mochi
from zoo.wan21 import CASES

import nodes

pytestmark = pytest.mark.oldest

ENDS = re.compile(
    r"\.(lora_up\.weight|lora_down\.weight|hada_\w+|lokr_\w+|oft_blocks|alpha|diff|diff_b)$"
)
TYPICAL = [case for case in zoo.CASES if case.typical]
QKVO = {f"blocks.{i}.self_attn.{name}" for i in range(3) for name in "qkvo"}
WAYS = [
    *({"algorithm": name} for name in ("LoRA", "LoHa", "LoKr", "OFT")),
    {"bypass_mode": True},
    {"bypass_mode": True, "offloading": True, "gradient_checkpointing": True},
]


def names_in(lora):
    return {ENDS.sub("", name).removeprefix("diffusion_model.") for name in lora}


def chosen(model, names):
    keys = pack_module("nodes.training.layers").chosen_weights(model.model.diffusion_model, names)
    return {key.removeprefix("diffusion_model.").removesuffix(".weight") for key in keys}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(map(str, way.values())))
def test_only_the_named_layers_train(stand_ins, way):
    values = {"optimizer": "AdamW", "learning_rate": 1e-3, **way}
    whole, _ = train(layers(wan_model(stand_ins), " q,k, v,o"), prompt(), **values)
    assert names_in(trim(whole)) == QKVO < names_in(whole)
    everything, _ = train(wan_model(stand_ins), prompt(), **values)
    assert len(names_in(trim(everything))) > 2 * len(QKVO)


@pytest.mark.parametrize(
    "nodes_on",
    [
        lambda model: patch(layers(layers(model), "ffn")),
        lambda model: layers(patch(layers(model)), "ffn"),
    ],
    ids=["before the patch", "after the patch"],
)
def test_the_last_of_two_nodes_wins(stand_ins, nodes_on):
    lora, _ = train(nodes_on(wan_model(stand_ins)), prompt())
    assert names_in(trim(lora)) == {f"blocks.{i}.ffn.{j}" for i in range(3) for j in (0, 2)}


def test_sampling_is_unchanged(wan):
    for model in (wan, patch(wan)):
        named = layers(model)
        assert torch.equal(sample(named), sample(model))
        assert not any(block._forward_pre_hooks for block in model.model.diffusion_model.blocks)


def test_training_leaves_no_hooks_behind(stand_ins):
    """ComfyUI 0.16.3 trains its input model itself."""
    model = layers(patch(wan_model(stand_ins)))
    train(model, prompt())
    assert not any(module._forward_pre_hooks for module in model.model.modules())


def test_the_layers_of_each_family():
    double = {f"double_blocks.{i}.img_attn." for i in range(2)}
    single = {f"single_blocks.{i}.linear" for i in range(2)}
    model = hunyuan.hunyuan_video()
    assert chosen(model, "q") == chosen(model, "k,v")
    assert chosen(model, "q") == {f"{x}qkv" for x in double} | {f"{x}1" for x in single}
    assert chosen(model, "o") == {f"{x}proj" for x in double} | {f"{x}2" for x in single}
    assert chosen(model, "txt_attn.qkv") == {f"double_blocks.{i}.txt_attn.qkv" for i in range(2)}
    model = mochi()
    assert chosen(model, "q, o") == {
        f"blocks.{i}.attn.{x}_x" for i in range(3) for x in ("qkv", "proj")
    }


class Enough(Exception):
    pass


def first_call(case, model, disturbed=()):
    """q, k and v of the first self-attention call over the video. disturbed: names of layers whose
    outputs are noise."""
    net, found = model.model.diffusion_model, []
    noise = torch.Generator().manual_seed(7)

    def disturb(_layer, _arguments, output):
        return output + torch.randn(output.shape, generator=noise)

    def override(func, q, k, v, heads, *args, skip_reshape=False, **kwargs):
        if around_the_video(case, q, k, skip_reshape):
            found.extend((q, k, v))
            raise Enough
        return func(q, k, v, heads, *args, skip_reshape=skip_reshape, **kwargs)

    handles = [net.get_submodule(name).register_forward_hook(disturb) for name in disturbed]
    try:
        with pytest.raises(Enough):
            zoo.sample(with_override(model, override), case.inputs())
    finally:
        for handle in handles:
            handle.remove()
    return found


@pytest.mark.parametrize("case", TYPICAL, ids=lambda case: case.name)
def test_q_k_v_and_o_are_what_makes_them(case):
    """Noise in the layers of one changes that one. Where a layer makes more, it changes those."""
    model = case.model()
    plain, layers_of = first_call(case, model), {name: chosen(model, name) for name in "qkvo"}
    for name, disturbed in layers_of.items():
        changed = [
            not torch.equal(now, before)
            for now, before in zip(first_call(case, model, disturbed), plain, strict=True)
        ]
        assert changed == [bool(layers_of[other] & disturbed) for other in "qkv"], name
        blocks = {re.match(r"\w+\.\d+\.", layer)[0] for layer in disturbed}
        assert len(blocks) == len(case.calls)


AVAILABLE = [case for case in CASES if case.is_there]


@pytest.mark.parametrize("case", AVAILABLE, ids=lambda case: case.name)
def test_every_wan_has_q_k_v_and_o(case):
    model = case.model()
    names = (name for name, _ in model.model.diffusion_model.named_modules())
    blocks = {name for name in names if re.fullmatch(r"\w*blocks\.\d+\.self_attn", name)}
    assert len(blocks) >= len(case.calls)
    assert chosen(model, "q, k, v, o") == {f"{block}.{name}" for block in blocks for name in "qkvo"}


@pytest.mark.parametrize(
    "names, wrong",
    [
        ("x", "x"),
        ("q, x,", "x"),
        ("", ""),
        (" , ", ""),
        ("q,self_attn.x", "self_attn.x"),
        ("Q", "Q"),
    ],
)
def test_an_unknown_layer(wan, names, wrong):
    message = rf"layers must be names out of q, k, .*ffn\.2.*, got {wrong!r}$"
    with pytest.raises(ValueError, match=message):
        layers(wan, names)


def test_a_model_that_is_not_known():
    model, _ = hunyuan.hunyuan_image()
    cls = type(model.model.diffusion_model)
    other = type("Other", (cls,), {"__module__": cls.__module__})  # a new one of ComfyUI's
    model.model.diffusion_model.__class__ = other
    with pytest.raises(ValueError, match="model must be Wan, HunyuanVideo.* or .*, got .*Other"):
        layers(model)


def test_missing_adapters_stop_training_before_it_starts(wan):
    freeze = pack_module("nodes.train_layers").freeze_others
    with pytest.raises(RuntimeError, match="no adapter for 1 of 1 layers, such as unknown"):
        freeze(wan.clone(), frozenset({"unknown"}))


@newest_only("its Train LoRA trains its input model, compiled or not")
def test_a_compiled_model_is_refused(wan, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    compiled = TorchCompileModel.execute(layers(wan), "eager").args[0]
    with pytest.raises(RuntimeError, match="remove the node that compiles the model"):
        compiled.pre_run()


ZERO, ONE = torch.zeros(2, 2), torch.ones(2, 2)


@pytest.mark.parametrize(
    "lora, kept",
    [
        ({"a.lora_up.weight": ONE, "a.lora_down.weight": ZERO, "a.alpha": ONE}, 0),
        ({"a.lora_up.weight": ZERO, "a.lora_down.weight": ONE, "a.diff_b": ONE}, 1),
        ({"a.lora_up.weight": ONE, "a.lora_down.weight": ONE, "a.diff_b": ZERO}, 2),
        ({"a.lora_up.weight": ONE, "a.lora_down.weight": ONE, "a.alpha": ZERO}, 3),
        ({"a.lora_up.weight": ZERO, "a.lora_down.weight": ONE, "a.dora_scale": ONE}, 3),
        ({"a.diff": ZERO, "b.diff": ONE, "b.diff_b": ZERO}, 1),
        ({"a.b.hada_w1_a": ONE, "a.b.hada_w1_b": ONE, "a.b.hada_w2_a": ZERO}, 0),
        ({"a.unknown": ZERO, "unknown": ZERO}, 2),
        ({"a.diff": torch.full((2,), float("nan"))}, 1),
    ],
)
def test_only_idle_entries_are_trimmed(lora, kept):
    trimmed = trim(lora)
    assert len(trimmed) == kept and all(lora[name] is x for name, x in trimmed.items())


def test_the_text_says_what_was_kept():
    node = nodes.NODE_CLASS_MAPPINGS["RadialTrimLora"]
    size = torch.ones(1000, 250)
    lora = {"a.diff": size, "b.diff": torch.zeros_like(size), "c.diff_b": torch.zeros_like(size)}
    out = node.execute(lora)
    assert "1 of 3 layers" in out.args[1] and "1 of 3 MB" in out.args[1]
    assert out.ui["text"] == (out.args[1],)
    nothing, text = node.execute({"b.diff": ZERO}).args
    assert nothing == {} and "Nothing is left" in text


@pytest.mark.parametrize("lora", [None, {}, [], "abc", {"a": 1}, {1: ZERO}, ZERO])
def test_inputs_that_are_no_lora_are_refused(lora):
    with pytest.raises(ValueError, match="lora must come from Train LoRA, got "):
        trim(lora)


def test_an_empty_lora_loads(wan):
    assert torch.equal(sample(LoraModelLoader.execute(wan, {}, 1.0).args[0]), sample(wan))
