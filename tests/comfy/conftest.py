"""The real ComfyUI in this process: its loader loads the pack, its sampler runs the models."""

import asyncio
import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
import torch

PACK = Path(__file__).parents[2]
sys.path.insert(0, str(PACK / "workflows"))

from headless.environment import ensure_environment  # noqa: E402

ENVIRONMENT = ensure_environment()
sys.path.insert(0, str(ENVIRONMENT.comfyui))

from comfy.cli_args import args  # noqa: E402

args.cpu = not torch.cuda.is_available()
args.disable_api_nodes = True

import nodes  # noqa: E402  (ComfyUI's)

assert asyncio.run(nodes.load_custom_node(str(PACK)))


@pytest.fixture(scope="session")
def environment():
    return ENVIRONMENT


@pytest.fixture(scope="session")
def stand_ins():
    """The folder of the stand-in models, as workflows/run.py makes it."""
    from run import stand_in_models

    return stand_in_models(ENVIRONMENT)


@pytest.fixture(scope="session")
def wan_weights(stand_ins):
    """State dict and metadata of the stand-in Wan 2.1 T2V."""
    import comfy.utils

    path = stand_ins / "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"
    return comfy.utils.load_torch_file(str(path), return_metadata=True)


@pytest.fixture(scope="session")
def wan(wan_weights):
    """A MODEL of the stand-in Wan 2.1 T2V, 3 blocks."""
    return load(*wan_weights)


def load(weights, metadata):
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(dict(weights), metadata=dict(metadata))


@pytest.fixture
def summaries(monkeypatch):
    """What each sampler run tells the page, in order."""
    sent = []
    monkeypatch.setattr(pack_module("nodes.tally"), "_send", lambda event, data: sent.append(data))
    return sent


@pytest.fixture
def any_density(monkeypatch):
    """Plans that keep all blocks run through the radial core, too."""
    monkeypatch.setattr(pack_module("nodes.override"), "MOST_DENSITY", 1.0)


def pack_module(name):
    """A module of the pack as ComfyUI loaded it: "nodes.override", "radial_core.reference"."""
    pack = nodes.NODE_CLASS_MAPPINGS["RadialAttentionPatch"].__module__.removesuffix(".nodes.patch")
    return importlib.import_module(f"{pack}.{name}")


SLOT = "optimized_attention_override"
BLOCKS = 3  # of the stand-in

DEFAULTS = {
    "dense_steps": 0,
    "dense_last_steps": 0,
    "dense_blocks": 0,
    "sink_frames": 1,
    "decay": 0.2,
    "block_size": 64,
    "backend": "auto",
}


def patch(model, **settings):
    """The node, as ComfyUI loaded it, run on a model. Nothing is dense unless a setting says so."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionPatch"]
    return node.execute(model, **{**DEFAULTS, **settings}).args[0]


def sample(
    model,
    frames=9,
    height=12,
    width=20,
    *,
    batch=1,
    steps=2,
    cfg=3.0,
    sampler="euler",
    seed=1,
    text_tokens=20,
    latent=None,
    condition=None,
    **options,
):
    """ComfyUI's KSampler on a random prompt; condition: what the prompt carries besides text.

    Height and width in latent pixels, 2 a patch. The default is 9 x 6 x 10 patches: 540 tokens,
    8.4 blocks of 64. Returns (b, c, f, h, w).
    """
    generator = torch.Generator().manual_seed(7)
    positive, negative = (
        [[torch.randn(1, text_tokens, 16, generator=generator), condition or {}]] for _ in range(2)
    )
    if latent is None:
        latent = torch.zeros(batch, 16, frames, height, width)
    (out,) = nodes.common_ksampler(
        model,
        seed,
        steps,
        cfg,
        sampler,
        "simple",
        positive,
        negative,
        {"samples": latent},
        **options,
    )
    return out["samples"]


def difference(a, b):
    """Relative RMS."""
    return ((a - b).norm() / b.norm()).item()


def with_override(model, override):
    model = model.clone()
    model.model_options["transformer_options"][SLOT] = override
    return model


def with_wrapper(model, wrapper):
    """A node that wraps each forward pass, inside our own wrapper."""
    model = model.clone()
    model.add_wrapper_with_key("apply_model", "test", wrapper)
    return model


def ask_the_hook(wan, ask):
    """Call `ask(ours, options)` in the middle of a real forward pass, with no other override."""
    answers = []

    def override(func, q, k, v, heads, **kwargs):
        if not answers:
            options = kwargs["transformer_options"]
            alone = dataclasses.replace(options["radial_attention"], previous=None)
            answers.append(ask(options[SLOT], {**options, "radial_attention": alone}))
        return func(q, k, v, heads, **kwargs)

    sample(patch(with_override(wan, override)), steps=1, cfg=1.0)
    return answers[0]
