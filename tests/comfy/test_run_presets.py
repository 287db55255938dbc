"""workflows/run.py: an input that the user sets counts, also where a preset would decide it."""

import inspect
import re

import pytest
from conftest import PACK, pack_module
from headless.graph import load_graph
from headless.presets import DECIDED, made_custom

BOTH = ["7", "9"]  # the patch nodes of wan22_t2v, both balanced


def test_it_knows_what_a_preset_decides():
    read_settings = pack_module("nodes.inputs.settings").read_settings
    assert {*DECIDED, "block_size"} == set(inspect.signature(read_settings).parameters)
    page = (PACK / "nodes/web/js/presets.js").read_text(encoding="utf-8")
    (names,) = re.findall(r"const DECIDED = \[(.*?)\]", page, re.DOTALL)
    assert re.findall(r'"(\w+)"', names) == list(DECIDED)


@pytest.mark.parametrize(
    "settings, custom",
    [
        ({"dense_steps": 3}, {"7": ["dense_steps"], "9": ["dense_steps"]}),
        ({"9.decay": 0.5, "9.lists": "radial"}, {"9": ["decay", "lists"]}),
        ({"steps": 8, "block_size": 64, "precision": "exact", "preset": "faster"}, {}),
        ({"dense_steps": 3, "preset": "custom"}, {}),
        ({"7.dense_steps": 3, "9.preset": "faster"}, {"7": ["dense_steps"]}),
    ],
    ids=["all nodes", "one node", "what no preset decides", "custom", "another node's preset"],
)
def test_a_node_becomes_custom(settings, custom):
    graph = load_graph("wan22_t2v")
    assert [graph[n]["inputs"]["preset"] for n in BOTH] == ["balanced", "balanced"]
    assert made_custom(graph, settings) == custom


def test_a_node_without_a_preset_is_custom_already():
    graph = load_graph("wan22_t2v")
    del graph["7"]["inputs"]["preset"]
    graph["9"]["inputs"]["preset"] = ["4", 0]  # linked: known only in the run
    assert made_custom(graph, {"dense_steps": 3}) == {}


@pytest.mark.parametrize("setting", ["budget", "9.budget"])
def test_a_preset_and_what_it_decides_are_not_both_set(setting):
    message = "--set budget: the preset faster decides it on node 9"
    with pytest.raises(SystemExit, match=message):
        made_custom(load_graph("wan22_t2v"), {setting: 0.5, "9.preset": "faster"})
