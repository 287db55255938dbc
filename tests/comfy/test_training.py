"""ComfyUI's own training nodes on patched models: Train LoRA, Save LoRA and the loaders."""

import comfy.sample
import comfy.samplers
import comfy.sd
import folder_paths
import pytest
import torch
import zoo
from comfy_extras.nodes_train import LoraModelLoader, LossGraphNode, SaveLoRA
from conftest import (
    EVERYTHING,
    ask_the_hook,
    difference,
    oracle,
    pack_module,
    patch,
    prompt,
)
from safetensors.torch import save_file
from trainer import clip, gradients, layers, train, trim, wan_model
from zoo import hunyuan_video as hunyuan
from zoo.case import Inputs, sample

import nodes

pytestmark = pytest.mark.oldest

DENSE_BLOCKS = 1


@pytest.fixture(scope="module")
def hunyuan_file(tmp_path_factory):
    """A file for ComfyUI's loader, from which Train LoRA can load the model again."""
    path = tmp_path_factory.mktemp("models") / "hunyuan.safetensors"
    weights = hunyuan.hunyuan_video().model.diffusion_model.state_dict()
    save_file({name: x.contiguous() for name, x in weights.items()}, path)
    return path


@pytest.fixture
def models(stand_ins, hunyuan_file):
    """load(name): a newly loaded model, since a trained one is not used again."""

    def load(name):
        if name == "wan":
            return wan_model(stand_ins)
        if name == "hunyuan":
            return comfy.sd.load_diffusion_model(str(hunyuan_file))
        model = OTHERS[name].model()
        model.cached_patcher_init = (lambda disable_dynamic=False: OTHERS[name].model(), ())
        return model

    return load


PROMPTS = {
    "wan": prompt,
    "hunyuan": hunyuan.text,
    "hunyuan padded": lambda: hunyuan.masked(26, [3, *range(20, 26)]),
}
# Self-attention calls over the video in a pass, of which DENSE_BLOCKS are dense.
CALLS = {"wan": 3, "hunyuan": 4}
# The other families, by a case of each. ComfyUI can't train MiniMax H3: test_minimax_h3.py.
NOT_HERE = (*CALLS, "minimax h3")
OTHERS = {c.name: c for c in zoo.CASES if c.typical and not c.name.startswith(NOT_HERE)}
TRAIN = {name: case for name, case in OTHERS.items() if case.trains}
PROMPTS |= {name: lambda case=case: case.inputs().positive for name, case in TRAIN.items()}
CALLS |= {name: sum(case.calls) for name, case in OTHERS.items()}
WAYS = {
    "checkpoints 1 deep": {"gradient_checkpointing": True},
    "checkpoints 2 deep": {"gradient_checkpointing": True, "checkpoint_depth": 2},
    "checkpoints 3 deep": {"gradient_checkpointing": True, "checkpoint_depth": 3},
    "bypass": {"bypass_mode": True},
    "offloading": {"offloading": True},
    "all of them": {
        "bypass_mode": True,
        "offloading": True,
        "gradient_checkpointing": True,
        "checkpoint_depth": 2,
    },
}


@pytest.mark.parametrize("prompt_name", PROMPTS)
def test_gradients_are_the_same_in_every_training_mode(models, summaries, prompt_name):
    """Checkpointing repeats calls in the backward pass. They must be radial or dense as before, and
    are not counted again."""
    name = prompt_name if prompt_name in CALLS else prompt_name.split()[0]
    clips = torch.randn_like(OTHERS[name].inputs().latent["samples"]) if name in OTHERS else clip()
    gradients_of = {}
    for way, values in {"plain": {}, **WAYS}.items():
        model = layers(patch(models(name), dense_blocks=DENSE_BLOCKS))
        gradients_of[way] = gradients(train(model, PROMPTS[prompt_name](), clips, **values)[0])
        summary = summaries[-1]
        assert summary["radial_calls"] == CALLS[name] - DENSE_BLOCKS, way
        assert summary["dense_calls"]["dense block"] == DENSE_BLOCKS, way
        others = {"dense block", "cross-attention", "outside the transformer blocks"}
        assert summary["dense_calls"].keys() <= others, way
    assert gradients_of["plain"].any()
    for way, gradient in gradients_of.items():
        assert difference(gradient, gradients_of["plain"]) < 1e-5, way


# Cosmos Predict2's fused rope, and the in-place additions of LTX's blocks.
NO_GRADIENT = "no autograd formula was registered|modified by an inplace operation"


@pytest.mark.parametrize("name", sorted(OTHERS.keys() - TRAIN.keys()))
def test_what_comfyui_cannot_train_it_cannot_train_without_us_either(models, name):
    prompts = OTHERS[name].inputs().positive
    clips = torch.randn_like(OTHERS[name].inputs().latent["samples"])
    for model in (models(name), patch(models(name))):
        with pytest.raises(RuntimeError, match=NO_GRADIENT):
            train(layers(model), prompts, clips)


@pytest.mark.parametrize("name", ["wan", "hunyuan"])
def test_bfloat16_costs_no_more_precision_than_with_dense_attention(models, summaries, name):
    values = {"gradient_checkpointing": True, "checkpoint_depth": 2}

    def error(make):
        exact, half = (
            gradients(train(layers(make()), PROMPTS[name](), **values, training_dtype=dtype)[0])
            for dtype in ("fp32", "bf16")
        )
        return difference(half, exact)

    dense = error(lambda: models(name))
    assert 0 < error(lambda: patch(models(name))) < 1.2 * dense
    assert summaries[-1]["radial_calls"] == CALLS[name]


@pytest.mark.parametrize("name", ["wan", "hunyuan"])
def test_batches_and_accumulated_steps(models, summaries, name):
    """ComfyUI runs a batch of n videos with each of its n prompts: n x n videos."""
    values = {"batch_size": 2, "grad_accumulation_steps": 2, "gradient_checkpointing": True}
    lora, losses = train(patch(models(name)), PROMPTS[name](), clip(3), **values)
    assert len(losses) == 2 and gradients(lora).any()
    summary = summaries[-1]
    assert summary["radial_calls"] == CALLS[name] * summary["model_calls"] >= 2 * CALLS[name]


def test_wans_gradients_equal_those_of_exact_masked_attention(models):
    truth, grids = oracle(models("wan"))
    exact, radial, dense = (
        gradients(train(layers(model), prompt())[0])
        for model in (truth, patch(models("wan")), models("wan"))
    )
    assert len(grids) == CALLS["wan"]
    assert difference(radial, exact) < 1e-5
    assert difference(dense, exact) > 0.01


def test_gradients_of_a_padded_prompt_are_exact(models, summaries, any_density):
    """With all blocks kept they equal those of ComfyUI's masked attention, else the reference's."""

    def gradient(model):
        return gradients(train(layers(model), PROMPTS["hunyuan padded"]())[0])

    dense = gradient(models("hunyuan"))
    assert difference(gradient(patch(models("hunyuan"), **EVERYTHING)), dense) < 1e-5
    exact = gradient(patch(models("hunyuan"), backend="reference"))
    assert summaries[-1]["backend"] == "reference"
    assert difference(gradient(patch(models("hunyuan"))), exact) < 1e-5
    assert difference(dense, exact) > 0.01


def test_gradients_are_right_if_a_kernel_fails_in_training(models, summaries, monkeypatch):
    """It fails in the third block; the ones before it are radial again when recomputed."""
    compute, calls = pack_module("nodes.hook.compute"), []
    attend = compute.attend

    def fails_once(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("out of luck")
        return attend(*args, **options)

    values = {"gradient_checkpointing": True, "checkpoint_depth": 2, "steps": 1}
    monkeypatch.setattr(compute, "attend", fails_once)
    failing = gradients(train(patch(models("wan")), prompt(), **values)[0])
    assert summaries[-1]["radial_calls"] == 2
    assert summaries[-1]["dense_calls"]["RuntimeError"] == 1
    calls.clear()
    once_more = gradients(train(patch(models("wan")), prompt())[0])
    assert difference(failing, once_more) < 1e-5


def test_autocast_casts_as_for_torchs_own_attention(wan):
    """Under autocast norms may return float32 while values are bfloat16."""

    def ask(ours, options):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, 540, 256, generator=generator) for _ in range(3))
        run = torch.nn.functional.scaled_dot_product_attention
        exact = ours(run, q, k, v, 2, transformer_options=options)
        with torch.autocast("cpu", torch.bfloat16):
            return exact, ours(run, q, k, v.bfloat16(), 2, transformer_options=options)

    exact, cast = ask_the_hook(wan, ask)
    assert cast.dtype == torch.bfloat16 and 0 < difference(cast, exact) < 0.01


class Loss(comfy.samplers.Sampler):
    """Used as a sampler, it measures the error of a model's clean video at some noise levels."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_, **__):
        sampling, losses = model_wrap.inner_model.model_sampling, []
        for level in (0.3, 0.6, 0.9):
            sigma = torch.tensor([float(sampling.percent_to_sigma(1 - level))])
            x = sampling.noise_scaling(sigma, noise, latent_image)
            losses.append((model_wrap(x, sigma, **extra_args) - latent_image).square().mean())
        self.loss = torch.stack(losses).mean().item()
        return latent_image


def validation_loss(model, clips, positive):
    loss, noise = Loss(), torch.randn(clips.shape, generator=torch.Generator().manual_seed(3))
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    comfy.sample.sample_custom(model, noise, 1.0, loss, sigmas, positive, positive, clips)
    return loss.loss


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wan", "hunyuan"])
def test_the_loss_falls(models, summaries, name):
    """On the clip that it was trained on, only by q, k, v and o, with other noise and levels."""
    model, clips, positive = patch(models(name)), clip(), PROMPTS[name]()
    before = validation_loss(model, clips, positive)
    lora, losses = train(
        layers(model),
        positive,
        clips,
        steps=20,
        learning_rate=0.02,
        rank=8,
        optimizer="AdamW",
        training_dtype="bf16",
        gradient_checkpointing=True,
        checkpoint_depth=2,
    )
    assert len(losses) == 20
    trained = LoraModelLoader.execute(patch(models(name)), trim(lora), 1.0).args[0]
    assert validation_loss(trained, clips, positive) < 0.8 * before
    assert summaries[-1]["radial_calls"] > 0


@pytest.mark.parametrize("name", ["wan", "hunyuan"])
def test_the_lora_loads_and_changes_the_video(models, name, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"})
    )
    positive = PROMPTS[name]()
    lora, _ = train(layers(patch(models(name))), positive, learning_rate=3.0, steps=2)
    trimmed = trim(lora)
    SaveLoRA.execute(trimmed, "lora", 2)
    (file,) = tmp_path.iterdir()
    for make in (lambda: models(name), lambda: patch(models(name))):
        video = run(make(), positive)
        whole = run(LoraModelLoader.execute(make(), lora, 1.0).args[0], positive)
        bypassed = run(LoraModelLoader.execute(make(), trimmed, 1.0, True).args[0], positive)
        loader = nodes.LoraLoaderModelOnly()
        (loaded,) = loader.load_lora_model_only(make(), file.name, 1.0)
        assert difference(whole, video) > 0.01
        assert torch.equal(
            run(LoraModelLoader.execute(make(), trimmed, 1.0).args[0], positive), whole
        )
        assert torch.equal(run(loaded, positive), whole)
        assert 0 < difference(bypassed, whole) < 0.02


def run(model, positive):
    return sample(model, Inputs(positive, positive, {"samples": torch.zeros(1, 16, 9, 12, 20)}))


def test_the_loss_graph(models, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    _, losses = train(patch(models("wan")), prompt(), steps=3, learning_rate=1e-3)
    output = LossGraphNode.execute({"loss": losses}, "loss")
    assert len(output.ui.as_dict()["images"]) == 1
