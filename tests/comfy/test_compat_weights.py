"""The patch with LoRAs, merged models, and quantized or partly loaded weights."""

import json

import comfy.hooks
import comfy.model_management
import comfy.ops
import comfy.quant_ops
import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_merging import ModelAdd, ModelMergeSimple
from conftest import BLOCKS, difference, load, lora, pack_module, patch, prompt, sample, with_lora

import nodes

STEPS = 2


def hooked(seed, strengths=None):
    """A prompt with its own LoRA. strengths: (share of the schedule, strength) pairs."""
    hooks = comfy.hooks.create_hook_lora(lora(seed), 1.0, 0.0)
    if strengths is not None:
        keyframes = comfy.hooks.HookKeyframeGroup()
        for start, strength in strengths:
            keyframes.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
        hooks.set_keyframes_on_hooks(keyframes)
    return comfy.hooks.set_hooks_for_conditioning(prompt(seed), hooks)


@pytest.mark.parametrize(
    "positive, passes",
    [
        (hooked(3), 2),
        ([*hooked(3), *hooked(4), *prompt(5)], 3),
        (hooked(3, [(0.0, 1.0), (0.5, 0.0)]), 2),
    ],
    ids=["one", "two of three prompts", "for half of the steps"],
)
def test_prompts_with_loras_of_their_own(wan, check, positive, passes):
    """Prompts with the same LoRA share a pass. The weights change from pass to pass."""
    summary, _ = check(wan, positive=positive)
    assert summary["model_calls"] == passes * STEPS
    without = sample(patch(wan), positive=[[text, {}] for text, _ in positive])
    assert difference(sample(patch(wan), positive=positive), without) > 1e-3


@pytest.fixture
def other_wan(wan_weights):
    weights, metadata = wan_weights
    return load({k: x.flip(0) if x.ndim == 2 else x for k, x in weights.items()}, metadata)


MERGES = {
    "simple": lambda a, b: ModelMergeSimple().merge(a, b, 0.4)[0],
    "add": lambda a, b: ModelAdd().merge(a, b)[0],
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_merged_models(wan, other_wan, check, summaries, merge):
    """The first model's settings count, as for any other patch."""
    check(wan, lambda model: merge(model, other_wan))
    first = sample(merge(patch(wan), other_wan))
    assert torch.equal(sample(merge(patch(wan), patch(other_wan, decay=1.0))), first)
    before = len(summaries)
    plain = sample(merge(wan, other_wan))
    assert torch.equal(sample(merge(wan, patch(other_wan))), plain)
    assert len(summaries) == before


@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"])
def test_weights_cast_by_the_loader(stand_ins, check, monkeypatch, dtype):
    folder = ([str(stand_ins / "diffusion_models")], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", folder)
    (model,) = nodes.UNETLoader().load_unet("wan2.1_t2v_1.3B_fp16.safetensors", dtype)
    assert model.model.diffusion_model.blocks[0].self_attn.q.weight.itemsize == 1
    check(model)
    patch(model, backend="sdpa")  # computes in another dtype than that of the weights


def quantized(weights, metadata, name):
    """A checkpoint with the matrices of all blocks in one of ComfyUI's quantized formats."""
    layout = comfy.quant_ops.QUANT_ALGOS[name]["comfy_tensor_layout"]
    scale = {"scale": "recalculate"} if name.startswith("float8") else {}
    out, layers = {}, {}
    for key, x in weights.items():
        if key.startswith("blocks.") and key.endswith(".weight") and x.ndim == 2:
            x = comfy.quant_ops.QuantizedTensor.from_float(x, layout, **scale)
            out.update(x.state_dict(key))
            layers[key.removesuffix(".weight")] = {"format": name}
        else:
            out[key] = x
    quantization = {"format_version": "1.0", "layers": layers}
    return out, {**metadata, "_quantization_metadata": json.dumps(quantization)}


WITHOUT_AND_WITH_A_LORA = pytest.mark.parametrize(
    "other_node",
    [lambda model: model, pytest.param(with_lora, marks=pytest.mark.slow)],
    ids=["without a LoRA", "with a LoRA"],
)
# These formats quantize activations too. The last bit of one, which may depend on the threads, can
# change everything that follows.
SENSITIVE = ("int8_tensorwise", "convrot_w4a4")


@pytest.fixture
def check_calls(summaries, monkeypatch):
    """check_calls(model, other_node): as `check`, but compares each radial call with the oracle."""
    compute, reference = pack_module("nodes.hook.compute"), pack_module("radial_core.reference")
    attend, errors = compute.attend, []

    def watched(q, k, v, plan, *arguments, **options):
        out, *rest = attend(q, k, v, plan, *arguments, **options)
        errors.append(difference(out, reference.reference_attention(q, k, v, plan)))
        return out, *rest

    def check_calls(model, other_node):
        for both in (patch(other_node(model)), other_node(patch(model))):
            assert sample(both, steps=1, cfg=1.0).isfinite().all()
            assert summaries[-1]["radial_calls"] == BLOCKS
        assert len(errors) == 2 * BLOCKS and max(errors) < 1e-5

    monkeypatch.setattr(compute, "attend", watched)
    return check_calls


@WITHOUT_AND_WITH_A_LORA
@pytest.mark.parametrize("name", comfy.quant_ops.QUANT_ALGOS)
def test_quantized_checkpoints(wan_weights, request, name, other_node):
    model = load(*quantized(*wan_weights, name))
    weight = model.model.diffusion_model.blocks[0].self_attn.q.weight
    assert isinstance(weight.data, comfy.quant_ops.QuantizedTensor)
    check = request.getfixturevalue("check_calls" if name in SENSITIVE else "check")
    check(model, other_node)
    patch(model, backend="sdpa")


class Int8(comfy.ops.manual_cast):
    """Operations of a pack with its own format of weights, as GGUF loaders have."""

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            x = state_dict[f"{prefix}weight"]
            self.scale = x.abs().amax() / 127
            self.weight = torch.nn.Parameter((x / self.scale).round().to(torch.int8), False)
            self.bias = torch.nn.Parameter(state_dict[f"{prefix}bias"], False)

        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def test_operations_of_another_pack(wan, wan_weights, check):
    weights, metadata = wan_weights
    options = {"custom_operations": Int8}
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights), options, metadata)
    check(model)
    patch(model, backend="sdpa")
    assert 1e-4 < difference(sample(patch(model)), sample(patch(wan))) < 0.1


@WITHOUT_AND_WITH_A_LORA
def test_partly_loaded_weights(wan_weights, check, monkeypatch, other_node):
    """As on a GPU with little memory: the rest is cast, and gets its LoRA, when it is used."""
    loaded = comfy.model_management.LoadedModel
    model_load = loaded.model_load

    def load_half(self, *_args, **_options):
        return model_load(self, self.model_memory() / 2 - self.model_loaded_memory() + 1)

    def watch(apply, arguments):
        in_part.append(model.model.model_lowvram)
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    monkeypatch.setattr(loaded, "model_load", load_half)
    model, in_part = load(*wan_weights), []
    model.set_model_unet_function_wrapper(watch)
    check(model, other_node)
    assert in_part and all(in_part)
