"""The pack in a real ComfyUI server, through its HTTP API."""

import asyncio
import json
import time
import urllib.request

import av
import pytest
from headless.client import GraphFailed, run_graph
from headless.graph import load_graph, set_inputs

pytestmark = pytest.mark.oldest

SMALL = {"width": 128, "height": 128, "length": 65, "steps": 4}
SMALL |= {"preset": "custom", "dense_steps": 1}
TOKENS = 17 * 8 * 8
PATIENCE = 60  # seconds
# Inputs of the patch node that graphs saved by earlier versions don't have.
OPTIONAL = ["dense_attention", "precision", "lists", "budget", "preset"]


def get(server, path):
    with urllib.request.urlopen(server.url + path) as answer:
        return answer.read()


def run(server, tmp_path, **settings):
    tmp_path.mkdir(exist_ok=True)
    graph = set_inputs(load_graph("wan21_t2v"), {**SMALL, "block_size": 64, **settings})
    return asyncio.run(run_graph(server.url, graph, tmp_path, server.check))


def test_the_workflow_makes_a_video(server, tmp_path):
    result = run(server, tmp_path)
    (file,) = result.files
    with av.open(str(file)) as video:
        stream = video.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
        assert (len(frames), stream.width, stream.height) == (65, 128, 128)
        assert stream.average_rate == 16
    assert all(frame.std() > 1 for frame in frames)
    (summary,) = result.summaries
    # 4 steps: 1 dense first, 1 dense last; 3 blocks: 1 dense; uni_pc calls the model once a step
    assert summary["steps"] == summary["model_calls"] == 4
    assert summary["radial_calls"] == 2 * 2
    assert summary["dense_calls"] == {"dense step": 6, "dense block": 2, "cross-attention": 12}
    assert 0.1 < summary["density"] < 0.8 and summary["backend"] == "sdpa"


def test_the_same_seed_makes_the_same_video_and_radial_matters(server, tmp_path):
    def sampled(folder, **settings):
        """A run that is not answered from the server's cache, which takes a moment to clear."""
        forget = json.dumps({"unload_models": True, "free_memory": True}).encode()
        headers = {"Content-Type": "application/json"}
        for _ in range(PATIENCE):
            urllib.request.urlopen(urllib.request.Request(server.url + "/free", forget, headers))
            result = run(server, folder, **settings)
            if result.summaries:
                return result
            time.sleep(1)
        raise AssertionError("the server always answers from its cache")

    def frames(name, **settings):
        result = sampled(tmp_path / name, **settings)
        with av.open(str(result.files[0])) as video:
            return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]

    first = frames("a", seed=5)
    again = frames("b", seed=5)
    dense = frames("c", seed=5, dense_steps=4)
    assert all((x == y).all() for x, y in zip(first, again, strict=True))
    assert any((x != y).any() for x, y in zip(first, dense, strict=True))


def test_a_new_seed_reuses_the_patched_model(server, tmp_path):
    summaries = [run(server, tmp_path, seed=seed).summaries for seed in (11, 12)]
    assert summaries[0] == summaries[1] and len(summaries[0]) == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"4.dense_steps": -2}, "smaller than min"),
        ({"4.decay": -1}, "smaller than min"),
        ({"4.decay": 9}, "bigger than max"),
        ({"4.block_size": 100}, "block_size must be 64 or 128, got 100"),
        ({"4.backend": "magic"}, "not in list"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(server, tmp_path, settings, message):
    with pytest.raises(GraphFailed, match=f"Radial Attention Patch.*{message}"):
        run(server, tmp_path, **settings)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("decay", float("nan"), r"decay must be in \(0, 4\], .*, got nan"),
        ("model", "wan", "model must come from a model loader, got 'wan'"),
    ],
)
def test_the_node_refuses_what_comfyui_accepts(server, tmp_path, name, value, message):
    graph = set_inputs(load_graph("wan21_t2v"), SMALL)
    graph["4"]["inputs"][name] = value
    with pytest.raises(GraphFailed, match=message):
        asyncio.run(run_graph(server.url, graph, tmp_path, server.check))


def test_an_unknown_preset_is_refused_before_anything_runs(server, tmp_path):
    graph = set_inputs(load_graph("wan21_t2v"), SMALL)
    graph["4"]["inputs"]["preset"] = "best"
    with pytest.raises(GraphFailed, match="Radial Attention Patch.*not in list"):
        asyncio.run(run_graph(server.url, graph, tmp_path, server.check))


def test_a_graph_saved_before_an_input_was_added(server, tmp_path):
    graph = set_inputs(load_graph("wan21_t2v"), SMALL)
    for name in OPTIONAL:
        graph["4"]["inputs"].pop(name, None)
    asyncio.run(run_graph(server.url, graph, tmp_path, server.check))


def test_the_page_gets_the_node_with_help_and_templates(server):
    info = json.loads(get(server, "/object_info/RadialAttentionPatch"))["RadialAttentionPatch"]
    assert info["display_name"] == "Radial Attention Patch" and info["output"] == ["MODEL"]
    inputs = info["input"]["required"]
    assert list(inputs) == [  # saved graphs are forever: append, never reorder or rename
        "model",
        "dense_steps",
        "dense_last_steps",
        "dense_blocks",
        "sink_frames",
        "decay",
        "block_size",
        "backend",
    ]
    assert list(info["input"]["optional"]) == OPTIONAL
    inputs |= info["input"]["optional"]
    assert all(options.get("tooltip") for _, options in inputs.values())
    assert "radial" in info["search_aliases"]

    help_page = get(server, "/extensions/radial-attention/docs/RadialAttentionPatch.md").decode()
    for name in inputs:
        assert f"`{name}`" in help_page, name
    templates = json.loads(get(server, "/api/workflow_templates"))
    assert "wan21_t2v" in templates["radial-attention"]
