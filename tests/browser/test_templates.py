"""Every workflow of the pack is among the Templates and opens without complaints."""

import json
from pathlib import Path

import pytest
from conftest import ROOT, check_watch, take_watch
from frontend import READY, comfyui_page, screenshot
from person import complaints, eventually, graph_on, open_file, overlaps, press, text_on
from playwright.sync_api import expect

FILES = sorted((ROOT / "workflows").glob("*.json"))
MODEL_FILE = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth")
PATCH = "RadialAttentionPatch"
STATUS = (  # a long one, to test the node's size
    "balanced: radial 71 %: 36 of 50 steps, 29.4 % of the map kept, 8 bit (triton_int8); "
    "dense: first 12 steps and last step, first block, calls with another mask; adaptive lists "
    "(budget 0.67) keep 81 % of the attention, radial ones would keep 84 % (looked 120 times, "
    "2.1 s, 140 MB)"
)

each_template = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


@pytest.fixture(scope="module")
def gallery(browser, server, mode):
    """A page in which all templates are opened, one after another."""
    with comfyui_page(browser, server.url, mode) as page:
        yield page


@pytest.fixture(scope="module")
def without_models(browser, server):
    """The page of a user without any model files."""

    def hide_models(route):
        answer = route.fetch()
        route.fulfill(response=answer, json=without_files(answer.json()))

    with comfyui_page(browser, server.url) as page:
        page.context.route("**/object_info", hide_models)
        page.reload()
        page.wait_for_function(READY)
        yield page


def without_files(value):
    """A JSON value whose lists of model files are empty."""
    if isinstance(value, dict):
        return {name: without_files(each) for name, each in value.items()}
    if isinstance(value, list):
        files = any(isinstance(each, str) and each.endswith(MODEL_FILE) for each in value)
        return [] if files else [without_files(each) for each in value]
    return value


def test_the_gallery_shows_each_template_with_its_picture(used_page):
    page = used_page
    press(page.get_by_role("button", name="Templates").first)
    for path in FILES:
        card = page.get_by_test_id(f"template-workflow-{path.stem}")
        card.scroll_into_view_if_needed()
        thumbnail = card.locator("img").first
        expect(thumbnail, f"{path.stem}.jpg").to_be_visible()
        page.wait_for_function("e => e.complete", arg=thumbnail.element_handle())
        assert thumbnail.evaluate("e => e.naturalWidth") >= 200, f"{path.stem}.jpg is small"
    screenshot(page, "templates")
    page.keyboard.press("Escape")


def test_complaints_of_the_page_are_detected(used_page):
    """Otherwise the tests below could not fail."""
    graph = json.loads((ROOT / "workflows/wan21_t2v.json").read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        if node["type"] == "VAELoader":
            node["widgets_values"] = ["nowhere.safetensors"]
        if node["type"] == "VAEDecode":
            node["type"] = "NoSuchNode"
    open_file(used_page, graph)
    overlay = used_page.get_by_test_id("error-overlay")
    expect(overlay).to_be_visible()
    eventually(used_page, lambda: "node NoSuchNode" in complaints(used_page), True)
    assert used_page.evaluate(IMPOSSIBLE_VALUES) == ["VAELoader.vae_name = nowhere.safetensors"]
    take_watch(used_page)  # the page queries the node registry


def open_template(page, path: Path):
    page.keyboard.press("Escape")  # close what an earlier test left open
    press(page.get_by_role("button", name="Templates").first)
    press(page.get_by_test_id(f"template-workflow-{path.stem}"))
    page.wait_for_function(
        "name => app.extensionManager.workflow.activeWorkflow.filename === name", arg=path.stem
    )
    page.wait_for_function(READY)
    take_watch(page)  # the gallery has its own test


@each_template
def test_it_opens_unchanged_and_tidy(gallery, mode, path):
    open_template(gallery, path)
    name = f"template-{path.stem}-{mode}"
    screenshot(gallery, name)
    assert complaints(gallery) == []
    saved, opened = json.loads(path.read_text(encoding="utf-8")), graph_on(gallery)
    assert links(opened) == links(saved)
    assert contents(opened) == contents(saved)
    assert gallery.evaluate(IMPOSSIBLE_VALUES) == []
    eventually(gallery, lambda: overlaps(gallery), [])
    send_summary(gallery)
    eventually(gallery, lambda: overlaps(gallery), [])
    screenshot(gallery, f"{name}-ran")
    check_watch(gallery)


def send_summary(page):
    """Send the server's message after sampling to each patch node, which grows by the status."""
    page.evaluate(
        """status => {
            for (const node of app.graph.nodes.filter(n => n.type === 'RadialAttentionPatch'))
                app.api.dispatchCustomEvent('radial_attention.summary', {node: node.id, status})
        }""",
        STATUS,
    )
    for node in patches(page):
        eventually(page, lambda node=node: "radial" in text_on(page, node), True)


def patches(page) -> list[str]:
    return [i for i, (kind, *_) in contents(graph_on(page)).items() if kind == PATCH]


def links(graph):
    """{((from node, slot), (to node, input))}. Inputs by name, since the page changes slots."""
    inputs = {str(n["id"]): [i["name"] for i in n.get("inputs", [])] for n in graph["nodes"]}
    ends = (link if isinstance(link, list) else list(link.values()) for link in graph["links"])
    return {((str(a), i), (str(b), inputs[str(b)][k])) for _, a, i, b, k, *_ in ends}


def contents(graph):
    """{node id: (type, mode, widget values)}"""
    return {
        str(n["id"]): (n["type"], n["mode"], n.get("widgets_values") or []) for n in graph["nodes"]
    }


IMPOSSIBLE_VALUES = """() => app.graph.nodes.flatMap(n => (n.widgets ?? []).flatMap(w => {
    const {values, min, max} = w.options ?? {}
    const wrong = w.type === 'combo' && Array.isArray(values) ? !values.includes(w.value)
        : w.type === 'number' && !(w.value >= min && w.value <= max)
    return wrong ? [`${n.type}.${w.name} = ${w.value}`] : []
}))"""


@each_template
def test_missing_models_are_offered_with_folder_and_url(without_models, path):
    page = without_models
    open_template(page, path)
    wanted = {
        model["name"]: (model["directory"], model["url"])
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
        for model in node.get("properties", {}).get("models", [])
    }
    files = {
        value
        for _, _, values in contents(graph_on(page)).values()
        for value in values
        if isinstance(value, str) and value.endswith(MODEL_FILE)
    }
    assert files == set(wanted) != set()
    expect(page.get_by_test_id("error-overlay")).to_be_visible()
    eventually(page, lambda: offered(page), wanted)
    if path == FILES[0]:
        press(page.get_by_test_id("error-overlay-see-errors"))
        screenshot(page, "missing-models")
    errors, _ = take_watch(page)  # the page itself requests the files' sizes
    assert not errors, errors


def offered(page):
    """{file: (folder, URL)} of the downloads that the page offers."""
    candidates = page.evaluate(
        """() => {
            const vue = document.getElementById('vue-app').__vue_app__
            const s = vue.config.globalProperties.$pinia.state.value
            return s.missingModel.missingModelCandidates
        }"""
    )
    return {each["name"]: (each["directory"], each["url"]) for each in candidates or []}
