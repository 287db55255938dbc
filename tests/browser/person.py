"""A user's actions on ComfyUI's page, by mouse and keyboard, and what the page then shows.

Each action waits until the page shows its effect. None waits for a fixed time, and none is
repeated, because two clicks in one place are a double click.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from frontend import PATIENCE, READY
from playwright.sync_api import Locator, Page, expect

NOWHERE = (960, 1040)  # on the canvas, below every graph


def open_file(page: Page, graph: dict, name: str = "graph"):
    """Like dropping a JSON file on the page: a saved graph, or one exported for the API."""
    page.evaluate(
        """async ([text, name]) => {
            await app.handleFile(new File([text], name + '.json', {type: 'application/json'}))
        }""",
        [json.dumps(graph), name],
    )
    page.wait_for_function(READY)


def graph_on(page: Page) -> dict:
    """The graph as the page would save it."""
    return page.evaluate("() => app.graph.serialize()")


def prompt_on(page: Page) -> dict:
    """The graph as the page would export it for the API, or queue it."""
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def widgets_on(page: Page) -> dict[str, dict]:
    """{node id: {widget: value}} for all nodes."""
    return page.evaluate(
        """() => Object.fromEntries(app.graph.nodes.map(
            n => [String(n.id), Object.fromEntries((n.widgets ?? []).map(w => [w.name, w.value]))]
        ))"""
    )


def only(page: Page, kind: str) -> str:
    """The id of the only node of that type."""
    ids = page.evaluate(
        "kind => app.graph.nodes.filter(n => n.type === kind).map(n => String(n.id))", kind
    )
    assert len(ids) == 1, f"expected one {kind}, got {len(ids)}"
    return ids[0]


def point(page: Page, node: str, place: str) -> tuple[float, float]:
    """A position on the screen: the dot of an "input NAME" or "output NAME", or the middle of a
    "widget NAME" drawn on the canvas."""
    what, _, name = place.partition(" ")
    drawn = page.wait_for_function(
        """([id, what, name]) => {
            const n = app.graph.getNodeById(id)
            const named = list => list.findIndex(x => x.name === name)
            const w = n.widgets?.find(w => w.name === name)
            const at = {
                input: () => n.getInputPos(named(n.inputs)),
                output: () => n.getOutputPos(named(n.outputs)),
                widget: () => [n.pos[0] + n.size[0] / 2, n.pos[1] + w.y + 10],
            }[what]()
            return isFinite(at[1]) && app.canvasPosToClientPos([at[0], at[1]])
        }""",
        arg=[node, what, name],
    )
    x, y = drawn.json_value()
    return x, y


def blank(page: Page):
    """A new tab without a node."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")


def search(page: Page, text: str, at: tuple[float, float]) -> Locator:
    """Double-click the canvas and type. Returns the results."""
    field = page.get_by_role("combobox", name="Add a node")
    double_click(page, at)
    field.fill(text)
    return page.get_by_test_id("result-item")


def double_click(page: Page, at: tuple[float, float]):
    """Double-click the canvas. The second click waits until the first was handled: a busy page that
    gets both at once does not count them as a double click."""
    page.mouse.click(*at)
    page.evaluate("() => new Promise(requestAnimationFrame)")
    page.mouse.click(*at)


def press(button: Locator):
    """Click by script: an element that moves between mouse down and up, as lists do while they
    load, would miss the click."""
    button.evaluate("e => e.click()")


def drop(page: Page, name: str, at: tuple[float, float]):
    """Search a node by its full name and put it on the canvas."""
    result = search(page, name, at).filter(has_text=name).first
    press(result)
    result.wait_for(state="detached")
    hangs = "() => app.graph.nodes.some(n => n.flags.ghost)"  # on the mouse, until a click
    page.wait_for_function(hangs)
    page.mouse.click(*at)
    page.wait_for_function(f"() => !({hangs})()")


def add(page: Page, kind: str) -> str:
    """Add a node in the middle of the view, without the search. Returns its id."""
    return page.evaluate(
        """kind => {
            const node = LiteGraph.createNode(kind)
            node.pos = [500, 250]
            app.graph.add(node)
            return String(node.id)
        }""",
        kind,
    )


def select(page: Page, node: str):
    page.evaluate("id => app.canvas.selectItems([app.graph.getNodeById(id)])", node)


def connect(page: Page, start: tuple[str, str], end: tuple[str, str]):
    """Drag a link from the output of a node, (id, name), to the input of another."""
    drag(page, point(page, start[0], f"output {start[1]}"), point(page, end[0], f"input {end[1]}"))
    page.wait_for_function(
        """([from, to, name]) => {
            const input = app.graph.getNodeById(to).inputs.find(i => i.name === name)
            return String(app.graph.links.get(input.link)?.origin_id) === from
        }""",
        arg=[start[0], *end],
    )


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()


def look_at(page: Page, *nodes: str):
    """Zoom to nodes, as the key "." does."""
    page.evaluate(
        """async ids => {
            app.canvas.deselectAll()
            app.canvas.selectItems(ids.map(id => app.graph.getNodeById(id)))
            await app.extensionManager.command.execute('Comfy.Canvas.FitView')
            app.canvas.deselectAll()
            const {ds} = app.canvas
            let before
            const frame = () => new Promise(requestAnimationFrame)
            do {  // it glides there, a bit in each frame
                before = [ds.scale, ...ds.offset].join()
                await frame(), await frame(), await frame()
            } while (before !== [ds.scale, ...ds.offset].join())
        }""",
        nodes,
    )


def complaints(page: Page) -> list[str]:
    """Everything that the page reports as wrong with the graph, in its error overlay or state."""
    return page.evaluate(
        """() => {
            const vue = document.getElementById('vue-app').__vue_app__
            const s = vue.config.globalProperties.$pinia.state.value
            const overlay = document.querySelector('[data-testid=error-overlay]')
            return [
                ...(overlay ? [overlay.innerText] : []),
                ...(s.missingNodesError.missingNodesError?.nodeTypes ?? []).map(
                    n => `node ${n.type}`
                ),
                ...(s.missingModel.missingModelCandidates ?? []).map(m => `model ${m.name}`),
                ...(s.missingMedia.missingMediaCandidates ?? []).map(m => `file ${m.name}`),
                ...app.graph.nodes.filter(n => n.has_errors).map(n => `red ${n.type}`),
            ]
        }"""
    )


@dataclass(frozen=True)
class Run:
    """A run from the page. error: None if it succeeded. progress: the reports of each node, such as
    ["1/6", "2/6"]."""

    error: str | None
    progress: dict[str, list[str]]


def run(page: Page, seconds: float = PATIENCE) -> Run:
    """Press Run and wait for the end. Raises AssertionError if the server refuses the graph."""
    page.evaluate(
        """() => {
            const seen = window.seen = {done: false, error: null, progress: {}}
            const listen = (event, f) => app.api.addEventListener(event, f)
            listen('execution_success', () => seen.done = true)
            for (const event of ['execution_error', 'execution_interrupted'])
                listen(event, e => { seen.done = true; seen.error = JSON.stringify(e.detail) })
            listen('progress', ({detail: {node, value, max}}) =>
                (seen.progress[node] ??= []).push(`${value}/${max}`))
        }"""
    )
    with page.expect_response(lambda answer: answer.url.endswith("/prompt")) as answer:
        press(page.get_by_test_id("queue-button"))
    assert answer.value.ok, answer.value.text()
    page.wait_for_function("() => seen.done", timeout=seconds * 1000)
    idle = re.compile(r"^\s*0 active")
    expect(page.get_by_test_id("queue-overlay-toggle")).to_have_text(idle)
    seen = page.evaluate("() => seen")
    return Run(seen["error"], seen["progress"])


def type_number(page: Page, node: str, widget: str, value: float):
    """Double-click a number on a node and type another."""
    if drawn_as_html(page):
        label = page.locator(f'[data-node-id="{node}"] [aria-label="{widget}"]')
        label.get_by_role("spinbutton").fill(str(value))
        page.keyboard.press("Enter")
    else:
        field = page.locator(".graphdialog input")
        double_click(page, point(page, node, f"widget {widget}"))
        field.fill(str(value))
        page.keyboard.press("Enter")
    eventually(page, lambda: widgets_on(page)[node][widget], value)


def choose(page: Page, node: str, widget: str, choice: str):
    """Choose an option of a widget from its menu."""
    if drawn_as_html(page):
        box = page.locator(f'[data-node-id="{node}"]').get_by_role("combobox", name=widget)
        box.click()
        page.get_by_role("option", name=choice, exact=True).click()
    else:
        page.mouse.click(*point(page, node, f"widget {widget}"))
        page.locator(".litecontextmenu .litemenu-entry").get_by_text(choice, exact=True).click()
    eventually(page, lambda: str(widgets_on(page)[node][widget]), choice)


def drawn_as_html(page: Page) -> bool:
    return page.evaluate("() => LiteGraph.vueNodesMode")


def eventually(page: Page, read: Callable, wanted):
    """Assert that `read()` returns `wanted`, now or soon."""
    deadline = time.monotonic() + PATIENCE
    while (got := read()) != wanted and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert got == wanted


def text_on(page: Page, node: str) -> str:
    """The visible text on a node in HTML elements, without widgets drawn on the canvas."""
    return page.evaluate(
        """id => {
            const n = app.graph.getNodeById(id)
            const elements = (n.widgets ?? []).map(w => w.element).filter(e => e?.checkVisibility())
            return elements.map(e => e.innerText || e.value || '').join('\\n')
        }""",
        node,
    )


def picture_on(page: Page, node: str) -> int:
    """The width of the picture that a node shows, in pixels of the file; 0 if there is none."""
    return page.evaluate(
        """id => {
            const html = document.querySelector(`[data-node-id="${id}"]`)
            const images = html ? [...html.querySelectorAll('img')] : app.graph.getNodeById(id).imgs
            return images?.[0]?.naturalWidth ?? 0
        }""",
        node,
    )


def overlaps(page: Page) -> list[str]:
    """Pairs of nodes that overlap."""
    return page.evaluate(
        """() => {
            const boxes = app.graph.nodes.map(n => {
                const [x, y, w, h] = n.boundingRect
                return {name: `${n.id} ${n.title}`, x, y, right: x + w, bottom: y + h}
            })
            return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(
                b => a.x < b.right && b.x < a.right && a.y < b.bottom && b.y < a.bottom
            ).map(b => `${a.name} and ${b.name}`))
        }"""
    )
