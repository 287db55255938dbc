"""Radial Attention Compare and Radial Settings Search, after the probe in real runs."""

import asyncio
import json
from dataclasses import replace

import pytest
import torch
import zoo
from comfy.nested_tensor import NestedTensor
from conftest import BLOCKS, pack_module, patch, sample
from headless.client import run_graph
from headless.graph import load_graph, set_inputs
from probing import measured, probe

import nodes

LATENT = {"samples": torch.zeros(1, 16, 9, 12, 20)}
FASTEST, MOST_EXACT = "largest speed-up", "smallest error"


def compare(model, samples=LATENT):
    """The outputs (samples, image, text, measurements, json), and what the page gets."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionCompare"]
    out = node.execute(samples, model)
    return out.args, out.ui


def search(measurements, target=FASTEST, error=0.1, speedup=1.5):
    """The outputs: decay, sink_frames, dense_blocks, image, text, lists, budget."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialSettingsSearch"]
    return node.execute(measurements, target, error, speedup).args


@pytest.fixture(scope="module")
def probed(wan):
    """A model, measured in 3 of 4 steps on 9 frames of 18 x 20 patches."""
    model = probe(patch(wan, dense_blocks=1), "0, 50%, last", tokens=256)
    sample(model, height=36, width=40, steps=4)
    return model


def test_the_outputs_and_what_the_node_shows(probed):
    (samples, image, text, measurements, data), ui = compare(probed)
    assert samples is LATENT
    assert image.dtype == torch.float32 and image.shape[0] == 1 and image.shape[3] == 3
    assert 0 <= image.min() < 0.3 and 0.9 < image.max() <= 1
    assert image.shape[2] == 1000
    assert measurements == measured(probed)
    lines = text.split("\n")
    now = "decay 0.2", "1 sink frame", "1 dense block", "settings of Radial Attention Patch"
    assert all(fact in lines[0] for fact in now)
    assert f"error {measurements.error(measurements.current, 1):.2g}" in lines[0]
    assert any(line.startswith("Decay ") and "0.2: error " in line for line in lines)
    assert f"{BLOCKS} of {BLOCKS} blocks in steps 0, 2, 3 of 4" in lines[-1]
    assert ui["text"] == (text,) and len(ui["images"]) == 1
    parsed = json.loads(data)
    assert [call["step"] for call in parsed["calls"]] == [0] * 3 + [2] * 3 + [3] * 3
    assert parsed["budgets"] == [1.0, 0.67, 0.5, 0.33]
    assert len(parsed["densities"]) == len(measurements.patterns) + 4
    assert len(parsed["calls"][0]["reading"]["error"]) == len(parsed["densities"])


@pytest.mark.parametrize("name", ["hunyuan t2v", "mochi, both prompts in one pass"])
def test_on_other_models(name):
    (case,) = (case for case in zoo.CASES if case.name == name)
    inputs = case.inputs()
    model = probe(case.model(), "last", tokens=64)
    out = zoo.sample(model, inputs)
    (samples, _, text, measurements, _), _ = compare(model, {"samples": out})
    assert samples["samples"] is out
    assert f"{len(case.calls)} of {len(case.calls)} blocks in step 1 of 2" in text
    decay, sink, dense, image, text, *_ = search(measurements)
    assert decay in measurements.decays and sink in measurements.sinks
    assert 0 <= dense <= len(case.calls) // 2
    assert image.shape[2] == 1000 and f"decay {decay:g}" in text


def test_the_chosen_settings_run(wan, probed, summaries, any_density):
    """As in the graph: the search's outputs are the patch's inputs."""
    measurements = compare(probed)[0][3]
    limit = measurements.error(measurements.current, 1)
    decay, sink, dense, _, text, lists, budget = search(measurements, error=max(limit, 0.001))
    assert f"at most {max(limit, 0.001):g}: decay " in text.partition("\n")[0]
    i = measurements.index(decay, sink)
    if lists == "adaptive":
        i = measurements.adaptive(budget)
    assert measurements.error(i, dense) <= max(limit, 0.001)
    sample(patch(wan, decay=decay, sink_frames=sink, dense_blocks=dense), height=36, width=40)
    (summary,) = summaries
    assert summary["settings"]["decay"] == decay
    assert summary["settings"]["sink_frames"] == sink
    assert summary["radial_calls"] == (BLOCKS - dense) * summary["model_calls"]


def test_a_target_out_of_reach(probed):
    measurements = measured(probed)
    text = search(measurements, MOST_EXACT, speedup=20.0)[4]
    assert text.startswith("None ") and " 20 times" in text.partition("\n")[0]
    text = search(measurements, MOST_EXACT, speedup=1.0)[4]
    assert "most exact" in text.partition(": decay")[0] and not text.startswith("None ")


def text_of(model):
    (samples, image, text, measurements, data), ui = compare(model)
    assert samples is LATENT and measurements is None and json.loads(data) == {}
    assert image.shape[2] == 1000 and ui["text"] == (text,)
    return text


def test_nothing_measured_says_what_to_do(wan):
    assert "not go through Radial Attention Probe" in text_of(wan)
    model = probe(wan, "7")
    assert "has not run" in text_of(model)
    sample(model)
    assert "2 steps, none" in text_of(model)
    model = probe(wan, "0", blocks="30-40")
    sample(model, steps=1)
    assert "blocks to measure count from 0" in text_of(model)
    model = probe(wan, "0")
    sample(model, frames=1, height=64, width=64, steps=1)
    assert f"single frame ({BLOCKS})" in text_of(model)


def test_adaptive_lists_are_an_output(probed):
    """Saved graphs count the outputs, so new ones come last."""
    measurements = measured(probed)

    def exact_at_a_third(call):
        errors = (*(0.5 for _ in call.reading.error[1:]), 0.01)
        return replace(call, reading=replace(call.reading, error=errors))

    made_up = replace(measurements, calls=tuple(map(exact_at_a_third, measurements.calls)))
    decay, _, dense, _, text, lists, budget = search(made_up)
    assert (decay, dense, lists, budget) == (0.2, 0, "adaptive", 0.33)
    assert "adaptive lists at budget 0.33" in text and "in the very step" in text
    schema = nodes.NODE_CLASS_MAPPINGS["RadialSettingsSearch"].GET_SCHEMA()
    names = [each.display_name for each in schema.outputs]
    assert names == "decay sink_frames dense_blocks image text lists budget".split()


def test_the_presets_figures(probed, monkeypatch):
    """Those of their budgets, or what the measured ones next to it say."""
    presets, m = pack_module("nodes.inputs.presets").PRESETS, measured(probed)

    def lines(**budgets):
        for name, budget in budgets.items():
            monkeypatch.setitem(presets, name, replace(presets[name], budget=budget))
        text = search(m)[4].split("\n")
        return dict(line.split(": ") for line in text if line.startswith((*presets,)))

    setting = pack_module("radial_core.search").setting
    errors, speeds = {}, {}
    for budget in m.budgets:
        one = setting(m, m.adaptive(budget), 1)
        errors[budget], speeds[budget] = f"{one.error:.2g}", f"{one.speedup:.2g}x"
    found = lines(closer=1.0, balanced=0.6, faster=0.3)
    assert found["closer (budget 1)"] == f"error {errors[1.0]}, speed-up of a step {speeds[1.0]}."
    between = f"error {errors[0.67]} to {errors[0.5]}, speed-up of a step {speeds[0.67]} to "
    assert found["balanced (budget 0.6)"] == f"{between}{speeds[0.5]}."
    above = f"error above {errors[0.33]}, speed-up of a step above {speeds[0.33]}."
    assert found["faster (budget 0.3)"] == above
    below = f"error below {errors[1.0]}, speed-up of a step below {speeds[1.0]}."
    assert lines(closer=1.5)["closer (budget 1.5)"] == below
    assert "The presets with decay 0.2, 1 sink frame, 1 dense block, as" in search(m)[4]
    without = replace(m, budgets=(), budget=None)
    assert "presets" not in search(without)[4]


def test_without_measurements_the_search_selects_the_preset(wan):
    decay, sink, dense, image, text, lists, budget = search(None)
    assert (lists, budget) == ("radial", 1.0)
    assert (decay, sink, dense) == (0.0, -1, -1) and isinstance(decay, float)
    assert "Nothing was measured" in text
    patch(wan, decay=decay, sink_frames=sink, dense_blocks=dense)


def test_distances_that_no_measured_token_has(wan):
    """16 tokens in 40 frames: none in the first or last frame."""
    model = probe(wan, "0", tokens=16)
    sample(model, frames=40, height=4, width=4, steps=1)
    (_, _, text, measurements, _), _ = compare(model)
    assert measurements.by_distance()[-1] == 0
    assert "Measured: " in text


def test_nested_samples_pass_through():
    nested = {"samples": NestedTensor([torch.zeros(1, 16, 3, 4, 4)])}
    (samples, *_), _ = compare(zoo.hunyuan_image()[0], nested)
    assert samples is nested


def test_a_failing_picture_does_not_cost_the_samples(probed, monkeypatch, caplog):
    def broken(measurements):
        raise OSError("no font")

    monkeypatch.setattr(pack_module("nodes.compare"), "draw_compare", broken)
    (_, _, text, measurements, data), _ = compare(probed)
    assert measurements is not None and json.loads(data) and text
    assert "OSError: no font" in caplog.text


@pytest.mark.parametrize(
    "given, message",
    [
        ({"target": "best"}, "target must be one of largest speed-up, smallest error, got 'best'"),
        ({"error": float("nan")}, "error must be a number from 0.001 to 1.0, got nan"),
        ({"error": 0}, "error must be a number from"),
        ({"speedup": 0.5}, "speedup must be a number from 1.0 to 20.0, got 0.5"),
        ({"measurements": "{}"}, "measurements must come from Radial Attention Compare, got '{}'"),
    ],
)
def test_impossible_targets_are_refused(probed, given, message):
    with pytest.raises(ValueError, match=message):
        search(**{"measurements": measured(probed), **given})


def test_inputs_that_are_no_model_or_latent_are_refused(wan):
    with pytest.raises(ValueError, match="model must come from a model loader, got 'wan'"):
        compare("wan")
    with pytest.raises(ValueError, match="samples must come from a sampler"):
        compare(wan, samples="latent")


@pytest.mark.parametrize(
    "node", ["RadialAttentionProbe", "RadialAttentionCompare", "RadialSettingsSearch"]
)
def test_every_input_and_output_has_a_tooltip(node):
    schema = nodes.NODE_CLASS_MAPPINGS[node].GET_SCHEMA()
    assert "radial" in schema.search_aliases
    assert all(each.tooltip for each in (*schema.inputs, *schema.outputs))


def test_a_graph_that_measures_and_then_samples_with_the_result(server, tmp_path):
    """A short run with the probe, then the real one: two samplers, in a real server."""
    small = {"width": 128, "height": 128, "length": 65, "steps": 2}
    graph = set_inputs(load_graph("wan21_t2v"), small)
    sampler = graph["9"]["inputs"]
    graph |= {
        "20": node(
            "RadialAttentionProbe", model=["1", 0], steps="0, last", blocks="all", tokens=64
        ),
        "21": node("KSampler", **{**sampler, "model": ["20", 0]}),
        "22": node("RadialAttentionCompare", samples=["21", 0], model=["20", 0]),
        "23": node(
            "RadialSettingsSearch",
            measurements=["22", 3],
            target=MOST_EXACT,
            error=0.1,
            speedup=1.0,
        ),
    }
    outputs = {"decay": ["23", 0], "sink_frames": ["23", 1], "dense_blocks": ["23", 2]}
    outputs |= {"lists": ["23", 5], "budget": ["23", 6]}
    graph["4"]["inputs"] |= {**outputs, "dense_steps": 0, "dense_last_steps": 0}
    graph["4"]["inputs"]["preset"] = "custom"
    del graph["10"], graph["11"], graph["12"]
    graph["24"] = node("PreviewAny", source=["9", 0])
    result = asyncio.run(run_graph(server.url, graph, tmp_path, server.check))
    texts = dict(result.texts)
    assert "3 of 3 blocks in steps 0, 1 of 2" in texts["RadialAttentionCompare"]
    chosen = texts["RadialSettingsSearch"].partition(": ")[2]
    (summary,) = result.summaries
    used = summary["settings"]
    assert chosen.startswith(f"decay {used['decay']:g}, {used['sink_frames'] or 'no'} sink frame")


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}
