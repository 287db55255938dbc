"""Radial Mask Preview: what it says of whole runs with each preset."""

import re

import pytest
import zoo
from conftest import pack_module, patch
from test_preview import catalog, core, figures, preview, temporary_folder  # noqa: F401


def run_figures(words) -> dict:
    """Of the lines on whole runs: name -> (kept in percent, speed-up, that over the default)."""
    line = re.compile(r"^([\w, ]+): ([\d.]+) % kept, ([\d.]+)x as fast \(([\d.]+)x\)", re.MULTILINE)
    return {name: tuple(map(float, figures)) for name, *figures in line.findall(words)}


def test_a_whole_run_with_each_preset():
    """Against steps that are counted one by one. HunyuanVideo has no dense block."""
    presets = pack_module("nodes.inputs.presets").PRESETS
    estimate = pack_module("radial_core.estimate").estimate
    entry, layout = catalog.VIDEO_MODELS["HunyuanVideo"], core.VideoLayout(33, 45, 80, 256)
    words = figures(model_type="HunyuanVideo", width=1280, height=720, length=129, decay=2.0)
    found = run_figures(words)
    assert list(found) == ["custom, as set", *presets]

    def figures_of(decay, first, last, early, budget, until=12):
        plan = core.make_plan(core.RadialPattern(decay, 0), layout)
        shares = [1.0 if n < first or n >= 50 - last else budget for n in range(50)]
        shares[first:until] = [early] * max(0, until - first)
        steps = []
        for share in shares:
            dense = 60 if share == 1.0 else 0
            steps.append(estimate(entry.size, layout.tokens, share * plan.density, dense))
        over_fastest = 50 / sum(1 / step.step_speedup for step in steps)
        default = steps[0].step_speedup_over_default / steps[0].step_speedup
        return 100 * budget * plan.density, over_fastest, over_fastest * default

    # A share of 1 is a dense step in the above, so sparse ones have a little less.
    by_hand = figures_of(2.0, 12, 1, 1.0 - 1e-9, 1.0 - 1e-9)
    assert found["custom, as set"] == pytest.approx(by_hand, abs=0.051, rel=0.005)
    for name, preset in presets.items():
        first, budget = int(50 * preset.dense + 1e-9), preset.budget - 1e-9
        early = budget if preset.early is None else preset.early - 1e-9
        given = (0.95, first, preset.dense_last_steps, early, budget, int(50 * preset.until))
        # The backbone keeps some rows of a small budget longer.
        assert found[name] == pytest.approx(figures_of(*given), abs=0.051, rel=0.02), name


def test_a_linked_model_with_a_preset():
    model = next(case for case in zoo.CASES if case.name == "wan t2v, two videos").model()
    of_preset = preview(model=patch(model, preset="closer"))
    words, budget = of_preset[1], pack_module("nodes.inputs.presets").PRESETS["closer"].budget
    assert "Settings of closer, as for Wan 2.1: decay 0.2, 1 sink frame" in words
    assert f"Lists: adaptive, budget {budget:g}." in words
    assert list(run_figures(words)) == ["closer", "balanced", "faster"]
    assert run_figures(figures(length=1)) == {}
