"""Broken prompts, posted to a real server: each is refused with a message that says what is wrong.

Either ComfyUI refuses it before anything runs, or the node before it does anything. The inputs come
from the server's description of our nodes, so new ones are covered automatically.
"""

import copy
import json
import random
import re
from pathlib import Path

import pytest
from api import ask, get, post
from headless.graph import load_graph, set_inputs
from whole_graph import OURS, SAMPLER, SMALL, around, our_nodes, sockets_and_widgets, whole_graph

NAN, INFINITY = float("nan"), float("inf")
LONG = "../" * 30_000

pytestmark = pytest.mark.slow

# Not a number, choice or link, in any reading.
BROKEN = [
    *("abc", "../../x", "NaN%", LONG, "\0", None),
    *([], [1], [1, 2, 3], {}, {"a": 1}, {"__value__": {}}, [[]] * 3),
    *(NAN, INFINITY, -INFINITY, 1e308, -1e308, 10**400, -(10**400), 2**63),
    *(["99", 0], ["1", 7], ["1", "0"], ["2", 0], [None, None], [{}, 0], [["1", 0], 0]),
]
# Values that ComfyUI may convert to a number, a choice or a string.
ODD = [True, False, "", "0", "1", " 2 ", "1e3", "nan", -1, 0, 1, 2, 0.5, -0.0, 1e-320, 64, 10_000]
ODD += [{"__value__": 3}, {"__value__": None}, "25%", "all", "auto", "-1", "1, 2", "0.2", "１２"]
# Instead of a link: ComfyUI accepts a literal as a MODEL or a LATENT.
LITERALS = [0, 1.5, True, "wan", "4", {"samples": 3}, {"samples": None}]
# A link that is wrapped like this bypasses ComfyUI's checks. (If its node is not in the graph, it
# ends ComfyUI's own worker, which no node can prevent.)
CLIP, CONDITIONING = "2", "6"
LITERALS += [{"__value__": [CLIP, 0]}, {"__value__": [CONDITIONING, 0]}]

# Strings that must be refused, for inputs that take strings.
BROKEN_STRINGS = {
    ("RadialAttentionProbe", "steps"): [
        "abc",
        "../../x",
        LONG,
        "\0",
        "nan%",
        "1e400%",
        "-5%",
        "1; 2",
    ],
    ("RadialAttentionProbe", "blocks"): [
        "abc",
        "../../x",
        LONG,
        "\0",
        "-1",
        "1-",
        "3-1",
        "nan",
        "1.5",
    ],
    ("RadialTrainLayers", "layers"): [
        "",
        ",",
        "abc",
        "../../x",
        LONG,
        "\0",
        "q; k",
        " , ",
        "qkvo",
    ],
}

IMAGE = {"width": 64, "height": 64, "batch_size": 1}
# Python's messages where nobody checked the value.
PYTHONS = re.compile(
    r"object has no|not subscriptable|unsupported operand|not supported between|not iterable|"
    r"NoneType|unexpected keyword|positional argument|out of range$|KeyError|unhashable|expected at"
)
# ComfyUI's own checks of links, some with Python's messages. Nodes can't change these.
COMFYUIS = re.compile(r"^Exception when validating (inner )?node: |^Dependency cycle detected: ")


@pytest.fixture(scope="module")
def graph():
    return whole_graph()


def broken(graph: dict, node: str, name: str, value) -> dict:
    """The part of the graph around a node, with one of its inputs replaced by a value."""
    node_id, _ = OURS[node]
    part = around(graph, node_id) | {key: graph[key] for key in (CLIP, CONDITIONING)}
    part[node_id]["inputs"][name] = copy.deepcopy(value)
    return part


def fault(outcome, node: str, name: str, must_fail: bool = True) -> str | None:
    """What is wrong with the way a broken prompt was refused; None if nothing is."""
    node_id, _ = OURS[node]
    if outcome.kind == "done":
        return "ran" if must_fail else None
    if outcome.kind == "refused":
        if COMFYUIS.match(outcome.message):
            return None
        return None if name in outcome.message else "does not name the input"
    if outcome.node != node_id:
        return f"failed in node {outcome.node}"
    if outcome.error != "ValueError" or PYTHONS.search(outcome.message):
        return outcome.error
    if not re.search(rf"\b{name}\b.* must .*\bgot\b", outcome.message, re.S):
        return "does not say what was expected and what came"
    if len(outcome.message) > 400:
        return "is endless"
    if SAMPLER in outcome.executed and node in BEFORE_THE_SAMPLER:
        return "sampled first"
    return None


BEFORE_THE_SAMPLER = (
    "RadialMultiGPU",
    "RadialAttentionPatch",
    "RadialMaskPreview",
    "RadialAttentionProbe",
    "RadialTrainLayers",
)


def complaint(outcome, value, name, what) -> str:
    return f"{name} = {value!r:.60}: {what}; {outcome.kind} {outcome.error}: {outcome.message:.200}"


def test_the_whole_graph_runs_and_has_all_our_nodes(server, graph):
    info = get(server, "/object_info")
    ours = {n for n, i in info.items() if i["python_module"] == "custom_nodes.radial-attention"}
    assert ours == set(our_nodes()) == {node["class_type"] for node in graph.values()} & set(OURS)
    assert ask(server, graph).kind == "done"


@pytest.mark.parametrize("node", our_nodes())
def test_broken_values(server, graph, node):
    sockets, widgets = sockets_and_widgets(our_nodes()[node])
    complaints = []
    for name in (*sockets, *widgets):
        kind = sockets.get(name) or widgets[name][0]
        values = BROKEN + (LITERALS if name in sockets else [])
        if kind == "STRING":  # ComfyUI converts everything but links to a string
            values = BROKEN_STRINGS[node, name] + [v for v in BROKEN if isinstance(v, list)]
        for value in values:
            if value is None and name in may_be_nothing(node):
                continue
            outcome = ask(server, broken(graph, node, name, value))
            if what := fault(outcome, node, name):
                complaints.append(complaint(outcome, value, name, what))
    assert not complaints, "\n".join(complaints)
    assert_the_next_one_works(server, graph)


def may_be_nothing(node: str) -> set[str]:
    """Inputs that may be left out, and measurements, which are None if nothing was measured."""
    return {*our_nodes()[node].INPUT_TYPES().get("optional", {}), "measurements"}


@pytest.mark.parametrize("node", our_nodes())
def test_values_from_a_wildcard_link(server, graph, node):
    """ComfyUI's switch can be linked to anything, and passes on whatever it gets."""
    node_id, _ = OURS[node]
    complaints = []
    for name in our_nodes()[node].INPUT_TYPES()["required"]:
        for what in ([CLIP, 0], [CONDITIONING, 0], ["51", 0], "abc"):
            part = broken(graph, node, name, ["50", 0])
            part["51"] = {"class_type": "EmptyImage", "inputs": IMAGE | {"color": 0}}
            switch = {"switch": True, "on_true": what, "on_false": what}
            part["50"] = {"class_type": "ComfySwitchNode", "inputs": switch}
            outcome = ask(server, part)
            if fault_ := fault(outcome, node, name):
                complaints.append(complaint(outcome, what, name, fault_))
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    "node, name, link, message",
    [
        ("RadialMaskPreview", "latent", ["8", 0], ""),
        ("RadialMaskPreview", "latent", ["51", 0], "latent must be a video .*, got 1 x 4 x 8 x 8"),
        ("RadialMaskPreview", "model", ["1", 0], ""),
        ("RadialAttentionReport", "model", ["1", 0], ""),
        ("RadialAttentionReport", "samples", ["51", 0], ""),
        ("RadialAttentionCompare", "model", ["4", 0], ""),
        ("RadialAttentionCompare", "samples", ["51", 0], ""),
    ],
)
def test_links_of_the_right_type_to_the_wrong_thing(server, graph, node, name, link, message):
    """An image's latent, or a model without patch or probe: a text on the node or a clear error."""
    part = broken(graph, node, name, link)
    part |= {"8": graph["8"], "51": {"class_type": "EmptyLatentImage", "inputs": IMAGE}}
    outcome = ask(server, part)
    assert re.fullmatch(message, outcome.message) and outcome.kind in ("done", "failed")
    assert (outcome.kind == "failed") == bool(message)


@pytest.mark.parametrize("node", our_nodes())
def test_missing_inputs(server, graph, node):
    node_id, _ = OURS[node]
    for name in our_nodes()[node].INPUT_TYPES()["required"]:
        part = around(graph, node_id)
        del part[node_id]["inputs"][name]
        outcome = ask(server, part)
        assert (outcome.kind, outcome.message) == ("refused", f"Required input is missing: {name}")
    part = around(graph, node_id)
    for name in our_nodes()[node].INPUT_TYPES().get("optional", {}):
        part[node_id]["inputs"].pop(name, None)
    assert ask(server, part).kind == "done"


@pytest.mark.parametrize("node", our_nodes())
def test_unknown_inputs(server, graph, node):
    node_id, _ = OURS[node]
    part = around(graph, node_id)
    part[node_id]["inputs"] |= {"../../x": 1, "self": None, "cls": [], "kwargs": {}, "": "x"}
    assert ask(server, part).kind == "done"


def test_random_values(server, graph):
    """One to three values of any kind at once, in any of our nodes."""
    random_ = random.Random(5)
    complaints = []
    for _ in range(120):
        node = random_.choice(list(our_nodes()))
        node_id, _ = OURS[node]
        part = around(graph, node_id) | {key: graph[key] for key in (CLIP, CONDITIONING)}
        inputs = part[node_id]["inputs"]
        changed = random_.sample(sorted(inputs), random_.randint(1, min(3, len(inputs))))
        for name in changed:
            inputs[name] = copy.deepcopy(random_.choice(ODD + BROKEN + LITERALS))
        outcome = ask(server, part)
        faults = [fault(outcome, node, name, must_fail=False) for name in changed]
        if all(faults):  # one of the changed inputs must be named
            values = {name: inputs[name] for name in changed}
            complaints.append(complaint(outcome, values, node, faults[0]))
    assert not complaints, "\n".join(complaints)
    assert_the_next_one_works(server, graph)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        [],
        "x",
        None,
        {},
        {"prompt": None},
        {"prompt": []},
        {"prompt": {}},
        {"prompt": {"1": None}},
        {"prompt": {"1": {}}},
        {"prompt": {"1": {"class_type": "RadialAttentionPatch"}}},
        {"prompt": {"1": {"class_type": "RadialAttentionPatch", "inputs": {}}}},
        {"prompt": {"1": {"class_type": "RadialAttentionPatch2", "inputs": {}}}},
        {"prompt": {"1": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}},
        {"prompt": {"1": {"class_type": "PreviewAny", "inputs": None}}},
    ],
    ids=lambda body: json.dumps(body)[:70] if not isinstance(body, bytes) else repr(body[:20]),
)
def test_malformed_graphs(server, graph, body):
    status, _ = post(server, "/prompt", body)
    assert status in (400, 500)  # ComfyUI itself answers 500 if it is not a graph at all
    server.check()


def test_a_graph_with_a_cycle(server, graph):
    part = around(graph, "4")
    part["4"]["inputs"]["model"] = ["5", 0]
    assert ask(server, part).kind == "refused"


def test_no_node_takes_a_file_name():
    for name, node in our_nodes().items():
        _, widgets = sockets_and_widgets(node)
        for widget, (_, options) in widgets.items():
            assert not re.search("file|folder|path|prefix|url", widget), (name, widget)
            assert not any("upload" in option or "folder" in option for option in options)


@pytest.mark.parametrize("prefix", ["../../escaped", "video/../../../escaped", "/tmp/escaped"])
def test_no_video_leaves_the_output_folder(server, prefix):
    graph = set_inputs(load_graph("wan21_t2v"), {**SMALL, "filename_prefix": prefix})
    outcome = ask(server, graph)
    assert (
        outcome.kind == "failed" and "outside the output folder is not allowed" in outcome.message
    )
    assert not list(server.log.parent.rglob("escaped*")) and not list(Path("/tmp").glob("escaped*"))


def test_the_server_still_works(server, graph):
    assert_the_next_one_works(server, graph)
    assert get(server, "/queue") == {"queue_running": [], "queue_pending": []}


def assert_the_next_one_works(server, graph):
    """It samples anew: with another seed ComfyUI's cache can't answer."""
    good = copy.deepcopy(graph)
    good[SAMPLER]["inputs"]["seed"] = random.getrandbits(40)
    outcome = ask(server, good)
    assert outcome.kind == "done", outcome
