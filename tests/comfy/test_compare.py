"""Radial Attention Compare and Radial Settings Search, behind the probe in real runs."""

import asyncio
import json

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
    """samples, image, text, measurements, json; and what the page gets."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionCompare"]
    out = node.execute(samples, model)
    return out.args, out.ui


def search(measurements, target=FASTEST, error=0.1, speedup=1.5):
    """decay, sink_frames, dense_blocks, image, text."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialSettingsSearch"]
    return node.execute(measurements, target, error, speedup).args


@pytest.fixture(scope="module")
def probed(wan):
    """A model that was measured in 3 of 4 steps, 9 frames of 18 x 20 patches."""
    model = probe(patch(wan, dense_blocks=1), "0, 50%, last", tokens=256)
    sample(model, height=36, width=40, steps=4)
    return model


def test_what_it_shows(probed):
    (samples, image, text, measurements, data), ui = compare(probed)
    assert samples is LATENT
    assert image.dtype == torch.float32 and image.shape[0] == 1 and image.shape[3] == 3
    assert 0 <= image.min() < 0.3 and 0.9 < image.max() <= 1
    assert image.shape[2] == 1000
    assert measurements == measured(probed)
    lines = text.split("\n")
    assert lines[0].startswith(
        "Now (decay 0.2, 1 sink frame, 1 dense block; the settings of Radial"
    )
    assert f"error {measurements.error(measurements.current, 1):.2g}" in lines[0]
    assert any(line.startswith("Decay ") and "in place of 0.2: error " in line for line in lines)
    assert lines[-1].startswith(f"Measured: {BLOCKS} of {BLOCKS} blocks in steps 0, 2, 3 of 4")
    assert ui["text"] == (text,) and len(ui["images"]) == 1
    found = json.loads(data)
    assert [call["step"] for call in found["calls"]] == [0] * 3 + [2] * 3 + [3] * 3
    assert len(found["patterns"]) == len(found["densities"]) == len(measurements.patterns)


@pytest.mark.parametrize("name", ["hunyuan t2v", "mochi, both prompts in one pass"])
def test_on_other_models(name):
    (case,) = (case for case in zoo.CASES if case.name == name)
    inputs = case.inputs()
    model = probe(case.model(), "last", tokens=64)
    out = zoo.sample(model, inputs)
    (samples, _, text, measurements, _), _ = compare(model, {"samples": out})
    assert samples["samples"] is out
    assert f"Measured: {len(case.calls)} of {len(case.calls)} blocks in step 1 of 2" in text
    decay, sink, dense, image, words = search(measurements)
    assert decay in measurements.decays and sink in measurements.sinks
    assert 0 <= dense <= len(case.calls) // 2
    assert image.shape[2] == 1000 and f"decay {decay:g}" in words


def test_the_settings_found_run(wan, probed, summaries, any_density):
    """What the graph does: the search's outputs are the patch's inputs."""
    measurements = compare(probed)[0][3]
    limit = measurements.error(measurements.current, 1)
    decay, sink, dense, _, text = search(measurements, error=max(limit, 0.001))
    assert text.startswith(f"The fastest with an error of at most {max(limit, 0.001):g}: decay ")
    i = measurements.index(decay, sink)
    assert measurements.error(i, dense) <= max(limit, 0.001)
    sample(patch(wan, decay=decay, sink_frames=sink, dense_blocks=dense), height=36, width=40)
    (summary,) = summaries
    assert summary["settings"]["decay"] == decay
    assert summary["settings"]["sink_frames"] == sink
    assert summary["radial_calls"] == (BLOCKS - dense) * summary["model_calls"]


def test_what_is_out_of_reach(probed):
    measurements = measured(probed)
    *_, text = search(measurements, MOST_EXACT, speedup=20.0)
    assert text.startswith("None of them is at least 20 times as fast. The fastest of them: decay")
    *_, text = search(measurements, MOST_EXACT, speedup=1.0)
    assert text.startswith("The most exact that is at least 1 times as fast: decay")


def text_of(model):
    (samples, image, text, measurements, data), ui = compare(model)
    assert samples is LATENT and measurements is None and json.loads(data) == {}
    assert image.shape[2] == 1000 and ui["text"] == (text,)
    return text


def test_nothing_measured_says_what_to_do(wan):
    assert "did not go through Radial Attention Probe" in text_of(wan)
    model = probe(wan, "7")
    assert "has not run" in text_of(model)
    sample(model)
    assert "made 2 steps, and none of those" in text_of(model)
    model = probe(wan, "0", blocks="30-40")
    sample(model, steps=1)
    assert "The blocks to measure count from 0" in text_of(model)
    model = probe(wan, "0")
    sample(model, frames=1, height=64, width=64, steps=1)
    assert text_of(model) == f"Nothing was measured in this run: single frame ({BLOCKS})."


def test_without_measurements_the_search_gives_the_preset(wan):
    decay, sink, dense, image, text = search(None)
    assert (decay, sink, dense) == (0.0, -1, -1) and isinstance(decay, float)
    assert "Nothing was measured" in text
    patch(wan, decay=decay, sink_frames=sink, dense_blocks=dense)


def test_distances_that_no_measured_token_has(wan):
    """16 tokens, 40 frames: none of them in the first frame or the last."""
    model = probe(wan, "0", tokens=16)
    sample(model, frames=40, height=4, width=4, steps=1)
    (_, _, text, measurements, _), _ = compare(model)
    assert measurements.by_distance()[-1] == 0
    assert "Measured: " in text


def test_samples_of_several_kinds_pass():
    nested = {"samples": NestedTensor([torch.zeros(1, 16, 3, 4, 4)])}
    (samples, *_), _ = compare(zoo.hunyuan_image()[0], nested)
    assert samples is nested


def test_a_picture_that_fails_does_not_cost_the_samples(probed, monkeypatch, caplog):
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
def test_refuses_impossible_targets(probed, given, message):
    with pytest.raises(ValueError, match=message):
        search(**{"measurements": measured(probed), **given})


def test_refuses_what_is_no_model_or_latent(wan):
    with pytest.raises(ValueError, match="model must come from a model loader, got 'wan'"):
        compare("wan")
    with pytest.raises(ValueError, match="samples must come from a sampler"):
        compare(wan, samples="latent")


@pytest.mark.parametrize(
    "node", ["RadialAttentionProbe", "RadialAttentionCompare", "RadialSettingsSearch"]
)
def test_every_input_and_output_says_what_it_is(node):
    schema = nodes.NODE_CLASS_MAPPINGS[node].GET_SCHEMA()
    assert "radial" in schema.search_aliases
    assert all(each.tooltip for each in (*schema.inputs, *schema.outputs))


def test_a_graph_that_measures_and_then_samples_with_what_it_found(server, tmp_path):
    """A short run behind the probe, then the real one: two samplers, in a real server."""
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
    found = {"decay": ["23", 0], "sink_frames": ["23", 1], "dense_blocks": ["23", 2]}
    graph["4"]["inputs"] |= {**found, "dense_steps": 0, "dense_last_steps": 0}
    del graph["10"], graph["11"], graph["12"]
    graph["24"] = node("PreviewAny", source=["9", 0])
    result = asyncio.run(run_graph(server.url, graph, tmp_path, server.check))
    texts = dict(result.texts)
    assert "Measured: 3 of 3 blocks in steps 0, 1 of 2" in texts["RadialAttentionCompare"]
    words = texts["RadialSettingsSearch"].partition(": ")[2]
    (summary,) = result.summaries
    used = summary["settings"]
    assert words.startswith(f"decay {used['decay']:g}, {used['sink_frames'] or 'no'} sink frame")


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}
