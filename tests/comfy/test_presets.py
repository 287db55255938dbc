"""The node's presets in the real ComfyUI: what each decides, and what it leaves to the inputs.

Expected values come from the presets' table, so that it can change.
"""

import json
import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from conftest import BLOCKS, PACK, pack_module, patch, sample

import nodes

presets = pack_module("nodes.inputs.presets")
override_of = pack_module("nodes.hook.attach").override_of
PRESETS = presets.PRESETS
each_preset = pytest.mark.parametrize("name", PRESETS)
SIZE = {"frames": 5, "height": 12, "width": 20}
LONG = {"frames": 27, "height": 8, "width": 8}  # Wan is trained on 21
OTHERS = {  # inputs that a preset decides itself
    "dense_steps": 3,
    "dense_last_steps": 2,
    "dense_blocks": 0,
    "sink_frames": 4,
    "decay": 2.0,
    "lists": "radial",
    "budget": 5.0,
}
# The table of the tests that need one in which all differs.
SOME = replace(
    PRESETS["balanced"], dense=0.1, early=1.5, budget=0.5, until=0.25, long_dense_steps=2
)

pytestmark = pytest.mark.usefixtures("any_density")


@pytest.fixture
def looks(monkeypatch):
    """The budget of each look, in order."""
    adaptive, budgets = pack_module("nodes.hook.adaptive"), []
    look = adaptive.look

    def watched(q, k, plan, budget, scale):
        budgets.append(budget)
        return look(q, k, plan, budget, scale)

    monkeypatch.setattr(adaptive, "look", watched)
    return budgets


def run(model, **options):
    """What the record of a run says."""
    sample(model, cfg=1.0, **options)
    return override_of(model).runs[-1].read()


def dense_steps(found) -> list[int]:
    return [
        step["step"]
        for step in found["steps"]
        if any("dense step" in entry["calls"] for entry in step["blocks"])
    ]


def first_steps(preset, steps, long=False) -> int:
    """The dense ones of a whole run, by the rule on the help page."""
    first = max(1, int(Fraction(str(preset.dense)) * steps))
    limit = preset.long_dense_steps if long else None
    return first if limit is None else min(first, limit)


def budgets_of(preset, first, steps, last_sparse) -> list[float]:
    """Those of a block's looks: in the first sparse step, and when the early ones have passed.

    Early lists are for two steps at least.
    """
    if first > last_sparse:
        return []
    settled = int(Fraction(str(preset.until)) * steps)
    if preset.early is None:
        return [preset.budget] * (2 if first < settled else 1)
    return [preset.early, preset.budget] if settled - first >= 2 else [preset.budget]


@pytest.mark.oldest
@pytest.mark.parametrize("steps, sampler", [(20, "euler"), (8, "heun"), (8, "euler"), (4, "heun")])
@each_preset
def test_what_a_run_gets(wan, looks, name, steps, sampler):
    preset = PRESETS[name]
    found = run(patch(wan, preset=name), steps=steps, sampler=sampler, **SIZE)
    first, last = first_steps(preset, steps), steps - preset.dense_last_steps
    assert dense_steps(found) == [*range(first), *range(last, steps)]
    sparse_blocks = BLOCKS - 1  # Wan's first is dense
    budgets = budgets_of(preset, first, steps, last - 1)
    assert looks == [budget for budget in budgets for _ in range(sparse_blocks)]
    assert found["adaptive"]["looks"] == len(looks)
    assert found["adaptive"]["why_radial"] is None
    assert found["totals"]["adaptive_calls"] == found["totals"]["radial_calls"] > 0
    settings = found["settings"]
    of_model = ("sink_frames", 1), ("decay", 0.2), ("dense_blocks", 1)
    of_preset = ("preset", name), ("lists", "adaptive"), ("dense_steps", first)
    of_preset += (("dense_last_steps", preset.dense_last_steps),)
    assert settings.items() >= {*of_model, *of_preset, ("block_size", 64)}
    assert settings["budget"] == preset.budget
    assert settings.get("early_budget") == (preset.early if len(budgets) > 1 else None)


@each_preset
def test_a_long_video(wan, looks, name):
    preset = PRESETS[name]
    found = run(patch(wan, preset=name), steps=20, **LONG)
    first, last = first_steps(preset, 20, long=True), 20 - preset.dense_last_steps
    assert dense_steps(found) == [*range(first), *range(last, 20)]
    assert looks == budgets_of(preset, first, 20, last - 1)  # of the third block
    assert found["settings"].items() >= {"dense_blocks": 2, "sink_frames": 1, "decay": 1.0}.items()


@pytest.mark.parametrize("long, expected", [(None, 4), (2, 2), (9, 4)])
def test_the_most_dense_steps_of_long_videos(wan, monkeypatch, long, expected):
    some = replace(SOME, dense=0.5, long_dense_steps=long, dense_last_steps=0)
    monkeypatch.setitem(PRESETS, "balanced", some)
    assert len(dense_steps(run(patch(wan, preset="balanced"), steps=8, **LONG))) == expected
    assert len(dense_steps(run(patch(wan, preset="balanced"), steps=8, **SIZE))) == 4


PARTS = {  # steps of the whole, the part, its first dense ones, and the budgets of a block's looks
    "the first expert of two": (20, {"last_step": 10}, 2, [1.5, 0.5]),
    "the second": (20, {"start_step": 10, "force_full_denoise": True}, 0, [0.5]),
    "the first of few steps": (4, {"last_step": 2}, 1, [0.5]),
    "the second of few steps": (4, {"start_step": 2, "force_full_denoise": True}, 0, [0.5]),
    "one that starts a little late": (8, {"start_step": 1}, 1, [0.5]),
    "one that jumps to the clean video": (
        8,
        {"last_step": 4, "force_full_denoise": True},
        1,
        [0.5],  # one step is too few for early lists
    ),
}


@pytest.mark.oldest
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_schedule(wan, looks, monkeypatch, part):
    """It has the dense steps that lie in its part; one that begins in noise has at least one."""
    monkeypatch.setitem(PRESETS, "balanced", replace(SOME, dense_last_steps=0))
    steps, options, first, budgets = PARTS[part]
    found = run(patch(wan, preset="balanced"), steps=steps, **options, **SIZE)
    assert dense_steps(found) == list(range(first))
    assert looks == [budget for budget in budgets for _ in range(BLOCKS - 1)]
    assert found["settings_of"] == "Wan 2.2" and found["adaptive"]["why_radial"] is None


@pytest.mark.parametrize("share", [0.1, 0.07, 0.29, 1 / 3, 0.5, 1.0])
def test_the_share_of_the_steps_is_rounded_down(share):
    levels_of = pack_module("radial_core.noise_levels").even_levels
    first_steps = pack_module("nodes.inputs.settings").first_steps
    for steps in range(1, 101):
        exact = Fraction(share).limit_denominator(100) * steps
        assert first_steps(levels_of(range(steps + 1)), share) == int(exact)


def test_an_early_budget_that_keeps_nearly_all_is_dense(wan, looks, monkeypatch):
    """Until a quarter of the steps: the smaller budget is sparse."""
    monkeypatch.setitem(PRESETS, "balanced", replace(SOME, early=10.0, dense_last_steps=0))
    monkeypatch.setattr(pack_module("nodes.hook.decision"), "MOST_DENSITY", 0.95)
    found = run(patch(wan, preset="balanced"), steps=12)
    dense = found["totals"]["dense_calls"]
    assert sum(n for why, n in dense.items() if "would be kept" in why) == 2 * (BLOCKS - 1)
    assert dense_steps(found) == [0] and set(looks) == {0.5}
    assert found["totals"]["radial_calls"] == 9 * (BLOCKS - 1)


@each_preset
def test_the_inputs_that_it_decides_are_not_used(wan, name):
    out = sample(patch(wan, preset=name), steps=4, **SIZE)
    for others in (OTHERS, {**OTHERS, "decay": float("nan"), "budget": "none"}):
        assert torch.equal(sample(patch(wan, preset=name, **others), steps=4, **SIZE), out)


def test_the_other_inputs_are_used(wan, summaries):
    for size in (64, 128):
        sample(patch(wan, preset="balanced", block_size=size), steps=4)
        assert summaries[-1]["settings"]["block_size"] == size
    override = override_of(patch(wan, preset="balanced", dense_attention="comfyui", backend="sdpa"))
    assert (override.dense_choice, override.backend) == ("comfyui", "sdpa")
    assert override_of(patch(wan, preset="faster", precision="8 bit")).precision == "8 bit"


def test_a_backend_that_has_no_lists_for_heads_is_refused(wan, monkeypatch):
    flashinfer = pack_module("radial_core.backends.flashinfer")
    monkeypatch.setitem(PRESETS, "closer", SOME)
    monkeypatch.setattr(flashinfer, "why_not", lambda call: "one list" if call.per_head else None)
    with pytest.raises(ValueError, match="one list"):
        patch(wan, preset="closer", backend="flashinfer")


@pytest.mark.oldest
def test_without_the_input_it_is_custom(wan, summaries):
    """As in graphs that were saved before, which tests/saved has."""
    as_before = sample(patch(wan, dense_steps=1), steps=4)
    assert torch.equal(sample(patch(wan, dense_steps=1, preset="custom"), steps=4), as_before)
    before, custom = summaries
    assert before == custom and "preset" not in custom["settings"]
    assert custom["status"].startswith("radial ")


@pytest.mark.oldest
def test_a_new_node_has_the_default():
    inputs = nodes.NODE_CLASS_MAPPINGS["RadialAttentionPatch"].INPUT_TYPES()
    assert list(inputs["optional"])[-1] == "preset" and "preset" not in inputs["required"]
    kind, options = inputs["optional"]["preset"]
    assert options["default"] == presets.DEFAULT in PRESETS
    choices = kind if isinstance(kind, list) else options["options"]
    assert choices == ["custom", "closer", "balanced", "faster"] == ["custom", *PRESETS]
    for name, each in PRESETS.items():
        said = f"{name}: {each.about} ({each.times_as_fast:g}x, {each.psnr} dB)."
        assert said in options["tooltip"]


@pytest.mark.parametrize("name", ["best", "", None, 1, ["closer"], torch.ones(2)], ids=repr)
def test_an_unknown_preset_is_refused(wan, name):
    choices = "custom, closer, balanced, faster"
    with pytest.raises(ValueError, match=f"preset must be one of {choices}, got "):
        patch(wan, preset=name)


def test_what_ran_names_it(wan, summaries, caplog):
    caplog.set_level("INFO", "radial_attention")
    model = patch(wan, preset="balanced")
    sample(model, steps=8)
    (summary,) = summaries
    assert summary["status"].startswith("balanced: radial ")
    assert summary["text"].startswith("balanced: 8 steps, ")
    assert f"Radial attention: {summary['text']}" in caplog.messages
    assert "settings for Wan 2.1: preset balanced, dense_steps " in summary["text"]
    report = pack_module("nodes.run.summary_text").report(override_of(model).runs[-1].read())
    assert report.startswith("Balanced: radial ")


def test_both_budgets_are_told(wan, summaries, monkeypatch):
    monkeypatch.setitem(PRESETS, "balanced", SOME)
    for steps, said in ((20, "(budget 1.5, then 0.5)"), (4, "(budget 0.5)")):
        sample(patch(wan, preset="balanced"), steps=steps, cfg=1.0, **SIZE)
        assert f"adaptive lists {said}" in summaries[-1]["status"]


def test_the_figures_are_those_of_the_lab():
    """The speed of a run as a whole and likeness, as the tooltip and the help page have them."""
    file = PACK / "benchmarks/results/quality-front-h200.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    passes = found["passes_of_wan"]
    default_s = passes["comfyui"] * passes["forwards"]
    figures = {
        case["preset"] or case["method"]: (
            round(default_s / case["seconds_estimate"], 1),
            round(case["psnr"]),
        )
        for case in found["cases"]
        if case["grid"] == "16 x 16 x 32"
    }
    page = (PACK / "nodes/web/docs/RadialAttentionPatch.md").read_text(encoding="utf-8")
    for name, each in PRESETS.items():
        assert figures[name] == (each.times_as_fast, each.psnr)
        assert re.search(rf"`{name}` \|.*\| {each.times_as_fast}x \| {each.psnr} dB \|", page)
    paper = presets.PAPER_TIMES_AS_FAST, presets.PAPER_PSNR
    assert figures["radial: 25% dense"] == paper
