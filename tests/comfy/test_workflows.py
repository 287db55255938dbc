"""The workflows of the pack: each runs on stand-ins, and its two files hold the same graph."""

import asyncio
import json
import re
import urllib.request
from itertools import combinations

import av
import numpy as np
import pytest
from conftest import PACK, newest_only, pack_module
from headless.client import run_graph
from headless.graph import load_graph, names, set_inputs
from headless.small import MOST, stand_in_size
from safetensors.torch import load_file

PRESETS = pack_module("nodes.inputs.presets").PRESETS
WORKFLOWS = PACK / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
TITLE = 30  # pixels: a node's title bar is above its position

# Of 8 steps, those that are radial: with the preset balanced, and with the models' own values.
BALANCED, OWN = 6, 5
# Steps of each sampler with radial attention, and its radial calls: steps x blocks (x passes, if
# the two prompts differ in length). The stand-ins have 3 blocks, HunyuanVideo 4 and Mochi 2.
RUNS = {
    "wan21_t2v": [(8, BALANCED * 2)],
    "wan21_long": [(8, BALANCED * 1)],
    "wan21_fusionx": [(8, BALANCED * 2)],
    "wan22_t2v": [(2, 1 * 2), (2, 2 * 2)],
    "wan22_i2v": [(2, 1 * 2), (2, 2 * 2)],
    "wan22_5b": [(8, BALANCED * 2)],
    "hunyuan_t2v": [(8, BALANCED * 4)],
    "hunyuan_long": [(8, BALANCED * 2)],
    "hunyuan15_t2v": [(8, BALANCED * 3 * 2)],
    "mochi_t2v": [(8, BALANCED * 2 * 2)],
    "h3_t2v": [(8, BALANCED * 2)],
    "h3_i2v": [(8, BALANCED * 2)],
    "h3_cached": [(8, BALANCED * 2)],
    "ltx2_t2v": [(8, BALANCED * 2)],
    "dense_vs_radial": [(8, OWN * 2)],
    "settings_search": [(8, OWN * 2)],
    "train_length_lora": [(8, 8 * 1), (8, OWN * 1)],
}
NODES_WITH_TEXT = {
    "wan21_long": {"Radial Attention Report"},
    "hunyuan_long": {"Radial Attention Report"},
    "h3_cached": {"Radial Attention Report"},
    "dense_vs_radial": {"Radial Attention Report", "Radial Mask Preview"},
    "settings_search": {"Radial Attention Compare", "Radial Settings Search"},
    "train_length_lora": {"Radial Trim LoRA"},
}
# Templates without a preset, and the budget of their adaptive lists.
CUSTOM = {"dense_vs_radial": None, "settings_search": 1.0, "train_length_lora": None}
H3 = ("h3_t2v", "h3_i2v", "h3_cached")
# Frames and samples a second.
WITH_SOUND = {**dict.fromkeys(H3, (24, 32000)), "ltx2_t2v": (25, 48000)}
NEEDS_NEWEST = {
    "train_length_lora": newest_only("no node that loads videos from a folder"),
    **dict.fromkeys(H3, newest_only("no MiniMax H3")),
}
LOADERS = ("Loader", "LoaderModelOnly", "LoaderSimple")
each_workflow = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=NEEDS_NEWEST.get(name, ())) for name in NAMES]
)


@pytest.fixture(scope="module")
def info(server):
    with urllib.request.urlopen(f"{server.url}/object_info") as answer:
        return json.load(answer)


def run(server, tmp_path, name, **settings):
    """The result, the graph that ran, and the server's log of it."""
    graph = load_graph(name)
    graph = set_inputs(graph, {**stand_in_size(graph, settings), **settings})
    before = server.log.stat().st_size
    result = asyncio.run(run_graph(server.url, graph, tmp_path, server.check))
    return result, graph, server.log.read_bytes()[before:].decode(errors="replace")


def frames_of(file):
    with av.open(str(file)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def size_of(graph):
    """The inputs of the node that makes the latent."""
    others = [n for n in graph.values() if not n["class_type"].startswith("Radial")]
    (inputs,) = (n["inputs"] for n in others if {"width", "length"} <= set(n["inputs"]))
    sides = {name: inputs[name] for name in ("width", "height", "length")}
    linked = {name: x[0] for name, x in sides.items() if isinstance(x, list)}
    return {**sides, **{name: graph[node]["inputs"]["value"] for name, node in linked.items()}}


def sound_of(file):
    """(channels, samples), or None."""
    with av.open(str(file)) as video:
        if video.streams.audio:
            return np.concatenate([x.to_ndarray() for x in video.decode(audio=0)], axis=1)


def ui_of(name):
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def nodes_of(ui):
    return [node for node in ui["nodes"] if node["type"] != "MarkdownNote"]


def test_both_formats_of_every_workflow_exist():
    assert sorted(RUNS) == NAMES == names()


@each_workflow
def test_it_runs(server, tmp_path, name):
    result, graph, log = run(server, tmp_path, name)
    assert [(s["steps"], s["radial_calls"]) for s in result.summaries] == RUNS[name]
    for summary in result.summaries:
        preset = None if name in CUSTOM else "balanced"
        budget = CUSTOM.get(name, PRESETS["balanced"].budget)
        settings, adaptive = summary["settings"], summary["adaptive"]
        assert (settings.get("preset"), settings.get("budget")) == (preset, budget)
        if budget is None:
            assert not adaptive
        else:
            assert adaptive["calls"] == summary["radial_calls"]
    assert {title for title, text in result.texts if text} == NODES_WITH_TEXT.get(name, set())
    for trouble in ("lora key not loaded", "missing", "Missing", "unexpected", "failed"):
        assert trouble not in log

    (file,) = result.files
    assert file.stem.startswith(f"radial_{name}_")
    size = size_of(graph)
    frames = frames_of(file)
    beside = 2 * size["width"] + 8 if name == "dense_vs_radial" else size["width"]
    assert len(frames) == size["length"] <= MOST["length"]
    assert frames[0].shape == (size["height"], beside, 3)
    assert all(frame.std() > 1 for frame in frames)
    sound = sound_of(file)
    assert (sound is not None) == (name in WITH_SOUND)
    if sound is not None:
        fps, rate = WITH_SOUND[name]
        assert sound.shape == (2, pytest.approx(len(frames) / fps * rate, abs=2000))
        assert all(part.std() > 0.01 for part in np.array_split(sound, 8, axis=1))


@newest_only("no MiniMax H3")
def test_steps_that_a_cache_skips_are_not_counted_as_radial(server, tmp_path):
    settings = {"reuse_threshold": 3.0, "end_percent": 0.85}
    result, _, log = run(server, tmp_path, "h3_cached", **settings)
    (skipped,) = re.findall(r"EasyCache - skipped (\d)/8 steps", log)
    (summary,) = result.summaries
    assert int(skipped) >= 2
    assert (summary["steps"], summary["radial_calls"]) == (8, (BALANCED - int(skipped)) * 2)
    ((_, report),) = result.texts
    assert "cache" in report


@pytest.mark.slow
@newest_only("one is enough")
def test_the_loras_change_the_video(server, tmp_path):
    def frames(folder, strength):
        (tmp_path / folder).mkdir()
        small = {"steps": 2, "length": 33, "strength_model": strength}
        return frames_of(run(server, tmp_path / folder, "wan21_fusionx", **small)[0].files[0])

    with_it, without = frames("with", 1.0), frames("without", 0.0)
    assert any((x != y).any() for x, y in zip(with_it, without, strict=True))


@pytest.mark.slow
@newest_only("no node that loads videos from a folder")
def test_training_makes_a_lora_that_changes_the_video(server, tmp_path):
    def trained(folder, **settings):
        (tmp_path / folder).mkdir()
        settings = {"steps": 8, "length": 81, "rank": 8, "learning_rate": 0.05, **settings}
        result, _, log = run(server, tmp_path / folder, "train_length_lora", **settings)
        return frames_of(result.files[0]), losses(log)

    with_it, falling = trained("with", prefix="loras/with")
    without, none = trained("without", prefix="loras/with", strength_model=0.0)
    assert not none, "it trained again"
    assert any((x != y).any() for x, y in zip(with_it, without, strict=True))
    _, level = trained("untrained", learning_rate=1e-7)
    # The noise of a step is the same in every run.
    assert len(falling) == len(level) == 8 and falling[0] == level[0]
    assert sum(falling[4:]) < 0.9 * sum(level[4:])

    (file,) = (server.log.parent / "output/loras").glob("with_8_steps_*.safetensors")
    lora = load_file(file)
    layers = {f"diffusion_model.blocks.{i}.self_attn.{x}" for i in range(3) for x in "qkvo"}
    ends = ("lora_up.weight", "lora_down.weight", "alpha")
    assert set(lora) == {f"{layer}.{end}" for layer in layers for end in ends}
    assert all(lora[f"{layer}.lora_up.weight"].shape[1] == 8 for layer in layers)
    assert all(x.any() and x.isfinite().all() for x in lora.values())


def losses(log):
    """The loss of each step, from Train LoRA's progress bar in the log."""
    progress = re.findall(r"Training LoRA: .*? (\d+)/(\d+) .*?loss=([\d.]+)\]", log)
    return [*{step: float(loss) for step, steps, loss in progress if step != steps}.values()]


@pytest.mark.parametrize("name", NAMES)
def test_the_links_fit(name):
    ui = ui_of(name)
    nodes = {node["id"]: node for node in ui["nodes"]}
    links = {link[0]: link for link in ui["links"]}
    assert len(nodes) == len(ui["nodes"]) and len(links) == len(ui["links"])
    assert ui["last_node_id"] == max(nodes) and ui["last_link_id"] == max(links)
    for number, source, output, target, slot, kind in ui["links"]:
        out, into = nodes[source]["outputs"][output], nodes[target]["inputs"][slot]
        assert number in out["links"] and out["type"] == kind
        assert into["link"] == number and into["type"] in (kind, "*")
    ends = [i["link"] for node in nodes.values() for i in node["inputs"] if i["link"] is not None]
    starts = [n for node in nodes.values() for out in node["outputs"] for n in out["links"] or ()]
    assert sorted(ends) == sorted(starts) == sorted(links)


@newest_only("its CreateVideo has no bit_depth")
@pytest.mark.parametrize("name", NAMES)
def test_both_formats_have_the_same_graph(info, name):
    """The UI JSON, converted by the node definitions, equals the API JSON."""
    ui, api = ui_of(name), load_graph(name)
    source = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    assert {str(node["id"]) for node in nodes_of(ui)} == set(api)
    for node in nodes_of(ui):
        api_node = api[str(node["id"])]
        inputs = dict(widgets_of(node, info[node["type"]]["input"]))
        inputs |= {i["name"]: source[i["link"]] for i in node["inputs"] if i["link"] is not None}
        assert node["type"] == api_node["class_type"] and inputs == api_node["inputs"], node["type"]
        title = node.get("title") or info[node["type"]]["display_name"] or node["type"]
        assert api_node["_meta"] == {"title": title}


def widgets_of(node, definition):
    """Name and value of each widget of a node, linked or not."""
    values = iter(node["widgets_values"])
    for name, spec in {**definition["required"], **definition.get("optional", {})}.items():
        if is_widget(spec):
            yield name, next(values)
            options = spec[1] if len(spec) > 1 else {}
            if options.get("control_after_generate") or name == "seed":
                assert next(values) == "fixed"
            if options.get("image_upload"):
                assert next(values) == "image"  # the button
    assert next(values, None) is None


def is_widget(spec):
    kinds = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
    if len(spec) > 1 and spec[1].get("forceInput"):
        return False
    return isinstance(spec[0], list) or spec[0].split(",")[0] in kinds


@newest_only("its CreateVideo has no bit_depth")
@pytest.mark.parametrize("name", NAMES)
def test_the_nodes_accept_the_values(info, name):
    for node in load_graph(name).values():
        kind = info[node["class_type"]]
        assert not kind.get("api_node"), "it needs the network"
        specs = {**kind["input"]["required"], **kind["input"].get("optional", {})}
        assert set(kind["input"]["required"]) <= set(node["inputs"]) <= set(specs)
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                assert_accepted(value, *specs[name])


def assert_accepted(value, kind, options=None):
    options = options or {}
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices:
        assert value in [c["key"] if isinstance(c, dict) else c for c in choices]
    if kind in ("INT", "FLOAT"):
        assert isinstance(value, int if kind == "INT" else float)
        assert options["min"] <= value <= options["max"]
    if kind == "INT":
        assert (value - options["min"]) % options.get("step", 1) == 0


@each_workflow
def test_its_note_links_all_model_files(stand_ins, name):
    ui = ui_of(name)
    (note,) = (n for n in ui["nodes"] if n.get("title") == "Model files")
    for node in nodes_of(ui):
        files = [v for v in node["widgets_values"] if str(v).endswith(".safetensors")]
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == files
        from_the_graph = node["type"] == "LoraModelLoader"
        assert models or from_the_graph or not node["type"].endswith(LOADERS)
        for model in models:
            address = model["url"].removesuffix("?download=true")
            assert address.startswith("https://huggingface.co/") and "/resolve/main/" in address
            assert address.endswith(f"/{model['name']}")
            assert (stand_ins / model["directory"] / model["name"]).is_file()
            assert f"[{model['name']}]({model['url']})" in note["widgets_values"][0]
            assert f"ComfyUI/models/{model['directory']}" in note["widgets_values"][0]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_tidy(name):
    ui = ui_of(name)
    boxes = {node["id"]: box_of(node) for node in ui["nodes"]}
    frames = [group["bounding"] for group in ui["groups"]]
    notes = [boxes[node["id"]] for node in ui["nodes"] if node["type"] == "MarkdownNote"]
    assert not any(overlap(a, b) for a, b in combinations(boxes.values(), 2))
    assert not any(overlap(a, b) for a, b in combinations(frames + notes, 2))
    for node in nodes_of(ui):
        assert sum(inside(boxes[node["id"]], frame) for frame in frames) == 1, node["type"]
        green = node.get("bgcolor") == "#335533"
        assert green == (node["type"] in ("RadialAttentionPatch", "RadialAttentionProbe"))
    left = {node["id"]: node["pos"][0] for node in ui["nodes"]}
    assert all(left[source] <= left[target] for _, source, _, target, _, _ in ui["links"])


def box_of(node):
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, width, height + TITLE


def overlap(a, b):
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))


def inside(a, b):
    return all(b[i] <= a[i] and a[i] + a[i + 2] <= b[i] + b[i + 2] for i in (0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_picture(name):
    assert (WORKFLOWS / f"{name}.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
