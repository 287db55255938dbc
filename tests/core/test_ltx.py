"""The table in docs/troubleshooting.md that says what LTX-2 would gain."""

import re
from pathlib import Path

import pytest

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.estimate import ModelSize, estimate

TEXT = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+)x(\d+), (\d+) frames \|(.*)\|$", TEXT, re.MULTILINE)
# In units of width squared, what a video token passes in a block of ComfyUI's LTXAVModel: q, k, v
# and o of self-attention, q and o for text, a feed-forward of 2 layers 4 times as wide, and half as
# wide the q and o for sound and the k and v that sound attends to.
WEIGHTS = 4 + 2 + 8 + 1 + 1
LTX_2 = ModelSize(48, 32, 128, 2.0 * 48 * WEIGHTS * 4096**2)


def test_the_table_has_usual_sizes_and_large_ones():
    assert len(ROWS) == 5


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "x".join(row[:3]))
def test_the_figures_are_those_of_the_mask_and_the_estimate(row):
    width, height, length = map(int, row[:3])
    layout = VideoLayout((length - 1) // 8 + 1, height // 32, width // 32)
    tokens = layout.frames * layout.height * layout.width
    density = make_plan(RadialPattern(0.2, 1, 128), layout).density
    attention = LTX_2.attention_flops(tokens)
    expected = (
        f"{tokens // layout.frames:,}",
        f"{tokens:,}",
        f"{attention / (attention + LTX_2.linear_flops * tokens):.0%}".replace("%", " %"),
        f"{density:.0%}".replace("%", " %"),
        f"{estimate(LTX_2, tokens, density).step_speedup:.1f}x",
    )
    assert tuple(cell.strip() for cell in row[3].split("|")) == expected
