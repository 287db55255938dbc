"""The real ComfyUI in this process: its loader loads the pack, its sampler runs the models.

RADIAL_ATTENTION_COMFYUI_VERSION chooses the version of ComfyUI, the newest by default.
RADIAL_ATTENTION_COMFYUI may instead be the folder of another one, such as its master, which then
runs in the Python of the newest.
"""

import asyncio
import dataclasses
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

PACK = Path(__file__).parents[2]
sys.path.insert(0, str(PACK / "workflows"))

from headless.environment import NEWEST, OLDEST, ensure_environment  # noqa: E402
from headless.server import standin_server  # noqa: E402

VERSION = os.environ.get("RADIAL_ATTENTION_COMFYUI_VERSION", NEWEST.version)
ENVIRONMENT = ensure_environment({each.version: each for each in (NEWEST, OLDEST)}[VERSION])
if folder := os.environ.get("RADIAL_ATTENTION_COMFYUI"):
    ENVIRONMENT = dataclasses.replace(ENVIRONMENT, comfyui=Path(folder))
sys.path.insert(0, str(ENVIRONMENT.comfyui))

from comfy.cli_args import args  # noqa: E402

args.cpu = not torch.cuda.is_available()
args.disable_api_nodes = True

import nodes  # noqa: E402  (ComfyUI's)

assert asyncio.run(nodes.load_custom_node(str(PACK)))

# benchmarks/ imports the pack under its own name. A second copy of the pack would replace the op
# that the first one registered for torch.compile.
LOADED = nodes.NODE_CLASS_MAPPINGS["RadialAttentionPatch"].__module__.removesuffix(".nodes.patch")
for key in list(sys.modules):
    if f"{key}.".startswith(f"{LOADED}."):
        sys.modules["radial_attention_pack" + key.removeprefix(LOADED)] = sys.modules[key]

LAB = "the figures of benchmarks/ are for the newest"
NEWEST_ONLY = {  # file -> why
    "test_run.py": "workflows/run.py starts the newest",
    "test_end_to_end_benchmark.py": LAB,
    "test_multi_gpu_benchmark.py": LAB,
    "test_quality_caches.py": LAB,
    "test_quality_compare.py": LAB,
    "test_quality_eight_bits.py": LAB,
    "test_quality_extend.py": LAB,
    "test_quality_front.py": LAB,
    "test_quality_model.py": LAB,
    "test_quality_proportions.py": LAB,
    "test_training_benchmark.py": LAB,
}


def newest_only(reason):
    """A mark: skipped on any ComfyUI but the newest. reason: what the others lack."""
    return pytest.mark.skipif(VERSION != NEWEST.version, reason=f"ComfyUI {VERSION}: {reason}")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items):
    for item in items:
        if reason := NEWEST_ONLY.get(item.path.name):
            item.add_marker(newest_only(reason))
        # The pack's own logic is tested on the newest.
        if VERSION == OLDEST.version and not item.get_closest_marker("oldest"):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def environment():
    return ENVIRONMENT


@pytest.fixture(scope="session")
def stand_ins():
    """The folder of the stand-in models, made by workflows/run.py."""
    from run import stand_in_models

    return stand_in_models(ENVIRONMENT)


@pytest.fixture(scope="session")
def server(environment, stand_ins):
    """A ComfyUI server with the pack. All tests share it, because it takes seconds to start."""
    with standin_server(environment, stand_ins) as server:
        yield server
        server.check()


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


@pytest.fixture
def own_wan(wan_weights):
    """A separate model: a removed object patch leaves a method on the block."""
    return load(*wan_weights)


def with_blocks(number, weights, metadata):
    """A MODEL with only the first blocks of the stand-in, which is quicker to compile."""
    index = {name: int(name.split(".")[1]) for name in weights if name.startswith("blocks.")}
    kept = {name: x for name, x in weights.items() if index.get(name, 0) < number}
    return load(kept, metadata)


def load(weights, metadata):
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(dict(weights), metadata=dict(metadata))


@pytest.fixture
def summaries(monkeypatch):
    """The summary that each sampler run sends to the page, in order."""
    sent = []
    monkeypatch.setattr(
        pack_module("nodes.run.run_reporter"), "_send", lambda event, data: sent.append(data)
    )
    return sent


@pytest.fixture
def any_density(monkeypatch):
    """Plans that keep nearly all blocks run through the radial core too."""
    monkeypatch.setattr(pack_module("nodes.hook.decision"), "MOST_DENSITY", 1.0)


def pack_module(name):
    """A module of the pack as ComfyUI loaded it, such as "nodes.hook.override"."""
    return importlib.import_module(f"{LOADED}.{name}")


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
EVERYTHING = {"sink_frames": 1000, "decay": 4.0}  # keeps all blocks


def patch(model, **settings):
    """The patch node, run on a model. Nothing is dense unless a setting says so."""
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
    scheduler="simple",
    seed=1,
    text_tokens=20,
    latent=None,
    mask=None,
    condition=None,
    positive=None,
    **options,
):
    """Run ComfyUI's KSampler on a random prompt. Returns (b, c, f, h, w).

    height, width: in latent pixels, 2 a patch. The default is 9 x 6 x 10 patches: 540 tokens, 8.4
    blocks of 64. mask: the part of the latent to redo. condition: further entries of the prompt.
    positive: conditioning instead of the random one.
    """
    negative = prompt(8, text_tokens, condition)
    if positive is None:
        positive = prompt(7, text_tokens, condition)
    if latent is None:
        latent = torch.zeros(batch, 16, frames, height, width)
    latent = {"samples": latent}
    if mask is not None:
        (latent,) = nodes.SetLatentNoiseMask().set_mask(latent, mask)
    (out,) = nodes.common_ksampler(
        model,
        seed,
        steps,
        cfg,
        sampler,
        scheduler,
        positive,
        negative,
        latent,
        **options,
    )
    return out["samples"]


def prompt(seed=7, tokens=20, condition=None):
    """Random conditioning. condition: its entries besides text."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, 16, generator=generator), condition or {}]]


def difference(a, b):
    """Relative RMS difference of a from b."""
    return ((a - b).norm() / b.norm()).item()


def lora(seed=3):
    """LoRA weights for the q, k, v and o of every block of the stand-in."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for block in range(BLOCKS):
        for name in "qkvo":
            key = f"diffusion_model.blocks.{block}.self_attn.{name}"
            weights[f"{key}.lora_A.weight"] = torch.randn(8, 256, generator=generator) / 16
            weights[f"{key}.lora_B.weight"] = torch.randn(256, 8, generator=generator) / 3
    return weights


def with_lora(model):
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora(), 1.0, 0)[0]


def oracle(model, decay=0.2, sink_frames=1):
    """A model whose self-attention the reference computes, without our hook, and a list of grids.

    The list gets (frames, rows, columns) of each such call while the model runs.
    """
    core, reference = pack_module("radial_core"), pack_module("radial_core.reference")
    pattern = core.RadialPattern(decay, sink_frames, DEFAULTS["block_size"])
    grids = []

    def override(func, q, k, v, heads, *args, **kwargs):
        grid = tuple(int(n) for n in kwargs["transformer_options"]["grid_sizes"])
        plan = core.make_plan(pattern, core.VideoLayout(*grid))
        if k.shape[1] != plan.tokens:
            return func(q, k, v, heads, *args, **kwargs)
        grids.append(grid)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        return reference.reference_attention(q, k, v, plan).to(q.dtype).flatten(2)

    return with_override(model, override), grids


@pytest.fixture
def check(summaries, any_density):
    """check(model, other_node, **case): the patch before and after another node is right.

    other_node: model -> model. within: the largest relative RMS difference. case: arguments of
    `sample`. Returns the summary of a radial run and the grids of its calls.
    """

    def check(model, other_node=lambda model: model, within=1e-4, **case):
        plain = sample(other_node(model), **case)
        assert difference(sample(patch(other_node(model), **EVERYTHING), **case), plain) < within
        by_reference, grids = oracle(model)
        truth = sample(other_node(by_reference), **case)
        assert difference(plain, truth) > 3 * within  # the plan matters
        for both in (patch(other_node(model)), other_node(patch(model))):
            assert difference(sample(both, **case), truth) < within
            assert summaries[-1]["radial_calls"] == sum(frames > 1 for frames, *_ in grids) > 0
        return summaries[-1], grids

    return check


def by_token(q, k, v, heads, skip_reshape):
    """The tensors of a call on ComfyUI's hook as (b, s, h, d)."""
    if skip_reshape:
        return [x.transpose(1, 2) for x in (q, k, v)]
    return [x.unflatten(2, (heads, -1)) for x in (q, k, v)]


def with_override(model, override):
    model = model.clone()
    model.model_options["transformer_options"][SLOT] = override
    return model


def with_wrapper(model, wrapper):
    """A model with a wrapper around each forward pass, inside our own wrapper."""
    model = model.clone()
    model.add_wrapper_with_key("apply_model", "test", wrapper)
    return model


def ask_the_hook(wan, ask, **settings):
    """Call `ask(ours, options)` inside a real forward pass, without any other override."""
    answers = []

    def override(func, q, k, v, heads, **kwargs):
        if not answers:
            options = kwargs["transformer_options"]
            only_ours = dataclasses.replace(options["radial_attention"], previous=None)
            answers.append(ask(options[SLOT], {**options, "radial_attention": only_ours}))
        return func(q, k, v, heads, **kwargs)

    sample(patch(with_override(wan, override), **settings), steps=1, cfg=1.0)
    return answers[0]
