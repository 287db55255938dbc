"""What a run on several GPUs gives: what one gives."""

import logging
from dataclasses import replace

import pytest
import torch
from api import get, queue, wait
from conftest import difference, patch
from headless.server import standin_server
from multi_gpu import (
    cards,  # noqa: F401  (a fixture)
    cards_on_the_cpu,
    sample,
    split,
    split_passes,
    wide,
)
from step_caches import easy_cache, lazy_cache
from test_split_families import OTHER_CASES, WAN_CASES
from whole_graph import OUTPUT, SAMPLER, around, whole_graph
from windows import context_windows
from zoo.wan import video
from zoo.wan21 import i2v, prompts_of_two_lengths, two_videos

pytestmark = pytest.mark.usefixtures("any_density")

LISTS = {"dense_steps": 1, "lists": "adaptive"}


@pytest.fixture(scope="module")
def model():
    return wide()


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "radial_attention")
    return caplog


@pytest.mark.oldest
def test_dense(model, log):
    one = sample(model)
    assert difference(sample(split(model)), one) < 1e-5
    assert split_passes(log) == 2
    assert torch.equal(sample(split(model, gpus=1)), one) and split_passes(log) == 0


@pytest.mark.oldest
def test_radial_before_and_after(model, log):
    one = sample(patch(model))
    assert difference(one, sample(model)) > 1e-3  # the plan matters
    for both in (split(patch(model)), patch(split(model))):
        assert difference(sample(both), one) < 1e-5
        assert split_passes(log) == 2


@pytest.mark.parametrize("settings", [LISTS, {"preset": "balanced"}], ids=["custom", "preset"])
def test_adaptive_lists_are_those_of_one_card(model, log, settings):
    one = patch(model, **settings)
    expected = sample(one, steps=4)
    assert difference(sample(patch(split(model), **settings), steps=4), expected) < 1e-5
    assert split_passes(log) == 4
    assert difference(expected, sample(patch(model), steps=4)) > 1e-3


@pytest.mark.parametrize("radial", [False, True], ids=["dense", "radial"])
@pytest.mark.parametrize(
    "inputs, passes",
    [
        pytest.param(prompts_of_two_lengths(), 4, id="two prompts of other lengths, odd sizes"),
        pytest.param(two_videos(), 2, id="two videos"),
        pytest.param(replace(video(frames=1), cfg=3.0), 2, id="one frame"),
    ],
)
def test_inputs(model, log, inputs, passes, radial):
    of = patch if radial else (lambda model: model)
    one = sample(of(model), inputs)
    assert difference(sample(of(split(model)), inputs), one) < 1e-5
    assert split_passes(log) == passes


def test_an_image(log):
    model, inputs = wide(model_type="i2v", in_dim=36), i2v()
    assert difference(sample(split(model), inputs), sample(model, inputs)) < 1e-5
    assert split_passes(log) == 2


FAMILIES = ("vace with", "hunyuan, padded", "hunyuan 1.5 i2v", "mochi, both", "h3 references")


@pytest.mark.parametrize("radial", [False, True], ids=["dense", "radial"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families(log, name, radial):
    """In real processes; their variants are in test_split_families.py, in threads."""
    case = next(each for each in WAN_CASES + OTHER_CASES if each.name.startswith(name))
    model, given = case.model(), {"latent": case.latent}
    model = patch(model) if radial else model
    one = sample(model, case.inputs(), **given)
    log.clear()
    assert difference(sample(split(model), case.inputs(), **given), one) < 1e-5
    assert split_passes(log) > 0


@pytest.mark.parametrize("cache", [easy_cache, lazy_cache])
def test_caches_of_comfyui_skip_the_same_passes(model, log, cache):
    one = sample(cache(model), steps=6)
    assert difference(one, sample(model, steps=6)) > 1e-4
    for both in (cache(split(model)), split(cache(model))):
        assert difference(sample(both, steps=6), one) < 1e-5
        assert 2 <= split_passes(log) < 6


def test_context_windows(model, log):
    one = sample(context_windows(patch(model)))
    assert difference(sample(context_windows(split(patch(model)))), one) < 1e-5
    assert split_passes(log) == 6


def test_two_models_in_a_run(model, log):
    """Such as Wan 2.2's, for the noisy and the clean half."""
    other, latent = wide(seed=1), {"disable_noise": True, "start_step": 1, "steps": 2}
    first = {"steps": 2, "last_step": 1, "force_full_denoise": False}

    def run(a, b):
        half = sample(a, **first)
        return sample(b, latent={"samples": half}, **latent)

    assert difference(run(split(model), split(other)), run(model, other)) < 1e-5
    assert split_passes(log) == 1


def test_through_the_api(environment, stand_ins):
    with standin_server(environment, stand_ins) as server:
        graph = whole_graph()
        graph[SAMPLER]["inputs"]["model"] = ["4", 0]  # not the probe's
        graph = around(graph, OUTPUT)
        outputs = [_output(server, graph, gpus) for gpus in (1, 2)]
        assert outputs[0] == outputs[1]
        log = server.log.read_text()
    assert log.count("Radial Multi-GPU: 2 GPUs, ") == 1


def _output(server, graph, gpus):
    graph["28"]["inputs"]["gpus"] = gpus
    prompt = queue(server, graph)
    assert wait(server, prompt).kind == "done"
    return get(server, f"/history/{prompt}")[prompt]["outputs"][OUTPUT]


@pytest.mark.oldest
def test_three_cards():
    """The last test: it ends the team of two."""
    model = wide()
    with cards_on_the_cpu(3):
        assert difference(sample(split(patch(model))), sample(patch(model))) < 1e-5
