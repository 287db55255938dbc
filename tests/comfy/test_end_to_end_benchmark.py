"""benchmarks/end_to_end.py on a CPU: its ways, and what it keeps of earlier runs."""

import json
import sys
from dataclasses import replace

import comfy_kitchen
import eight_bit
import pytest
import torch
import zoo
from conftest import ENVIRONMENT, PACK, newest_only

sys.path.append(str(PACK / "benchmarks"))

# isort: split

import end_to_end
import end_to_end_timing
import record
from end_to_end_cases import CASES, Case
from end_to_end_networks import MINIMAX_H3
from end_to_end_ways import DENSE_STEPS, WAYS, why_not_this_way
from training_cases import TINY

pytestmark = pytest.mark.slow

SETTINGS = dict(sink_frames=0, steps=10, dense_steps=3)
SMALL = {
    "small": Case(TINY["wan"].model, TINY["wan"].latent, **SETTINGS),
    "few-blocks": Case(
        *(TINY["hunyuan"].model, TINY["hunyuan"].latent, 1),
        **SETTINGS,
        measured={"double_blocks": 2, "single_blocks": 1},
        measured_dense={"double_blocks": 1, "single_blocks": 1},
    ),
    "same": Case(TINY["wan"].model, TINY["wan"].latent, 1, **SETTINGS, same_as="small"),
}
H3 = replace(
    MINIMAX_H3,
    settings=zoo.minimax_h3.SMALL | {"num_layers": 3},
    blocks={"blocks": 3},
    text=(20, 48),
)
FEW = {"blocks": 2}
SMALL["h3"] = Case(H3, (12, 12, 20), 1, **SETTINGS, measured=FEW, measured_dense={"blocks": 1})
EXACT_WAYS = ["dense", "dense_fastest", "radial"]


@pytest.fixture
def backend(monkeypatch):
    yield eight_bit.register_backend(monkeypatch)
    eight_bit.forget()


@pytest.fixture
def sol_attn(monkeypatch):
    """comfy-kitchen's sparse kernel, which runs on GPUs only: here dense. Returns its arguments."""
    calls = []

    def attend(q, k, v, **arguments):
        calls.append((tuple(q.shape), arguments))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    monkeypatch.setattr(comfy_kitchen, "sol_attn_is_available", lambda _: True, raising=False)
    monkeypatch.setattr(comfy_kitchen, "sol_attn", attend, raising=False)
    return calls


@pytest.fixture
def bench(tmp_path, monkeypatch, backend, sol_attn):
    """Runs the command; returns its cases by name, as they stand in the file."""
    for name, case in SMALL.items():
        monkeypatch.setitem(CASES, name, case)
    monkeypatch.setattr(end_to_end_timing, "SECONDS", 0)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "end_to_end.py")])

    def bench(*options):
        given = ["--comfyui", str(ENVIRONMENT.comfyui), "--results", "here", *options]
        try:
            end_to_end.main(given)
        finally:
            file = tmp_path / "here.json"
            found = json.loads(file.read_text())["cases"] if file.exists() else []
            bench.cases = {case["name"]: case for case in found}
        return bench.cases

    return bench


def test_all_ways_and_what_follows_from_them(bench):
    case = bench("--case", "small")["small"]
    for end, dense_steps in (("", "dense_fastest_s"), ("_8bit", "dense_8bit_s")):
        expected = 2 * (3 * case[dense_steps] + 7 * case[f"radial{end}_s"])
        assert case[f"schedule_radial{end}_s"] == pytest.approx(expected, abs=0.051)
        speedup = case["schedule_dense_s"] / case[f"schedule_radial{end}_s"]
        assert case[f"speedup_schedule{end}"] == pytest.approx(speedup, abs=0.02)
    adaptive = 3 * case["dense_fastest_s"] + 7 * case["adaptive_067_s"]
    expected = 2 * (adaptive + case["look_s_adaptive_067"])
    assert case["schedule_adaptive_067_s"] == pytest.approx(expected, abs=0.051)
    assert 0 < case["density_adaptive_067"] <= case["density"]  # there the backbone is all
    assert case["schedule_dense_s"] == pytest.approx(20 * case["dense_s"], abs=0.051)
    assert (case["backend"], case["backend_8bit"]) == ("sdpa", "rounded")
    assert (case["dense_backends"], case["dense_backends_8bit"]) == ([], ["rounded"])
    assert "exact (sdpa)" in case["ran"]["radial"] and "8 bit" not in case["ran"]["radial"]
    assert "8 bit (rounded)" in case["ran"]["radial_8bit"]
    assert all(key in case for key in ("peak_gib_radial_8bit", "peak_gib_dense"))
    assert list(case["runs"]) == list(WAYS) and "ways_of_an_earlier_run" not in case


def test_ways_that_are_not_measured_again_stay(bench):
    before = bench("--case", "small", "few-blocks", "--ways", *EXACT_WAYS)
    assert not any("8bit" in key for key in before["small"])
    after = bench("--case", "small", "same", "--ways", "radial_8bit", "dense_8bit")
    assert after["few-blocks"] == before["few-blocks"]
    small = after["small"]
    assert {key: small[key] for key in before["small"] if key not in ("runs", "ran")} == {
        key: value for key, value in before["small"].items() if key not in ("runs", "ran")
    }
    for way in EXACT_WAYS:
        assert small["runs"][way] == before["small"]["runs"][way]
    assert small["ways_of_an_earlier_run"] == EXACT_WAYS
    assert small["speedup_schedule_8bit"] > 0 and after["same"]["schedule_radial_8bit_s"] > 0


def test_figures_of_another_machine_are_not_mixed_in(bench, monkeypatch, capsys):
    bench("--case", "small", "--ways", "dense")
    versions = record.versions()
    monkeypatch.setattr(record, "versions", lambda: versions | {"sageattention": "1.0.6"})
    assert "dense_s" in bench("--case", "small", "--ways", "radial_8bit")["small"]  # none runs it
    monkeypatch.setattr(record, "versions", lambda: versions | {"triton": "9.9"})
    before = bench.cases
    with pytest.raises(SystemExit, match="triton None, now 9.9"):
        bench("--case", "small", "--ways", "radial_8bit")
    assert bench.cases == before
    assert "radial_8bit_s" in before["small"] and "radial_s" not in before["small"]
    bench("--case", "small")
    assert "Nothing of here.json is kept: triton" in capsys.readouterr().out
    assert "ways_of_an_earlier_run" not in bench.cases["small"]


def test_settings_that_changed_drop_the_earlier_figures(bench, monkeypatch):
    bench("--case", "small", "--ways", "dense")
    monkeypatch.setitem(CASES, "small", Case(*(SMALL["small"].model, (24, 12, 16)), **SETTINGS))
    small = bench("--case", "small", "--ways", "radial")["small"]
    assert "radial_s" in small and "dense_s" not in small


def test_an_exact_run_is_no_8_bit_figure(bench, backend):
    backend.reason = "not on this GPU"
    with pytest.raises(SystemExit, match="small: dense_8bit, small: radial_8bit"):
        bench("--case", "small")
    assert "radial_s" in bench.cases["small"] and "radial_8bit_s" not in bench.cases["small"]


def test_few_blocks_stand_for_all(bench):
    case = bench("--case", "few-blocks")["few-blocks"]
    ran = {
        way: {name: len(times) for name, times in runs["block_s"].items()}
        for way, runs in case["runs"].items()
    }
    few, all_measured = SMALL["few-blocks"].measured_dense, SMALL["few-blocks"].measured
    assert ran == {way: all_measured if way in DENSE_STEPS else few for way in WAYS}
    blocks = case["runs"]["dense_8bit"]["block_s"]
    rest = case["runs"]["dense_8bit"]["measured_s"] - sum(sum(times) for times in blocks.values())
    expected = rest + 3 * blocks["double_blocks"][0] + 3 * blocks["single_blocks"][0]
    assert case["dense_8bit_s"] == pytest.approx(expected, abs=0.003)


@newest_only("it has no MiniMax H3")
def test_minimax_h3_has_sound(bench, sol_attn):
    case = bench("--case", "h3")["h3"]
    tokens, sound = 12 * 6 * 10, 2 * 65  # 39 frames at 24 a second, 40 latents of sound a second
    assert (case["tokens"], case["sound_tokens"]) == (tokens, sound)
    assert all(f"{way}_s" in case for way in WAYS)
    shape, arguments = sol_attn[-1]
    assert shape == (1, 20 + sound + tokens, 2, 128)
    assert arguments["sink_blocks"] == [0, 3] and arguments["sink_q"] == [0, 3]


def test_core_sparse_that_ran_nowhere_is_no_figure(bench, monkeypatch):
    from end_to_end_core import CoreSparse

    monkeypatch.setattr(CoreSparse, "_has_video", lambda *_: False)
    with pytest.raises(SystemExit, match="small: core_sparse"):
        bench("--case", "small")
    assert "radial_s" in bench.cases["small"] and "core_sparse_s" not in bench.cases["small"]


def ran(radial_calls: int, precisions: dict, dense: dict) -> dict:
    return dict(radial_calls=radial_calls, precisions=precisions, dense_precisions=dense)


@pytest.mark.parametrize(
    "way, found, is_it",
    [
        ("radial", ran(9, {"exact": 9}, {"exact": 1}), True),
        ("radial", ran(9, {"8 bit": 9}, {"exact": 1}), False),
        ("radial_8bit", ran(9, {"8 bit": 9}, {"8 bit": 1}), True),
        ("radial_8bit", ran(9, {"8 bit": 9}, {"exact": 1}), False),
        ("radial_8bit", ran(9, {"8 bit": 8, "exact": 1}, {}), False),
        ("radial_8bit", ran(0, {}, {"8 bit": 10}), False),
        ("dense_8bit", ran(0, {}, {"8 bit": 10}), True),
        ("dense_8bit", ran(0, {}, {}), False),
        ("dense_fastest", ran(0, {}, {"8 bit": 10}), False),
    ],
)
def test_what_ran_must_be_the_way(way, found, is_it):
    assert (why_not_this_way(way, found) is None) == is_it
