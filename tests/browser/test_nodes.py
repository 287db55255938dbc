"""Our nodes can be searched, have their defaults, and explain themselves."""

import re

import pytest
from frontend import screenshot
from person import (
    add,
    blank,
    choose,
    drop,
    eventually,
    only,
    open_file,
    point,
    press,
    search,
    select,
    widgets_on,
)
from playwright.sync_api import expect

MIDDLE = (900, 500)


@pytest.fixture(scope="module")
def definitions(browser, server):
    """{node id: its definition on the server} for all our nodes."""
    with browser.new_context() as context:
        nodes = context.request.get(f"{server.url}/object_info").json()
    return {k: v for k, v in nodes.items() if v["python_module"].endswith("radial-attention")}


def test_searching_radial_lists_all_our_nodes_first(used_page, definitions):
    page = used_page
    blank(page)
    results = search(page, "radial", MIDDLE)
    titles = {each["display_name"] for each in definitions.values()}
    expect(results.filter(has_text="radial-attention")).to_have_count(len(titles))
    assert {results.nth(i).inner_text().split("\n")[0] for i in range(len(titles))} == titles
    screenshot(page, "search")
    page.keyboard.press("Escape")


def test_a_new_node_has_its_widgets_and_defaults(used_page, definitions):
    page = used_page
    blank(page)
    for kind, definition in definitions.items():
        page.evaluate("() => app.graph.clear()")
        drop(page, definition["display_name"], MIDDLE)
        node = only(page, kind)
        inputs = inputs_of(definition)
        defaults = {k: default(*spec) for k, spec in inputs.items() if is_widget(*spec)}
        values = widgets_on(page)[node]
        assert {name: values.get(name) for name in defaults} == defaults, kind
        eventually(page, lambda node=node: has_room(page, node), True)
        screenshot(page, f"node-{kind}")


def inputs_of(definition):
    return {**definition["input"]["required"], **definition["input"].get("optional", {})}


def is_widget(kind, options=None):
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def default(kind, options=None):
    options = options or {}
    choices = kind if isinstance(kind, list) else options.get("options")
    return options.get("default", choices[0] if choices else None)


def has_room(page, node):
    """Whether a node's widgets, once drawn, end above its lower edge."""
    return page.evaluate(
        """id => {
            const n = app.graph.getNodeById(id)
            return (n.widgets ?? []).every(
                w => w.hidden || w.y + (w.computedHeight ?? 20) <= n.size[1] + 1
            )
        }""",
        node,
    )


def test_inputs_and_outputs_have_tooltips(definitions):
    for kind, definition in definitions.items():
        tooltips = {name: spec[1].get("tooltip") for name, spec in inputs_of(definition).items()}
        tooltips |= dict(enumerate(definition["output_tooltips"]))
        assert all(tooltips.values()), (kind, tooltips)


def test_a_widget_shows_its_tooltip(used_page, small_wan, definitions):
    page = used_page
    open_file(page, small_wan)
    kind = "RadialAttentionPatch"
    node, inputs = only(page, kind), inputs_of(definitions[kind])
    tooltip = page.locator(".node-tooltip")
    for name in widgets_on(page)[node]:
        page.mouse.move(*MIDDLE)
        x, y = point(page, node, f"widget {name}")
        page.mouse.move(x - 60, y, steps=2)
        expect(tooltip).to_have_text(inputs[name][1]["tooltip"])
    screenshot(page, "tooltip")


def test_the_help_page_opens_with_its_picture(used_page, definitions):
    page = used_page
    blank(page)
    for kind, definition in definitions.items():
        page.evaluate("() => app.graph.clear()")
        node = add(page, kind)
        panel = page.get_by_test_id("properties-panel")
        title = panel.get_by_role("heading", name=definition["display_name"]).first
        select(page, node)
        press(page.get_by_test_id("info-button"))
        expect(title).to_be_visible()
        picture = panel.locator("img").first
        expect(picture).to_have_attribute("src", re.compile("/extensions/radial-attention/docs/"))
        picture.scroll_into_view_if_needed()
        page.wait_for_function("e => e.complete", arg=picture.element_handle())
        assert picture.evaluate("e => e.naturalWidth") > 0, f"{kind}: the picture is missing"
        screenshot(page, f"help-{kind}")


def test_html_nodes_accept_every_choice(html_page, definitions):
    page = html_page
    blank(page)
    for kind in definitions:
        page.evaluate("() => app.graph.clear()")
        node = add(page, kind)
        html = page.locator(f'[data-node-id="{node}"]')
        expect(html).to_be_visible()
        more = html.get_by_test_id("advanced-inputs-button")
        if more.count():
            press(more)
        widgets = page.evaluate(CHOICES, node)
        if "preset" in widgets:  # any other one disables inputs
            choose(page, node, "preset", "custom")
        for widget, choices in widgets.items():
            for choice in (choices[-1], choices[0]):
                choose(page, node, widget, str(choice))
                value = widgets_on(page)[node][widget]
                assert value == choice, f"{kind}.{widget}: {choice!r} becomes {value!r}"
        assert html.locator("[aria-invalid=true]").count() == 0, kind
        screenshot(page, f"node-{kind}-nodes2")


CHOICES = """id => Object.fromEntries(
    app.graph.getNodeById(id).widgets.filter(w => w.type === 'combo').map(
        w => [w.name, w.options.values]
    )
)"""
