"""Graphs saved by earlier versions of the pack run with the settings that they had.

tests/saved/VERSION has the pack's first workflow in both formats. The page opens the ui.json in
tests/browser. From the first release on, a version that changes an input adds a folder.
"""

import asyncio
import json
import urllib.request

import pytest
from conftest import PACK
from headless.client import run_graph
from headless.graph import load_graph, set_inputs

SAVED = sorted((PACK / "tests/saved").iterdir())
SMALL = {"width": 128, "height": 128, "length": 65, "steps": 12}
PATCH = "4"
PRESET = {  # of Wan 2.1 at a trained length: a quarter of the steps is dense
    "dense_steps": SMALL["steps"] // 4,
    "dense_last_steps": 1,
    "dense_blocks": 1,
    "sink_frames": 1,
    "decay": 0.2,
    "block_size": 128,
    "lists": "radial",
}
SETTINGS = {"0.5.0": PRESET}
OUTPUTS = {  # of nodes with several, in 0.5.0; links name them by position
    "RadialMaskPreview": ["image", "figures", "density", "speedup"],
    "RadialAttentionReport": ["samples", "image", "text", "json"],
    "RadialAttentionCompare": ["samples", "image", "text", "measurements", "json"],
    "RadialSettingsSearch": ["decay", "sink_frames", "dense_blocks", "image", "text"],
    "RadialTrimLora": ["lora", "text"],
}


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: folder.name)
def test_runs_as_it_was_saved(server, folder, tmp_path):
    graph = set_inputs(load_graph(str(folder / "api.json")), SMALL)
    result = asyncio.run(run_graph(server.url, graph, tmp_path, server.check))
    (summary,) = result.summaries
    settings = SETTINGS[folder.name]
    assert summary["settings"] == settings
    dense_steps = settings["dense_steps"] + settings["dense_last_steps"]
    assert summary["dense_calls"]["dense step"] == 3 * dense_steps
    assert summary["radial_calls"] > 0 and summary["backend"] == "sdpa"
    assert len(result.files) == 1


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: folder.name)
def test_both_formats_have_the_same_values(folder):
    """The page reads values by position, the API by name."""
    ui = json.loads((folder / "ui.json").read_text())
    (node,) = (node for node in ui["nodes"] if str(node["id"]) == PATCH)
    inputs = json.loads((folder / "api.json").read_text())[PATCH]["inputs"]
    assert node["type"] == "RadialAttentionPatch"
    assert node["widgets_values"] == [value for name, value in inputs.items() if name != "model"]


def test_outputs_keep_their_places(server):
    with urllib.request.urlopen(f"{server.url}/object_info") as answer:
        info = json.load(answer)
    now = {node: info[node]["output_name"][: len(names)] for node, names in OUTPUTS.items()}
    assert now == OUTPUTS
