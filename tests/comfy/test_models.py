"""The patch on every video model that ComfyUI has, compared with ComfyUI and the oracle."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
import zoo
from conftest import by_token, difference, pack_module, patch, with_override, with_wrapper
from zoo import sample

WHY = {  # why the other calls stay dense, which are not self-attention over the video
    "text": "cross-attention",
    "image": "cross-attention",
    "audio": "cross-attention",
    "sound": "attention over text or sound alone",
    "text refiner": "outside the transformer blocks",
}
FRAME_BY_FRAME = "made some frames at a time, which see what came before"
NO_VIDEO = "not a video"
EVERYTHING = {"decay": 4.0, "sink_frames": 100}  # what the plan keeps

pytestmark = pytest.mark.usefixtures("any_density")


@dataclass(frozen=True)
class Specimen:
    """A case that ran once without the patch.

    plain: ComfyUI's own output. seen: its calls: self-attention over the video by the number of
    tokens around it, and "other".
    """

    case: zoo.Case
    model: object  # MODEL
    inputs: zoo.Inputs
    plain: torch.Tensor
    seen: Counter
    passes: int

    @property
    def calls(self) -> int:
        return sum(self.case.calls)


@pytest.fixture(scope="module", params=zoo.CASES, ids=lambda case: case.name)
def specimen(request):
    case = request.param
    if not case.is_there:
        pytest.skip(f"not in this ComfyUI: {case.name}")
    model, inputs, seen, passes = case.model(), case.inputs(), Counter(), []

    def override(func, q, k, *args, skip_reshape=False, **kwargs):
        seen[around_the_video(case, q, k, skip_reshape) or "other"] += 1
        return func(q, k, *args, skip_reshape=skip_reshape, **kwargs)

    def wrapper(executor, *args, **kwargs):
        passes.append(1)
        return executor(*args, **kwargs)

    plain = sample(with_wrapper(with_override(model, override), wrapper), inputs)
    return Specimen(case, model, inputs, plain, seen, len(passes))


def around_the_video(case, q, k, skip_reshape) -> tuple[int, int] | None:
    """The tokens before and after the video's, if a call is self-attention over the video."""
    axis = 2 if skip_reshape else 1
    if q.shape[axis] != k.shape[axis]:
        return None
    rest = q.shape[axis] - math.prod(case.grid)
    return next((around for around in case.around if sum(around) == rest), None)


def oracle(case, dense=lambda number, block: False):
    """An override in which the oracle computes the self-attention over the video.

    dense(pass, block): whether a call stays dense. Masked text is left out of the sequence.
    """
    core, reference = pack_module("radial_core"), pack_module("radial_core.reference")
    pattern = core.RadialPattern(0.2, 1, 64)
    blocks = [block for block, calls in enumerate(case.calls) for _ in range(calls)]
    turns = ((number, block) for number in itertools.count() for block in blocks)

    def override(func, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        around = around_the_video(case, q, k, skip_reshape)
        if around is None or dense(*next(turns)):
            return func(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **kwargs)
        q, k, v = by_token(q, k, v, heads, skip_reshape)
        unmasked = torch.ones(q.shape[1]) > 0 if mask is None else mask.flatten() == 0
        layout = core.VideoLayout(*case.grid, around[0] - int((~unmasked).sum()), around[1])
        out = torch.zeros_like(v)
        out[:, unmasked] = reference.reference_attention(
            q[:, unmasked], k[:, unmasked], v[:, unmasked], core.make_plan(pattern, layout)
        ).to(v.dtype)
        return out.flatten(2)

    return override


def test_the_zoo_describes_the_model(specimen):
    case, seen = specimen.case, specimen.seen.copy()
    assert type(specimen.model.model).__name__ == case.kind
    assert seen.pop("other", 0) == specimen.passes * sum(case.others.values())
    assert seen.total() == specimen.passes * specimen.calls
    assert set(seen) == set(case.around)


class Stop(Exception):
    pass


def first_values(specimen, change):
    """v (b, tokens, h * d) of the first self-attention call. change: made to the video's latent."""
    values = []

    def override(func, q, k, v, *args, skip_reshape=False, **kwargs):
        if around_the_video(specimen.case, q, k, skip_reshape):
            values.append(v.transpose(1, 2).flatten(2) if skip_reshape else v.clone())
            raise Stop
        return func(q, k, v, *args, skip_reshape=skip_reshape, **kwargs)

    def wrapper(executor, x, *args, **kwargs):
        x, shapes = x.clone(), kwargs.get("latent_shapes") or ()
        change(comfy.utils.unpack_latents(x, shapes)[0])
        return executor(x, *args, **kwargs)

    with pytest.raises(Stop):
        sample(with_wrapper(with_override(specimen.model, override), wrapper), specimen.inputs)
    return values[0]


@pytest.mark.slow  # it only changes with ComfyUI
def test_the_zoo_describes_where_the_video_tokens_are(specimen):
    """Changing some patches of the latent changes v of their own tokens and no others."""
    frames, height, width = specimen.case.grid
    patches = [(specimen.case.given, 0, 0), (1, height - 2, 1), (frames - 1, height - 1, width - 1)]

    def change(x):
        for frame, *place in patches:
            sides = (-(-n // grid) for n, grid in zip(x.shape[3:], (height, width), strict=True))
            # The first row and column also pad the last ones, so they must not change.
            row, column = (i * p or p - 1 for i, p in zip(place, sides, strict=True))
            x[:, :, frame, row, column] += 1

    before, after = first_values(specimen, lambda x: x), first_values(specimen, change)
    rest = before.shape[1] - math.prod(specimen.case.grid)
    (front,) = {before for before, after in specimen.case.around if before + after == rest}
    changed = (after - before).abs().amax(dim=(0, 2)).nonzero().flatten().tolist()
    assert changed == [front + (f * height + h) * width + w for f, h, w in patches]


@pytest.mark.slow  # test_equals_the_oracle also covers it, with dropped blocks
def test_keeping_everything_changes_nothing(specimen, summaries):
    out = sample(patch(specimen.model, **EVERYTHING), specimen.inputs)
    assert difference(out, specimen.plain) < 1e-4
    (summary,) = summaries
    assert summary["radial_calls"] == specimen.calls * specimen.passes


@pytest.mark.oldest
def test_equals_the_oracle(specimen, summaries):
    out = sample(patch(specimen.model), specimen.inputs)
    truth = sample(with_override(specimen.model, oracle(specimen.case)), specimen.inputs)
    assert difference(truth, specimen.plain) > 1e-3
    assert difference(out, truth) < 1e-4
    (summary,) = summaries
    assert summary["radial_calls"] == specimen.calls * specimen.passes
    dense = Counter()
    for what, calls in specimen.case.others.items():
        dense[WHY[what]] += calls * specimen.passes
    assert summary["dense_calls"] == dense


@pytest.mark.oldest
def test_dense_steps_and_blocks(specimen, summaries):
    """HunyuanVideo's double blocks come before its single ones; VACE's belong to the main ones."""
    calls, passes = specimen.case.calls, specimen.passes // 2  # a step
    blocks = len(calls) - 1
    settings = {"dense_steps": 1, "dense_last_steps": 1, "dense_blocks": blocks}

    def dense(number, block):
        return number // passes in (0, 2) or block < blocks

    out = sample(patch(specimen.model, **settings), specimen.inputs, steps=3)
    override = oracle(specimen.case, dense)
    truth = sample(with_override(specimen.model, override), specimen.inputs, steps=3)
    assert difference(out, truth) < 1e-4
    (summary,) = summaries
    assert summary["dense_calls"]["dense step"] == 2 * passes * specimen.calls
    assert summary["dense_calls"]["dense block"] == passes * sum(calls[:blocks])
    assert summary["radial_calls"] == passes * calls[-1]


def case_of(name: str):
    return next(case for case in zoo.CASES if case.name == name)


def by_two_experts(high, low, inputs):
    """Two models that share a schedule, as in the template of Wan 2.2."""
    started = sample(high, inputs, steps=4, start_step=0, last_step=2)
    rest = {"start_step": 2, "last_step": 4, "disable_noise": True, "force_full_denoise": True}
    return sample(low, inputs, steps=4, latent={"samples": started}, **rest)


def test_two_experts(summaries):
    case = case_of("wan 2.2 i2v a14b")
    high, low, inputs = case.model(), case.model(seed=1), case.inputs()
    plain = by_two_experts(high, low, inputs)
    assert difference(plain, by_two_experts(high, high, inputs)) > 1e-3

    kept = by_two_experts(patch(high, **EVERYTHING), patch(low, **EVERYTHING), inputs)
    assert difference(kept, plain) < 1e-4

    summaries.clear()
    out = by_two_experts(patch(high, dense_steps=1), patch(low, dense_last_steps=1), inputs)
    assert 1e-3 < difference(out, plain)
    assert [s["dense_calls"]["dense step"] for s in summaries] == [2, 2]
    assert [s["radial_calls"] for s in summaries] == [2, 2]


def test_frame_by_frame_stays_dense(summaries):
    case = case_of("wan causal, sampled as any other")
    if not case.is_there:
        pytest.skip(f"not in this ComfyUI: {case.name}")
    from comfy_extras.nodes_ar_video import SamplerARVideo

    model, inputs = case.model(), case.inputs()
    sampler = SamplerARVideo.execute(num_frame_per_block=3).args[0]
    sigmas = comfy.samplers.KSampler(model, 2, model.load_device, "euler", "simple").sigmas
    latent = inputs.latent["samples"]
    noise = comfy.sample.prepare_noise(latent, 1)

    def frame_by_frame(model):
        prompts = inputs.positive, inputs.negative
        return comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, *prompts, latent, seed=1
        )

    assert torch.equal(frame_by_frame(patch(model)), frame_by_frame(model))
    (summary,) = summaries
    assert summary["radial_calls"] == 0
    assert summary["dense_calls"] == {FRAME_BY_FRAME: summary["model_calls"]}


def test_an_image_model_of_the_same_class_stays_dense(summaries):
    """HunyuanImage 2.1 is HunyuanVideo with patches in two dimensions."""
    model, inputs = zoo.hunyuan_image()
    assert type(model.model).__name__ == "HunyuanImage21"
    assert torch.equal(sample(patch(model), inputs), sample(model, inputs))
    (summary,) = summaries
    assert summary["radial_calls"] == 0
    assert summary["dense_calls"] == {NO_VIDEO: summary["model_calls"]}
