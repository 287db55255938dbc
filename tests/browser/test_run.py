"""A user builds a graph, runs it, and reads on the nodes what happened."""

import json
import re

from conftest import ROOT, STEPS, shrunk
from frontend import screenshot
from person import (
    choose,
    complaints,
    connect,
    drop,
    eventually,
    look_at,
    only,
    open_file,
    overlaps,
    picture_on,
    run,
    text_on,
    type_number,
)


def test_from_the_search_to_the_report(either_page, mode, small_wan):
    page = either_page
    open_file(page, without_patch(small_wan))

    drop(page, "Radial Attention Patch", (520, 520))
    patch = only(page, "RadialAttentionPatch")
    connect(page, (only(page, "UNETLoader"), "MODEL"), (patch, "model"))
    connect(page, (patch, "MODEL"), (only(page, "ModelSamplingSD3"), "model"))
    choose(page, patch, "preset", "custom")
    type_number(page, patch, "dense_steps", 2)
    type_number(page, patch, "decay", 0.35)

    drop(page, "Radial Mask Preview", (850, 520))
    preview = only(page, "RadialMaskPreview")
    connect(page, (patch, "MODEL"), (preview, "model"))
    drop(page, "Radial Attention Report", (1300, 520))
    report = only(page, "RadialAttentionReport")
    connect(page, (only(page, "KSampler"), "LATENT"), (report, "samples"))
    connect(page, (patch, "MODEL"), (report, "model"))
    connect(page, (report, "samples"), (only(page, "VAEDecode"), "samples"))
    screenshot(page, f"built-{mode}")

    done = run(page)
    assert done.error is None
    steps = [f"{step}/{STEPS}" for step in range(1, STEPS + 1)]
    assert [x for x in done.progress[only(page, "KSampler")] if x in steps] == steps
    assert complaints(page) == []
    radial = re.compile("radial", re.IGNORECASE)
    for node in (patch, preview, report):
        eventually(page, lambda node=node: bool(radial.search(text_on(page, node))), True)
    for node in (preview, report):
        eventually(page, lambda node=node: picture_on(page, node) >= 256, True)
    status = text_on(page, patch)
    screenshot(page, f"ran-{mode}")
    for node, name in ((patch, "patch"), (preview, "preview"), (report, "report")):
        look_at(page, node)
        screenshot(page, f"ran-{name}-{mode}")

    look_at(page, patch, preview, report)
    run(page)  # everything is cached
    eventually(page, lambda: text_on(page, patch), status)
    for node in (preview, report):
        eventually(page, lambda node=node: picture_on(page, node) >= 256, True)


def test_the_node_says_on_how_many_gpus(page, small_wan):
    open_file(page, without_patch(small_wan))
    drop(page, "Radial Multi-GPU", (520, 520))
    node = only(page, "RadialMultiGPU")
    connect(page, (only(page, "UNETLoader"), "MODEL"), (node, "model"))
    connect(page, (node, "MODEL"), (only(page, "ModelSamplingSD3"), "model"))
    assert run(page).error is None
    eventually(page, lambda: text_on(page, node)[:14], "Runs on 1 GPU:")
    screenshot(page, "ran-multi-gpu")
    page.evaluate(
        """node => app.api.dispatchCustomEvent(
            'radial_attention.cards', {node, status: 'after a run'}
        )""",
        node,
    )
    eventually(page, lambda: text_on(page, node), "after a run")


def without_patch(graph):
    """The graph without the patch: the loader's model is linked to the node after it."""
    (patch,) = (n for n in graph["nodes"] if n["type"] == "RadialAttentionPatch")
    graph["nodes"].remove(patch)
    (before,) = (link for link in graph["links"] if link[3] == patch["id"])
    (after,) = (link for link in graph["links"] if link[1] == patch["id"])
    graph["links"].remove(before)
    after[1:3] = before[1:3]
    for node in graph["nodes"]:
        for output in node["outputs"] if "outputs" in node else ():
            if before[0] in (output["links"] or ()):
                output["links"] = [after[0]]
    return graph


def test_the_patch_uses_the_settings_that_the_search_chose(page):
    path = ROOT / "workflows/settings_search.json"
    open_file(page, shrunk(json.loads(path.read_text(encoding="utf-8")), seed=1))
    page.evaluate(
        """() => app.api.addEventListener(
            'radial_attention.summary', event => window.summary = event.detail
        )"""
    )
    assert run(page).error is None
    for kind in ("RadialAttentionCompare", "RadialSettingsSearch"):
        node = only(page, kind)
        look_at(page, node)
        eventually(page, lambda node=node: picture_on(page, node) >= 256, True)
        eventually(page, lambda node=node: bool(PROPOSED.search(text_on(page, node))), True)
        proposed = PROPOSED.search(text_on(page, node)).groups()
        screenshot(page, f"ran-{kind}")
    patch = only(page, "RadialAttentionPatch")
    eventually(page, lambda: text_on(page, patch), page.evaluate("() => summary.status"))
    used = page.evaluate("() => summary.settings")
    assert used["lists"] == "adaptive"  # which is not the default
    names = ("decay", "sink_frames", "dense_blocks", "budget")
    values = tuple(f"{used[name]:g}" for name in names)
    assert values == proposed  # the first settings in the search's text
    eventually(page, lambda: overlaps(page), [])


PROPOSED = re.compile(
    r"decay ([\d.]+), (\d+) sink frames?, (\d+) dense blocks?"
    r"(?:, adaptive lists at budget ([\d.]+))?"
)
