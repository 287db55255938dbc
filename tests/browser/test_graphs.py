"""Graphs are restored unchanged: after a reload, from a file, and as API graphs."""

import json

import pytest
from conftest import ROOT
from frontend import READY, screenshot
from person import (
    NOWHERE,
    choose,
    complaints,
    eventually,
    graph_on,
    only,
    open_file,
    prompt_on,
    type_number,
    widgets_on,
)

API_FILES = sorted((ROOT / "workflows/api").glob("*.json"))
SAVED = sorted((ROOT / "tests/saved").glob("*/*.json"))


def test_a_reload_restores_the_graph(either_page, mode, small_wan):
    page = either_page
    open_file(page, small_wan)
    patch = only(page, "RadialAttentionPatch")
    choose(page, patch, "preset", "custom")
    type_number(page, patch, "decay", 0.35)
    type_number(page, patch, "dense_steps", 3)
    page.mouse.click(*NOWHERE)  # out of the field
    page.wait_for_function(  # the page saves it a moment after the change
        "() => Object.values(localStorage).some(v => v.includes('[3,1,-1,-1,0.35,'))"
    )
    before, prompt = parts(graph_on(page)), prompt_on(page)
    page.reload()
    page.wait_for_function(READY)
    # HTML nodes take a moment to get their size.
    eventually(page, lambda: parts(graph_on(page)), before)
    assert prompt_on(page) == prompt
    settings = widgets_on(page)[patch]
    assert (settings["decay"], settings["dense_steps"]) == (0.35, 3)
    assert complaints(page) == []
    screenshot(page, f"reloaded-{mode}")


def parts(graph):
    """What a user would miss in a graph: nodes, positions, values, links, groups."""
    kept = ("id", "type", "pos", "size", "mode", "title", "widgets_values", "color")
    nodes = {str(n["id"]): {name: n.get(name) for name in kept} for n in graph["nodes"]}
    return nodes, graph["links"], [(g["title"], g["bounding"]) for g in graph["groups"]]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_saved_graphs_keep_every_value(used_page, path):
    page = used_page
    saved = json.loads(path.read_text(encoding="utf-8"))
    open_file(page, saved)
    assert complaints(page) == []
    api = json.loads(path.with_name("api.json").read_text(encoding="utf-8"))
    prompt = prompt_on(page)
    assert {i: n["class_type"] for i, n in prompt.items()} == {
        i: n["class_type"] for i, n in api.items()
    }
    for node, api_node in api.items():
        now = prompt[node]["inputs"]
        for name, value in api_node["inputs"].items():
            assert now.get(name) == value, f"{node}.{name}: {value!r} is now {now.get(name)!r}"
        for name in set(now) - set(api_node["inputs"]):  # inputs that are newer than the graph
            default = default_of(page, api_node["class_type"], name)
            assert now[name] == ("custom" if name == "preset" else default)
    screenshot(page, f"saved-{path.parent.name}-{path.stem}")


def default_of(page, kind, name):
    """The default of an input, from the node definitions on the page."""
    return page.evaluate(
        """([kind, name]) => {
            const {required, optional} = LiteGraph.registered_node_types[kind].nodeData.input
            return ({...required, ...optional})[name][1].default
        }""",
        [kind, name],
    )


@pytest.mark.parametrize("path", API_FILES, ids=[path.stem for path in API_FILES])
def test_the_api_file_is_what_the_page_exports(used_page, path):
    graph = json.loads((ROOT / "workflows" / path.name).read_text(encoding="utf-8"))
    open_file(used_page, graph)
    api = json.loads(path.read_text(encoding="utf-8"))
    again = f"python tests/browser/export_api.py {path.stem}"
    assert prompt_on(used_page) == api, f"rewrite it: {again}"


def test_every_workflow_has_an_api_file():
    assert [path.name for path in API_FILES] == sorted(
        path.name for path in (ROOT / "workflows").glob("*.json")
    )
