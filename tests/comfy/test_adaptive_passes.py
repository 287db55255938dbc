"""Adaptive lists with the ways ComfyUI splits a step into passes, and a schedule into samplers.

A small Wan against the reference, which looks for itself (adaptive.py).
"""

import logging
from dataclasses import replace
from functools import partial

import comfy.ldm.wan.model
import pytest
import torch
import zoo
from adaptive import SETTINGS, oracle, records, times_looked
from comfy_extras.nodes_video_model import ConditioningSetAreaPercentageVideo
from conftest import difference, pack_module, patch
from step_caches import easy_cache, lazy_cache, teacache
from windows import context_windows
from zoo.wan import text, video, wan

import nodes

pytestmark = pytest.mark.usefixtures("any_density")

BLOCKS = 2
SIZE = {"height": 8, "width": 16}  # 9 x 4 x 8 patches, 4.5 blocks
PLENTY = 1e15


@pytest.fixture(scope="module")
def model():
    return wan()


@pytest.fixture(scope="module")
def inputs():
    return replace(video(**SIZE), cfg=3.0)


def steps(number, **options):
    return lambda model, inputs: zoo.sample(model, inputs, number, **options)


@pytest.fixture
def equal(model, inputs, summaries):
    """equal(run): a run with the patch is as one by the reference; returns the latter's looks, and
    why lists were radial, if any were.

    run: (MODEL, Inputs) -> samples. node: another node, MODEL -> MODEL.
    """

    def equal(run, node=lambda model: model, inputs=inputs, looks_in=lambda step: True):
        by_reference, looks = oracle(model, looks_in=looks_in)
        truth = run(node(by_reference), inputs)
        ours = patch(model, **SETTINGS)
        assert difference(run(node(ours), inputs), truth) < 1e-4
        assert looks.all_differ()
        assert sum(each["radial_calls"] for each in summaries) == looks.calls
        assert times_looked(ours) == [len(looks.found)]
        return looks, records(ours)[0].why_radial

    return equal


@pytest.mark.oldest
@pytest.mark.parametrize("budget", [0.6, 1.5])
def test_a_budget(model, summaries, budget):
    by_reference, _ = oracle(model, budget)
    whole = video()  # in which the backbone alone is less than the smaller budget
    out = zoo.sample(patch(model, budget=budget, **SETTINGS), whole, 3)
    assert difference(out, zoo.sample(by_reference, whole, 3)) < 1e-4
    zoo.sample(patch(model, dense_steps=1), whole, 3)
    ours, radial = (each["density"] for each in summaries)
    assert abs(ours / radial - budget) < 0.3  # rows have a backbone, and no more than there is


@pytest.mark.oldest
def test_lists_of_an_early_step_are_looked_for_again_at_a_quarter(model, inputs, summaries):
    by_reference, looks = oracle(model, settled=3)
    truth = zoo.sample(by_reference, inputs, 12)
    ours = patch(model, **SETTINGS)
    assert difference(zoo.sample(ours, inputs, 12), truth) < 1e-4
    assert looks.steps == {1, 3} and times_looked(ours) == [2 * len(looks.found)]


@pytest.mark.oldest
def test_lists_of_an_early_step_may_have_another_budget(model, summaries):
    by_reference, looks = oracle(model, budget=0.6, settled=3, early=1.3)
    truth = zoo.sample(by_reference, video(), 12)
    settings = pack_module("nodes.inputs.settings").Settings(
        1, 0, 0, 1, 0.2, 64, lists="adaptive", budget=0.6, early=1.3
    )
    override = pack_module("nodes.hook.override").RadialOverride(settings, *["auto"] * 3)
    ours = model.clone()
    pack_module("nodes.hook.attach").attach(ours, override)
    assert difference(zoo.sample(ours, video(), 12), truth) < 1e-4
    assert looks.steps == {1, 3} and times_looked(ours) == [2 * len(looks.found)]


def memory_by_call(monkeypatch, model, amounts):
    """What ComfyUI finds free, each time it asks whether to run both conditionings at once."""
    rest = iter(amounts)
    monkeypatch.setattr(type(model), "get_free_memory", lambda *_: next(rest))


APART, TOGETHER = (0, 0), (PLENTY,)


CHANGES = {
    "apart": APART * 4,
    "together after it looked": APART + APART + TOGETHER * 2,
    "apart after it looked": TOGETHER + TOGETHER + APART * 2,
}


@pytest.mark.parametrize(
    "amounts, videos",
    [
        pytest.param(CHANGES["apart"], 1, marks=pytest.mark.slow),
        (CHANGES["together after it looked"], 2),
        (CHANGES["apart after it looked"], 1),
        pytest.param(CHANGES["apart after it looked"], 2, marks=pytest.mark.slow),
    ],
    ids=["apart", "together after it looked", "apart after it looked", "the same, two videos"],
)
def test_conditionings_in_one_pass_or_two(
    model, inputs, equal, summaries, monkeypatch, amounts, videos
):
    """A conditioning keeps its lists, whichever pass it is in."""
    latent = {"samples": torch.zeros(videos, 16, 9, *SIZE.values())}

    def run(model, inputs):
        memory_by_call(monkeypatch, model, amounts)
        return zoo.sample(model, inputs, 4, latent=latent)

    looks, _ = equal(run)
    assert summaries[0]["model_calls"] == len(amounts)
    assert len(looks.found) == BLOCKS * 2 * videos and looks.steps == {1}


def also(inputs, scale: float, **values):
    """A second positive prompt, which holds for a part of the schedule or of the video."""
    more = [[scale * text, {**old, **values}] for text, old in inputs.positive]
    return replace(inputs, positive=[*inputs.positive, *more])


def test_prompts_of_one_kind_have_lists_of_their_own(equal, inputs):
    longer = replace(inputs, negative=text(seed=2, tokens=31))  # so that it gets a pass of its own
    looks, _ = equal(steps(3), inputs=also(longer, 0.5))
    assert len(looks.found) == BLOCKS * 3


@pytest.mark.slow  # the one with context windows proves nearly as much
def test_a_prompt_that_begins_later_is_looked_for_later(equal, inputs):
    late = also(inputs, 0.5, start_percent=0.5, end_percent=1.0)
    looks, _ = equal(steps(5), inputs=late)
    assert len(looks.found) == BLOCKS * 3 and len(looks.steps) == 2


def test_a_prompt_for_a_part_of_the_video(equal):
    """Its lists are for another layout."""
    half = {"width": 1.0, "height": 0.5, "temporal": 0.6, "x": 0.0, "y": 0.5, "z": 0.4}
    whole = replace(video(height=16), cfg=3.0)
    (part,) = ConditioningSetAreaPercentageVideo().append(text(seed=3), **half, strength=1.0)
    looks, _ = equal(steps(3), inputs=replace(whole, positive=[*whole.positive, *part]))
    assert len(looks.found) == BLOCKS * 4  # a negative prompt for the part too


@pytest.mark.oldest
def test_each_context_window_has_its_lists(equal, inputs):
    looks, why_radial = equal(steps(3), context_windows)
    assert len({window for _, window, *_ in looks.found}) == 3
    assert len(looks.found) == BLOCKS * 2 * 3
    assert why_radial is None


def test_a_prompt_that_begins_later_in_context_windows(equal, inputs):
    """The windows are those of the first step, so they are worth a look."""
    late = also(inputs, 0.5, start_percent=0.5, end_percent=1.0)
    looks, why_radial = equal(steps(5), context_windows, late)
    assert len(looks.found) == BLOCKS * 3 * 3 and len(looks.steps) == 2
    assert why_radial is None


@pytest.mark.oldest
def test_context_windows_that_move_are_radial_after_the_first_step(equal, caplog):
    caplog.set_level(logging.INFO)
    moving = partial(context_windows, schedule="standard_uniform")
    looks, why_radial = equal(steps(5), moving, looks_in=lambda step: step == 1)
    moving = pack_module("nodes.hook.adaptive").MOVING
    assert why_radial == moving
    assert caplog.messages.count(f"Radial attention: lists are radial: {moving}") == 1
    seen = {window for _, window, *_ in looks.found}
    assert len(looks.found) == BLOCKS * 2 * len(seen)


@pytest.mark.parametrize(
    "sampler", ["heun", pytest.param("dpm_2", marks=pytest.mark.slow), "uni_pc"]
)
def test_samplers_that_call_the_model_twice_a_step_or_keep_old_results(equal, sampler):
    def run(model, inputs):
        sampling = inputs.positive, inputs.negative, inputs.latent
        settings = 1, 4, inputs.cfg, sampler, "simple"
        with torch.inference_mode():  # as ComfyUI's server; uni_pc leaves gradients on
            return nodes.common_ksampler(model, *settings, *sampling)[0]["samples"]

    looks, why_radial = equal(run)
    assert looks.steps == {1} and len(looks.found) == BLOCKS * 2
    assert why_radial is None


CACHES = {
    "EasyCache": easy_cache,
    "LazyCache": lazy_cache,
    "TeaCache": partial(teacache, threshold=3.0),
}


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
def test_step_caches_that_skip_the_first_sparse_step(inputs, summaries, monkeypatch, cache):
    """The next one that is computed is the first."""
    settings = {**SETTINGS, "dense_steps": 2}
    by_reference, looks = oracle(wan(), dense_steps=2)
    with monkeypatch.context() as patched:  # TeaCache's calls don't say what they belong to
        function = partial(looks.override, comfy.ldm.wan.model.optimized_attention)
        patched.setattr(comfy.ldm.wan.model, "optimized_attention", function)
        truth = zoo.sample(cache(by_reference), inputs, 6)
    (first,) = looks.steps
    assert first > 2
    for ours in (cache(patch(wan(), **settings)), patch(cache(wan()), **settings)):
        assert difference(zoo.sample(ours, inputs, 6), truth) < 1e-4
        assert times_looked(ours) == [len(looks.found)] == [BLOCKS * 2]


@pytest.mark.oldest
def test_two_experts(summaries):
    """The second starts where the first has settled the video: it looks in its first step."""
    models, small = [wan(seed=seed) for seed in (0, 1)], video(**SIZE)

    def both(high, low):
        started = zoo.sample(high, small, 4, start_step=0, last_step=2)
        rest = {"start_step": 2, "disable_noise": True, "force_full_denoise": True}
        return zoo.sample(low, small, 4, latent={"samples": started}, **rest)

    high, of_high = oracle(models[0])
    low, of_low = oracle(models[1], dense_steps=0)
    truth = both(high, low)
    ours = patch(models[0], **SETTINGS), patch(models[1], lists="adaptive")
    assert difference(both(*ours), truth) < 1e-4
    assert (of_high.steps, of_low.steps) == ({1}, {0})
    for each in ours:
        assert times_looked(each) == [BLOCKS] and records(each)[0].why_radial is None


def test_two_samplers_of_one_model_look_each_for_themselves(model, inputs, summaries):
    """The second goes on where the first stops, and has dense steps of its own."""

    def both(model):
        started = zoo.sample(model, inputs, 6, start_step=0, last_step=3)
        rest = {"start_step": 3, "disable_noise": True, "force_full_denoise": True}
        return started, zoo.sample(model, inputs, 6, latent={"samples": started}, **rest)

    by_reference, looks = oracle(model)
    started, _ = both(by_reference)
    looks.forget()
    rest = {"start_step": 3, "disable_noise": True, "force_full_denoise": True}
    truth = zoo.sample(by_reference, inputs, 6, latent={"samples": started}, **rest)
    ours = patch(model, **SETTINGS)
    assert difference(both(ours)[1], truth) < 1e-4
    assert times_looked(ours) == [BLOCKS * 2] * 2


def test_without_a_dense_step_it_is_radial_and_says_so(model, inputs, summaries):
    ours = patch(model, lists="adaptive", budget=0.5)
    radial = zoo.sample(patch(model), inputs, 2)
    assert torch.equal(zoo.sample(ours, inputs, 2), radial)
    (record,) = records(ours)
    assert record.why_radial == pack_module("nodes.inputs.settings").NO_DENSE_STEP
    assert times_looked(ours) == [0]


def test_the_budget_decides_whether_calls_are_sparse_enough(model, summaries, monkeypatch):
    monkeypatch.setattr(pack_module("nodes.hook.decision"), "MOST_DENSITY", 0.5)
    for settings, calls in (({}, 0), ({"budget": 0.5, **SETTINGS}, 2 * BLOCKS), (SETTINGS, 0)):
        zoo.sample(patch(model, **{"dense_steps": 1, **settings}), video(), 3)
        assert summaries[-1]["radial_calls"] == calls
