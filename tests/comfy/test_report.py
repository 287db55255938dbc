"""Radial Attention Report: what it shows of a run, and that it never costs the video."""

import asyncio
import json

import pytest
import torch
import zoo
from comfy_api.latest import io
from conftest import BLOCKS, pack_module, patch, sample
from headless.client import run_graph
from headless.graph import load_graph, set_inputs
from step_caches import lazy_cache

import nodes

SETTINGS = {"dense_steps": 1, "dense_last_steps": 1, "dense_blocks": 1}
DENSE_STEP, DENSE_BLOCK = (74, 98, 150), (148, 126, 190)


def report(samples, *models):
    """The outputs image, text and json, and what the page gets."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionReport"]
    latent = {"samples": samples, "noise_mask": None}
    out = node.execute(latent, *models)
    assert out.args[0] is latent
    return *out.args[1:3], json.loads(out.args[3]), out.ui


def colours(image):
    return {tuple(c) for c in (image[0] * 255).round().int().flatten(0, 1).unique(dim=0).tolist()}


def test_the_report_of_a_run(wan, summaries):
    model = patch(wan, **SETTINGS)
    image, text, data, ui = report(sample(model, steps=4), model)
    assert image.dtype == torch.float32 and image.shape[0] == 1 and image.shape[3] == 3
    assert image.shape[2] == 960 and image.shape[1] > 500 and 0 <= image.min() < image.max() <= 1
    assert {DENSE_STEP, DENSE_BLOCK} < colours(image)
    facts = "33 %", "2 of 4 steps", "first step and last step", "first block"
    assert all(fact in text for fact in facts)
    (run,) = data["runs"]
    assert data["version"] == 1 and len(run["steps"]) == 4
    assert run["latent"][1:] == [16, 9, 12, 20]
    assert run["totals"]["radial_calls"] == summaries[0]["radial_calls"] == 2 * (BLOCKS - 1)
    assert run["saving"]["how"] == "measured" and run["totals"]["seconds"] > 0
    assert ui["text"] == (text,) and len(ui["images"]) == 1


def test_each_step_and_block_has_the_right_colour(wan, summaries):
    """Checks the colour in the middle of each cell."""
    drawing = pack_module("nodes.drawing.report")
    model = patch(wan, **SETTINGS)
    image = report(sample(model, steps=4), model)[0]
    left, right = drawing.LEFT, drawing.WIDTH - drawing.RIGHT
    green = torch.tensor(drawing.GREEN) / 255
    rows = (image[0, :, (left + right) // 2 + 40] - green).abs().sum(1) < 0.02
    top = int(rows.nonzero()[0]) - drawing.MAP_HEIGHT // BLOCKS
    for step in range(4):
        for block in range(BLOCKS):
            x = left + (right - left) * (2 * step + 1) // 8
            y = top + drawing.MAP_HEIGHT * (2 * block + 1) // (2 * BLOCKS)
            wanted = DENSE_STEP if step in (0, 3) else DENSE_BLOCK if block == 0 else drawing.GREEN
            assert tuple((image[0, y, x] * 255).round().int().tolist()) == wanted, (step, block)


SKIPPED = (228, 222, 196)


def test_skipped_steps_have_a_colour_of_their_own(wan, summaries):
    """The whole column; or the part of each cell, or the blocks, that did not run."""
    drawing = pack_module("nodes.drawing.report")
    model = lazy_cache(patch(wan))
    image, text, data, _ = report(sample(model, steps=4), model)
    (run,) = data["runs"]
    skipped = run["totals"]["skipped_steps"]
    assert skipped and f"{len(skipped)} of 4 steps skipped by a step cache" in text
    assert "what the step cache saved comes on top" in text
    saved = run["totals"]["radial_calls"] / run["density"] - run["totals"]["radial_calls"]
    each = run["saving"]["seconds"] / saved
    assert each == pytest.approx(run["totals"]["seconds_of_a_radial_call"], rel=1e-3)

    def colour(steps, step, block, part=0.5):
        picture = drawing.draw([("", {**run, "steps": steps})])
        shown = [picture.getpixel((500, y)) for y in range(picture.height)]
        top = next(y for y, seen in enumerate(shown) if seen in (drawing.GREEN, SKIPPED))
        width = (960 - drawing.LEFT - drawing.RIGHT) / len(steps)
        x = drawing.LEFT + width * (step + part)
        return picture.getpixel((int(x), top + drawing.MAP_HEIGHT * (2 * block + 1) // 6))

    for step in range(4):
        wanted = SKIPPED if step in skipped else drawing.GREEN
        assert {colour(run["steps"], step, block) for block in range(BLOCKS)} == {wanted}
    full = {**run["steps"][0], "model_calls": 2, "skipped_calls": 0}
    full["blocks"] = [{"first": 0, "last": 2, "calls": {"radial": 2}}]
    half = {**full, "skipped_calls": 1, "blocks": [{"first": 0, "last": 2, "calls": {"radial": 1}}]}
    first = {
        **full,
        "skipped_calls": 2,
        "blocks": [{"first": 0, "last": 0, "calls": {"radial": 2}}],
    }
    steps = [full, half, first]
    assert [colour(steps, 1, 1, part) for part in (0.2, 0.8)] == [drawing.GREEN, SKIPPED]
    assert [colour(steps, 2, block) for block in range(3)] == [drawing.GREEN, SKIPPED, SKIPPED]


def test_two_models(summaries):
    """The two experts of Wan 2.2, in the order of the links."""
    case = next(case for case in zoo.CASES if case.name == "wan 2.2 i2v a14b")
    high, low, inputs = patch(case.model(), dense_steps=1), patch(case.model(seed=1)), case.inputs()
    started = zoo.sample(high, inputs, steps=4, start_step=0, last_step=3)
    rest = {"start_step": 3, "last_step": 4, "disable_noise": True, "force_full_denoise": True}
    out = zoo.sample(low, inputs, steps=4, latent={"samples": started}, **rest)
    both, text, data, _ = report(out, high, low)
    assert [run["totals"]["steps"] for run in data["runs"]] == [3, 1]
    assert "First model.\nRadial" in text and "\n\nSecond model.\nRadial" in text
    assert both.shape[1] > report(out, high)[0].shape[1] + 300


def test_the_run_with_the_samples_size_is_reported(wan, summaries):
    model = patch(wan)
    small = sample(model, steps=3)
    large = sample(model, frames=5, height=20, width=24, steps=2)
    assert [len(report(x, model)[2]["runs"][0]["steps"]) for x in (small, large)] == [3, 2]
    sample(model, steps=1)  # a newer one
    assert len(report(small, model)[2]["runs"][0]["steps"]) == 1
    other = torch.zeros(1, 16, 3, 4, 4)
    assert len(report(other, model)[2]["runs"][0]["steps"]) == 1  # the newest of all


def test_a_model_of_another_kind(summaries):
    model, inputs = zoo.hunyuan_image()
    model = patch(model)
    image, text, _, _ = report(zoo.sample(model, inputs, steps=2), model)
    assert "othing radial in 2 steps" in text and "not a video" in text
    assert image.shape[2] == 960


@pytest.mark.parametrize(
    "before, reason",
    [
        (lambda wan: wan, "did not go through Radial Attention Patch"),
        (patch, "nothing has sampled with it yet"),
    ],
)
def test_without_a_run_it_says_why(wan, before, reason):
    image, text, _, ui = report(torch.zeros(1, 16, 9, 12, 20), before(wan))
    assert reason in text and reason in ui["text"][0]
    assert image.ndim == 4 and image.shape[3] == 3


def test_one_of_two_models_without_a_run(wan, summaries):
    model = patch(wan)
    _, text, data, _ = report(sample(model), wan, model)
    assert "problem" in data["runs"][0] and data["runs"][1]["totals"]["steps"] == 2
    assert "did not go through" in text and "Radial 100 %" in text


def test_a_full_disk_does_not_cost_the_video(wan, summaries, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    model = patch(wan)
    monkeypatch.setattr(pack_module("nodes.comfyui.node_ui").ui, "PreviewImage", full)
    _, text, _, ui = report(sample(model), model)
    assert text.startswith("Radial 100 %") and ui == {"text": (text,)}


@pytest.mark.parametrize("steps, blocks", [(1, 1), (1000, 60), (3, 200)])
def test_any_number_of_steps_and_blocks_can_be_drawn(steps, blocks):
    record = pack_module("nodes.run.record")
    model = record.Record()
    reasons = pack_module("nodes.run.reasons")
    block_0, other = reasons.Why(reasons.Reason.DENSE_BLOCK), reasons.Reason.ARGUMENTS
    for number in range(steps):
        index = model.forward(number, torch.zeros(1, 16, 9, 12, 20))
        for block in range(blocks):
            why = reasons.Why(other, block % 7) if number == 0 else None
            why = block_0 if block == 0 else why
            entry = record.CallEntry(None, index, block, why, "sdpa", (1, 540), 0.3)
            entry.precision = "exact"
            model.end_call(entry)
    picture = pack_module("nodes.drawing.report").draw([("a title", model.read())])
    assert picture.width == 960 and picture.height < 1200


def test_the_patch_node_knows_its_id(wan, summaries):
    """Run as in a server; outside a server it has no id."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionPatch"]
    inside = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "5:3"}})
    model = inside.execute(wan, 0, 0, 0, 1, 0.2, 64, "auto").args[0]
    sample(model)
    sample(patch(wan))
    assert [summary["node"] for summary in summaries] == ["5:3", None]
    assert all(summary["status"].startswith("radial 100 %") for summary in summaries)


def test_a_report_that_is_added_later_finds_the_run(server, tmp_path, monkeypatch):
    """In a server: by then the sampler's output is in ComfyUI's cache."""
    small = {"width": 128, "height": 128, "length": 33, "steps": 3, "block_size": 64}
    graph = set_inputs(load_graph("wan21_t2v"), {**small, "preset": "custom"})
    sampler = next(k for k, node in graph.items() if node["class_type"] == "KSampler")
    for video in ("10", "11", "12"):  # the nodes that decode and save it
        del graph[video]
    graph["49"] = {"class_type": "PreviewAny", "inputs": {"source": [sampler, 0]}}
    outputs = {}
    monkeypatch.setattr("headless.client._collect", _outputs_into(outputs))
    first = asyncio.run(run_graph(server.url, graph, tmp_path, server.check))
    (summary,) = first.summaries
    assert summary["node"] == "4" and summary["status"].startswith("radial ")

    inputs = {"samples": [sampler, 0], "model": ["4", 0]}
    graph["50"] = {"class_type": "RadialAttentionReport", "inputs": inputs}
    graph["51"] = {"class_type": "PreviewAny", "inputs": {"source": ["50", 3]}}
    again = asyncio.run(run_graph(server.url, graph, tmp_path, server.check))
    assert not again.summaries  # nothing was sampled
    assert outputs["50"]["text"][0].startswith("Radial ") and len(outputs["50"]["images"]) == 1
    (run,) = json.loads(outputs["51"]["text"][0])["runs"]
    assert run["totals"]["radial_calls"] == summary["radial_calls"]


def _outputs_into(outputs):
    import headless.client as client

    async def collect(session, prompt_id, *_):
        outputs.update((await client._history(session, prompt_id))["outputs"])

    return collect
