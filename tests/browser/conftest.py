"""The real ComfyUI with its real page in a real browser; the models are stand-ins.

Screenshots go to output/browser, or to the folder RADIAL_ATTENTION_SCREENSHOTS.
"""

import contextlib
import json
import sys
from pathlib import Path
from zlib import crc32

import pytest
from playwright.sync_api import Error, Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflows"))

pytest.register_assert_rewrite("person")

from frontend import FOLDER, MODES, WATCHES, chromium, comfyui_page, screenshot  # noqa: E402
from headless.environment import NEWEST, ensure_environment  # noqa: E402
from headless.server import standin_server  # noqa: E402
from run import stand_in_models  # noqa: E402

STEPS = 6


@pytest.fixture(scope="session")
def server():
    environment = ensure_environment(NEWEST)
    with standin_server(environment, stand_in_models(environment)) as server:
        yield server
        log = server.log.read_text(encoding="utf-8", errors="replace")
        assert "custom_nodes/radial-attention/" not in log, f"a traceback through the pack:\n{log}"


@pytest.fixture(scope="session")
def browser():
    for old in FOLDER.glob("failed-*.png"):
        old.unlink()
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    """The page by default: nodes on a canvas."""
    with comfyui_page(browser, server.url) as page:
        yield page
        check_watch(page)


@pytest.fixture
def html_page(browser, server):
    with comfyui_page(browser, server.url, "nodes2") as page:
        yield page
        check_watch(page)


@pytest.fixture(scope="module")
def module_page(browser, server):
    with comfyui_page(browser, server.url) as page:
        yield page


@pytest.fixture
def used_page(module_page):
    """A page that the tests of a file share, for tests that open their own graph in it."""
    yield module_page
    check_watch(module_page)


@pytest.fixture(scope="session", params=MODES)
def mode(request):
    """How nodes are drawn: on a canvas or as HTML ("Nodes 2.0")."""
    return request.param


@pytest.fixture
def either_page(browser, server, mode):
    """The page in each mode."""
    with comfyui_page(browser, server.url, mode) as page:
        yield page
        check_watch(page)


def check_watch(page: Page):
    """Assert that none of our code failed on the page since the last check."""
    errors, outside = take_watch(page)
    assert not errors, errors
    assert not outside, f"requests to other machines: {outside}"


def take_watch(page: Page) -> tuple[list[str], list[str]]:
    """The errors and requests that a page's watch collected; clears them."""
    watch = WATCHES[page]
    taken = list(watch.errors), list(watch.outside)
    watch.errors.clear()
    watch.outside.clear()
    return taken


@pytest.fixture
def small_wan(request):
    """The graph of the first template, with its own seed so that the server's cache is no help."""
    graph = json.loads((ROOT / "workflows/wan21_t2v.json").read_text(encoding="utf-8"))
    return shrunk(graph, crc32(request.node.name.encode()))


def shrunk(graph, seed):
    """A saved graph, shrunk so that it runs in seconds."""
    for node in graph["nodes"]:
        if node["type"] == "EmptyHunyuanLatentVideo":
            node["widgets_values"] = [128, 128, 45, 1]
        if node["type"] == "KSampler":
            node["widgets_values"][:3] = [seed, "fixed", STEPS]
    return graph


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and report.failed:
        for page in {value for value in item.funcargs.values() if isinstance(value, Page)}:
            with contextlib.suppress(Error):  # the page itself may be broken
                path = screenshot(page, f"failed-{item.name}")
                report.sections.append(("screenshot", str(path)))
    return report
