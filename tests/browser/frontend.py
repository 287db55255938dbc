"""ComfyUI's page in a browser: opens it, watches its requests and errors, takes screenshots."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chromium import HOW_TO_GET_ONE, find_chromium
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("RADIAL_ATTENTION_SCREENSHOTS") or ROOT / "output/browser")
# Seconds to wait for something. Only a limit, so that tests don't fail on a slow machine.
PATIENCE = 120
expect.set_options(timeout=PATIENCE * 1000)
# Only drawing, dialogs and the timing of clicks differ from a user's page. The server keeps these
# settings from page to page.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.AppBuilder.VueNodeSwitchDismissed": True,
    "Comfy.Appearance.DisableAnimations": True,
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.Minimap.Visible": False,  # it hides the corner of the graph
    "Comfy.Graph.CanvasInfo": False,
    # A busy page handles clicks late. So two clicks in one place always count as a double click,
    # and a click only becomes a drag by moving, not by taking long.
    "Comfy.Pointer.DoubleClickTime": PATIENCE * 1000,
    "Comfy.Pointer.ClickBufferTime": PATIENCE * 1000,
    "LiteGraph.Node.TooltipDelay": 100,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # keeps screenshots of whole graphs legible
}
VUE = "Comfy.VueNodes.Enabled"  # "Nodes 2.0", which draws nodes as HTML
MODES = {"canvas": False, "nodes2": True}
SIZE = {"width": 1920, "height": 1080}
OURS = re.compile(r"radial-attention|radial_attention", re.IGNORECASE)
# The page asks for a help page in the user's language first.
OTHER_LANGUAGE = re.compile(r"/extensions/radial-attention/docs/\w+/\w+\.md")
REFUSED_BY_POLICY = re.compile(r"Connecting to '([^']+)' violates")

READY = """() => {
    const {extensionManager: page, vueAppReady, graph} = window.app ?? {}
    const tracker = page?.workflow.activeWorkflow?.changeTracker
    return vueAppReady && 'KSampler' in LiteGraph.registered_node_types && graph?.nodes.length
        && tracker && !tracker.constructor.isLoadingGraph && !page.spinner
}"""


@dataclass(frozen=True)
class Watch:
    """What went wrong on a page: errors in our code, and requests to other machines."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


WATCHES: dict[Page, Watch] = {}


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        raise SystemExit(f"tests/browser: {HOW_TO_GET_ONE}.")
    with sync_playwright() as playwright:
        # Containers have no sandbox, and often no room in /dev/shm.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        with playwright.chromium.launch(executable_path=program, args=arguments) as browser:
            yield browser


@contextlib.contextmanager
def comfyui_page(browser: Browser, url: str, mode: str = "canvas") -> Iterator[Page]:
    """ComfyUI's page, opened for the first time. mode: one of MODES."""
    watch = Watch()

    def only_the_server(route):
        address = route.request.url
        if address.startswith(f"{url}/"):
            return route.continue_()
        watch.outside.append(address)
        route.abort()

    def read(message):
        if refused := REFUSED_BY_POLICY.search(message.text):
            watch.outside.append(refused[1])
        elif message.type == "error":
            address = message.location.get("url", "")
            if OURS.search(message.text + address) and not OTHER_LANGUAGE.search(address):
                watch.errors.append(f"{message.text} ({address})")

    with browser.new_context(viewport=SIZE) as context:
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        WATCHES[page] = watch
        context.route("**/*", only_the_server)
        page.on("console", read)
        page.on("pageerror", lambda error: watch.errors.append(error.stack or str(error)))
        page.request.post(f"{url}/settings", data={**SETTINGS, VUE: MODES[mode]})
        page.goto(url)
        page.wait_for_function(READY)
        yield page
        del WATCHES[page]


def screenshot(page: Page, name: str) -> Path:
    """Save a picture of the page after the next two frames, for people to look at."""
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    return path
