"""The table in docs/troubleshooting.md that says what LTX-2 gains."""

import importlib
import re

import pytest
from test_decision import PACK, ROOT

core = importlib.import_module(f"{PACK}.radial_core")
estimate = importlib.import_module(f"{PACK}.radial_core.estimate").estimate
LTX_2 = importlib.import_module(f"{PACK}.nodes.families.lightricks").FAMILY.catalog["LTX-2"]
TEXT = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+)x(\d+), (\d+) frames \|(.*)\|$", TEXT, re.MULTILINE)


def test_the_table_has_usual_sizes_and_large_ones():
    assert len(ROWS) == 6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "x".join(row[:3]))
def test_the_figures_are_those_of_the_preset_and_the_estimate(row):
    layout = LTX_2.layout(LTX_2.latent(*map(int, row[:3])))
    preset, size, tokens = LTX_2.preset, LTX_2.size, layout.tokens
    assert layout.frames <= preset.frames
    density = core.make_plan(core.RadialPattern(preset.decay, preset.sink_frames), layout).density
    attention, linear = size.attention_flops(tokens), size.linear_flops * tokens
    step = estimate(size, tokens, density, preset.dense_blocks).step_speedup
    expected = (
        f"{layout.tokens_per_frame:,}",
        f"{tokens:,}",
        f"{attention / (attention + linear):.0%}".replace("%", " %"),
        f"{density:.0%}".replace("%", " %"),
        f"{step:.1f}x",
    )
    assert tuple(cell.strip() for cell in row[3].split("|")) == expected
