"""The preset of the patch node: who has one, and which inputs it disables."""

import json

from conftest import ROOT
from frontend import screenshot
from person import (
    NOWHERE,
    add,
    blank,
    choose,
    connect,
    drop,
    eventually,
    graph_on,
    look_at,
    only,
    open_file,
    prompt_on,
    type_number,
    widgets_on,
)
from playwright.sync_api import expect

PATCH = "RadialAttentionPatch"
DECIDED = [
    "dense_steps",
    "dense_last_steps",
    "dense_blocks",
    "sink_frames",
    "decay",
    "lists",
    "budget",
]
SAVED = ROOT / "tests/saved/0.5.0"


def preset_on(page, node):
    return widgets_on(page)[node]["preset"]


def disabled_on(page, node):
    """The names of the widgets that the node shows as disabled."""
    return page.evaluate(
        """id => {
            const html = document.querySelector(`[data-node-id="${id}"]`)
            const shown = name => html.querySelector(
                `:is([aria-label="${name}"], [aria-label="${name}"] input):disabled`
            )
            return app.graph.getNodeById(id).widgets.filter(
                w => html ? shown(w.name) : w.computedDisabled
            ).map(w => w.name)
        }""",
        node,
    )


def undo(page):
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")


def paste(page, clipboard: dict) -> str:
    """Paste what was copied in this page or another. Returns the id of the new patch node."""
    return page.evaluate(
        """([text, kind]) => {
            const before = new Set(app.graph.nodes)
            localStorage.setItem('litegrapheditor_clipboard', text)
            app.canvas.pasteFromClipboard()
            return String(app.graph.nodes.find(n => n.type === kind && !before.has(n)).id)
        }""",
        [json.dumps(clipboard), PATCH],
    )


def copied(page, *nodes: str) -> dict:
    """What the page puts on the clipboard."""
    text = page.evaluate(
        """ids => {
            app.canvas.copyToClipboard(ids.map(id => app.graph.getNodeById(id)))
            return localStorage.getItem('litegrapheditor_clipboard')
        }""",
        nodes,
    )
    return json.loads(text)


def test_a_preset_disables_what_it_decides(either_page, mode):
    page = either_page
    blank(page)
    drop(page, "Radial Attention Patch", (800, 400))
    patch = only(page, PATCH)
    assert preset_on(page, patch) == "balanced"
    eventually(page, lambda: disabled_on(page, patch), DECIDED)
    screenshot(page, f"preset-{mode}")

    choose(page, patch, "preset", "custom")
    eventually(page, lambda: disabled_on(page, patch), [])
    type_number(page, patch, "dense_steps", 3)
    page.mouse.click(*NOWHERE)  # out of the field: the page keeps a state to return to
    choose(page, patch, "preset", "faster")
    page.mouse.click(NOWHERE[0] - 300, NOWHERE[1])
    eventually(page, lambda: disabled_on(page, patch), DECIDED)

    undo(page)
    eventually(page, lambda: preset_on(page, patch), "custom")
    eventually(page, lambda: disabled_on(page, patch), [])
    for preset, disabled in (("custom", []), ("closer", DECIDED)):
        choose(page, patch, "preset", preset)
        copy = paste(page, copied(page, patch))
        open_file(page, graph_on(page))
        for node in (patch, copy):
            values = widgets_on(page)[node]
            assert (values["preset"], values["dense_steps"]) == (preset, 3)
            eventually(page, lambda node=node: disabled_on(page, node), disabled)
        page.evaluate("id => app.graph.remove(app.graph.getNodeById(id))", copy)


def test_a_link_makes_it_custom(either_page, mode):
    page = either_page
    blank(page)
    value, patch = add(page, "PrimitiveFloat"), add(page, PATCH)
    page.evaluate("id => app.graph.getNodeById(id).pos = [100, 250]", value)
    look_at(page, value, patch)
    message = page.locator(".p-toast-message")
    connect(page, (value, "FLOAT"), (patch, "decay"))
    assert preset_on(page, patch) == "custom"
    expect(message.filter(has_text="because decay is linked")).to_have_count(1)
    eventually(page, lambda: disabled_on(page, patch), ["decay"])

    choose(page, patch, "preset", "closer")
    expect(message.filter(has_text="does not use what is linked to decay")).to_have_count(1)
    eventually(page, lambda: disabled_on(page, patch), DECIDED)
    screenshot(page, f"preset-linked-{mode}")
    copy = paste(page, copied(page, value, patch))
    for_api = prompt_on(page)
    for node in (patch, copy):  # such files may have inputs in any order
        for_api[node]["inputs"] = {"preset": "closer", **for_api[node]["inputs"]}
    for graph in (graph_on(page), for_api):
        open_file(page, graph)
        for node in (patch, copy):
            inputs = prompt_on(page)[node]["inputs"]
            assert isinstance(inputs["decay"], list) and inputs["preset"] == "closer"
            eventually(page, lambda node=node: disabled_on(page, node), DECIDED)


def test_graphs_of_earlier_versions_stay_custom(used_page):
    page = used_page
    old = json.loads((SAVED / "ui.json").read_text(encoding="utf-8"))
    (node,) = (node for node in old["nodes"] if node["type"] == PATCH)
    assert len(node["widgets_values"]) == 8  # without a preset
    open_file(page, old)
    patch = only(page, PATCH)
    assert preset_on(page, patch) == "custom"
    eventually(page, lambda: disabled_on(page, patch), [])

    pasted = paste(page, {"nodes": [node]})
    assert preset_on(page, pasted) == "custom"
    eventually(page, lambda: disabled_on(page, pasted), [])

    open_file(page, in_subgraph(page, patch))
    assert page.evaluate(PRESETS_IN_SUBGRAPHS) == ["custom"]


def in_subgraph(page, patch):
    """The graph as an earlier version would have saved it, with the patch in a subgraph."""
    page.evaluate("id => app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)]))", patch)
    graph = graph_on(page)
    (subgraph,) = graph["definitions"]["subgraphs"]
    (node,) = subgraph["nodes"]
    assert node["widgets_values"].pop() == "custom"
    return graph


PRESETS_IN_SUBGRAPHS = """() => [...app.graph.subgraphs.values()].flatMap(
    g => g.nodes.map(n => n.widgets.find(w => w.name === 'preset').value)
)"""
