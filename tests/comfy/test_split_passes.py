"""Every family with the ways ComfyUI splits a step into passes, and a schedule into samplers.

test_compat_sampling.py has more of them, with Wan alone.
"""

import math
from dataclasses import replace

import comfy.utils
import pytest
import torch
import zoo
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_video_model import ConditioningSetAreaPercentageVideo
from conftest import by_token, difference, pack_module, patch, with_override, with_wrapper
from node_helpers import conditioning_set_values
from windows import context_windows

import nodes

pytestmark = pytest.mark.usefixtures("any_density")

EVERYTHING = {"decay": 4.0, "sink_frames": 100}  # what the plan keeps
FILES = zoo.hunyuan_video, zoo.kandinsky5, zoo.minimax_h3, zoo.cosmos, zoo.lightricks
TYPICAL = [each for file in FILES for each in file.CASES if each.typical and each.is_there]
# ComfyUI can't, with or without our node. In 0.30.0 Kandinsky takes no mask, and MiniMax H3 one
# video at a time, without areas and windows.
RAISES = {
    ("kandinsky 5 t2v, a pass a prompt", "a_part_is_redone"),
    ("minimax h3 t2v, a pass a prompt", "a_prompt_for_a_part"),
    ("minimax h3 t2v, a pass a prompt", "in_context_windows"),
    ("minimax h3 t2v, a pass a prompt", "two_videos"),
}


def oracle(model):
    """A model whose self-attention over the video the oracle computes, and the grids of its calls.

    The grid of a pass is that of the latent which the model gets, with 2 x 2 patches, in LTX 1 x 1;
    all other tokens are before it.
    """
    side = 1 if hasattr(model.model.diffusion_model, "patchifier") else 2
    core, reference = pack_module("radial_core"), pack_module("radial_core.reference")
    pattern, grid, grids = core.RadialPattern(0.2, 1, 64), [], []

    def wrapper(executor, x, *args, **conditions):
        video = comfy.utils.unpack_latents(x, conditions.get("latent_shapes") or ())[0]
        frames, height, width = video.shape[2:]
        grid[:] = frames, -(-height // side), -(-width // side)
        return executor(x, *args, **conditions)

    def override(func, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        around = q.shape[2 if skip_reshape else 1] - math.prod(grid)
        if q.shape != k.shape or around < 0:
            return func(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **kwargs)
        assert mask is None
        grids.append(tuple(grid))
        q, k, v = by_token(q, k, v, heads, skip_reshape)
        plan = core.make_plan(pattern, core.VideoLayout(*grid, prefix=around))
        return reference.reference_attention(q, k, v, plan).to(v.dtype).flatten(2)

    return with_wrapper(with_override(model, override), wrapper), grids


def another_text(inputs, scale: float):
    return [[scale * text, dict(values)] for text, values in inputs.positive]


def two_prompts(model, inputs):
    return zoo.sample(
        model, replace(inputs, positive=[*inputs.positive, *another_text(inputs, 0.5)])
    )


def a_prompt_for_a_part(model, inputs):
    half = {"width": 1.0, "height": 0.5, "temporal": 0.6, "x": 0.0, "y": 0.5, "z": 0.4}
    (part,) = ConditioningSetAreaPercentageVideo().append(
        another_text(inputs, 0.5), **half, strength=1.0
    )
    return zoo.sample(model, replace(inputs, positive=[*inputs.positive, *part]))


def a_prompt_for_some_steps(model, inputs):
    early = conditioning_set_values(inputs.positive, {"start_percent": 0.0, "end_percent": 0.3})
    late = conditioning_set_values(
        another_text(inputs, 0.5), {"start_percent": 0.3, "end_percent": 1.0}
    )
    return zoo.sample(model, replace(inputs, positive=[*early, *late]))


def two_samplers(model, inputs):
    sigmas = custom.BasicScheduler.execute(model, "simple", 4, 1.0).args[0]
    guider = custom.CFGGuider.execute(model, inputs.positive, inputs.negative, inputs.cfg).args[0]
    sampler = custom.KSamplerSelect.execute("euler").args[0]
    noises = custom.RandomNoise.execute(1).args[0], custom.DisableNoise.execute().args[0]
    latent = inputs.latent
    for noise, part in zip(noises, custom.SplitSigmas.execute(sigmas, 2).args, strict=True):
        run = noise, guider, sampler, part, latent
        latent = custom.SamplerCustomAdvanced.execute(*run).args[0]
    samples = latent["samples"]
    return comfy.utils.pack_latents(samples.unbind())[0] if samples.is_nested else samples


def a_part_is_redone(model, inputs):
    samples = inputs.latent["samples"]
    video = samples.unbind()[0] if samples.is_nested else samples
    mask = torch.zeros(video.shape[2], 8 * video.shape[3], 8 * video.shape[4])
    mask[3:, :, mask.shape[2] // 2 :] = 1
    (latent,) = nodes.SetLatentNoiseMask().set_mask(inputs.latent, mask)
    return zoo.sample(model, inputs, latent=latent, denoise=0.6)


def in_context_windows(model, inputs):
    return zoo.sample(context_windows(model), inputs)


def two_videos(model, inputs):
    (latent,) = nodes.RepeatLatentBatch().repeat(inputs.latent, 2)
    return zoo.sample(model, inputs, latent=latent)


WAYS = (
    two_prompts,
    a_prompt_for_a_part,
    a_prompt_for_some_steps,
    two_samplers,
    a_part_is_redone,
    in_context_windows,
    two_videos,
)


@pytest.fixture(scope="module", params=TYPICAL, ids=lambda case: case.name)
def specimen(request):
    """A case, its model and inputs."""
    return request.param, request.param.model(), request.param.inputs()


def outcome(way, model, inputs):
    """What a run returns, or the error with which ComfyUI itself ends it."""
    try:
        return way(model, inputs)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_is_right(specimen, way, summaries, caplog):
    case, model, inputs = specimen
    plain = outcome(way, model, inputs)
    assert isinstance(plain, tuple) == ((case.name, way.__name__) in RAISES)
    if isinstance(plain, tuple):
        assert outcome(way, patch(model), inputs) == plain
        assert not caplog.messages  # it is no failure of ours
        return
    assert difference(way(patch(model, **EVERYTHING), inputs), plain) < 1e-4
    summaries.clear()
    by_oracle, grids = oracle(model)
    truth = way(by_oracle, inputs)
    assert difference(plain, truth) > 1e-3
    assert difference(way(patch(model), inputs), truth) < 1e-4
    assert sum(each["radial_calls"] for each in summaries) == len(grids)
    assert len(summaries) == (2 if way is two_samplers else 1)
    frames, height, width = case.grid
    parts = {
        a_prompt_for_a_part: {case.grid, (int(0.6 * frames), height // 2, width)},
        in_context_windows: {(5, height, width)},
    }
    assert set(grids) == parts.get(way, {case.grid})
