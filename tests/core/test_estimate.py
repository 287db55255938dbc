"""The estimate against measurements on an H100."""

import json
from pathlib import Path

import pytest

from radial_core.estimate import ModelSize, estimate

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
WITHIN = 0.15


def size(blocks, channels, linear_weights):
    """linear_weights: the weights of a block, in units of channels squared."""
    return ModelSize(blocks, channels // 128, 128, 2 * blocks * linear_weights * channels**2)


# Wan: q, k, v, o, the q and o of cross-attention, and a feed-forward of 2 layers. HunyuanVideo:
# qkv, o, and a feed-forward 4 times as wide. Mochi: the same, gated, of width 8192.
WAN_14B, WAN_1_3B = size(40, 5120, 6 + 2 * 13824 / 5120), size(30, 1536, 6 + 2 * 8960 / 1536)
HUNYUAN, HUNYUAN_15 = size(60, 3072, 12), size(54, 2048, 12)
MOCHI = size(48, 3072, 4 + 3 * 8192 / 3072)
SIZES = {
    "wan2.1-14b-69f-768p": WAN_14B,
    "wan2.1-14b-81f-720p": WAN_14B,
    "wan2.1-1.3b-81f-480p": WAN_1_3B,
    "hunyuan-117f-768p": HUNYUAN,
    "hunyuan-509f-720p": HUNYUAN,
    "hunyuan1.5-121f-720p": HUNYUAN_15,
    "mochi-163f-480p": MOCHI,
    "mochi-667f-480p": MOCHI,
}


def cases(name):
    return json.loads((RESULTS / f"{name}.json").read_text())["cases"]


MEASURED = [case for case in cases("end_to_end-h100") if "passes_of" not in case]


def test_every_measured_model_is_estimated():
    assert {case["name"] for case in MEASURED} == set(SIZES)


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: case["name"])
def test_a_whole_pass(case):
    estimated = estimate(SIZES[case["name"]], case["tokens"], case["density"], case["dense_blocks"])
    fastest = case["dense_fastest_s"] / case["radial_s"]
    default = case["dense_s"] / case["radial_s"]
    assert estimated.step_speedup == pytest.approx(fastest, rel=WITHIN)
    assert estimated.step_speedup_over_default == pytest.approx(default, rel=WITHIN)


@pytest.mark.parametrize("case", cases("attention-h100"), ids=lambda case: case["name"])
def test_a_single_attention_call(case):
    ms = {row["backend"]: row["ms"] for row in case["rows"]}
    one_block = ModelSize(1, case["heads"], 128, linear_flops=0)
    estimated = estimate(one_block, case["tokens"], case["density"])
    measured = ms["dense-flash_attention"] / ms["auto"]
    assert estimated.attention_speedup == pytest.approx(measured, rel=WITHIN)


@pytest.mark.parametrize(
    "case", [c for c in cases("crossover-h100") if c["tokens"] > 4096], ids=lambda c: c["tokens"]
)
def test_attention_of_short_videos(case):
    estimated = estimate(ModelSize(1, 12, 128, 0), case["tokens"], case["density"])
    assert estimated.attention_speedup == pytest.approx(case["speedup"], rel=WITHIN)


def test_dense_blocks_cost_as_much_as_dense_attention():
    none, a_quarter, all_ = (estimate(WAN_14B, 75_600, 0.25, n) for n in (0, 10, 40))
    assert none.kept_work == 0.25
    assert a_quarter.kept_work == pytest.approx(10 / 40 + 30 / 40 * 0.25)
    assert none.attention_speedup > a_quarter.attention_speedup > all_.attention_speedup == 1
    assert none.step_speedup > a_quarter.step_speedup > all_.step_speedup == 1
    assert estimate(WAN_14B, 75_600, 0.25, 1000) == all_


def test_attention_gains_more_than_the_step_and_most_in_long_videos():
    short, long = (estimate(HUNYUAN, tokens, 0.12) for tokens in (30_000, 460_800))
    assert short.attention_speedup == pytest.approx(long.attention_speedup)
    assert 1 < short.step_speedup < long.step_speedup < long.attention_speedup
