"""Graphs as earlier versions of the pack saved them: they run, with the settings they had.

tests/saved/VERSION has the pack's first workflow as that version saved it, in both formats. The
page opens the ui.json in tests/browser.
"""

import asyncio
import json

import pytest
from conftest import PACK
from headless.client import run_graph
from headless.graph import load_graph, set_inputs
from headless.server import standin_server

SAVED = sorted((PACK / "tests/saved").iterdir())
SMALL = {"width": 128, "height": 128, "length": 65, "steps": 12}
PATCH = "4"
AUTHORS = {  # of Wan 2.1 at a trained length: a quarter of the steps
    "dense_steps": SMALL["steps"] // 4,
    "dense_blocks": 1,
    "sink_frames": 1,
    "decay": 0.2,
}
FIRST = {"dense_steps": 7, "dense_blocks": 1, "sink_frames": 1, "decay": 0.2}
RAN_WITH = {"0.1.0": FIRST, "0.2.0": FIRST, "0.3.0": AUTHORS}


@pytest.fixture(scope="module")
def server(environment, stand_ins):
    with standin_server(environment, stand_ins) as server:
        yield server


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: folder.name)
def test_runs_as_it_was_saved(server, folder, tmp_path):
    graph = set_inputs(load_graph(str(folder / "api.json")), SMALL)
    result = asyncio.run(run_graph(server.url, graph, tmp_path, server.check))
    (summary,) = result.summaries
    assert summary["settings"] == {
        **RAN_WITH[folder.name],
        "dense_last_steps": 1,
        "block_size": 128,
    }
    assert summary["dense_calls"]["dense step"] == 3 * (RAN_WITH[folder.name]["dense_steps"] + 1)
    assert summary["radial_calls"] > 0 and summary["backend"] == "sdpa"
    assert len(result.files) == 1


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: folder.name)
def test_both_formats_have_the_same_values(folder):
    """What the page reads by place is what the API has by name."""
    ui = json.loads((folder / "ui.json").read_text())
    (node,) = (node for node in ui["nodes"] if str(node["id"]) == PATCH)
    inputs = json.loads((folder / "api.json").read_text())[PATCH]["inputs"]
    assert node["type"] == "RadialAttentionPatch"
    assert node["widgets_values"] == [value for name, value in inputs.items() if name != "model"]


def test_every_version_is_there():
    """A version that changes an input adds the graph that the one before it saved."""
    assert [folder.name for folder in SAVED] == list(RAN_WITH)
