"""benchmarks/multi_gpu.py on a CPU, with cards that are processes on it."""

import json
import sys

import pytest
import torch
from conftest import ENVIRONMENT, PACK, pack_module

sys.path.append(str(PACK / "benchmarks"))

# isort: split

import multi_gpu
import multi_gpu_memory
import record

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs the command; returns the cases in its file."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "multi_gpu.py")])
    monkeypatch.setenv(multi_gpu.CPU_CARDS, "2")

    def bench(*options):
        multi_gpu.main(["--comfyui", str(ENVIRONMENT.comfyui), "--tiny", *options])
        return json.loads((tmp_path / "multi_gpu-cpu-tiny.json").read_text())["cases"]

    return bench


def test_a_dry_run_on_two_cards(bench):
    dense, radial = bench("--case", "wan")
    assert (dense["way"], radial["way"]) == ("dense_fastest", "radial")
    for case in (dense, radial):
        assert case["gpus"] == 2 and set(case["pass_s"]) == {"1", "2"}
        speedup = case["pass_s"]["1"] / case["pass_s"]["2"]
        assert case["speedup"] == pytest.approx(speedup, rel=0.01)
        assert case["relative_difference"] < 1e-5
        assert len(case["host_gib"]) == 2 and min(case["host_gib"]) > 0.05
        alone, together = case["regions"]["1"], case["regions"]["2"]
        assert list(alone) == list(together) == ["attention", "linear", "communication", "rest"]
        assert alone["communication"] == 0 < together["communication"]
        assert alone["linear"] > together["linear"] > 0 < together["attention"]


def test_a_pass_that_was_not_split_is_no_figure(bench, monkeypatch, capsys):
    monkeypatch.setattr(pack_module("nodes.cards.attach"), "attach", lambda *_: None)
    with pytest.raises(SystemExit, match="wan: radial"):
        bench("--case", "wan", "--ways", "radial")
    assert "0 of 2 passes were split" in capsys.readouterr().err


def test_differences_are_relative_and_of_the_worst_part():
    video, sound = torch.randn(2, 3, 4), torch.randn(7)
    moved = video.clone()
    moved[0, 0, 0] += 0.5
    differ = multi_gpu.compared([video, sound], [moved, sound])
    rms = 0.5 / video.norm().item()
    assert differ["relative_difference"] == pytest.approx(rms, rel=0.01)
    most = 0.5 / video.abs().max().item()
    assert differ["relative_difference_max"] == pytest.approx(most, rel=0.01)
    assert not differ["same_bits"]
    assert multi_gpu.compared([video, sound], [video.clone(), sound])["same_bits"]


def test_memory_of_cards_and_links_is_read(monkeypatch):
    texts = {
        "--query-gpu=memory.used": "1024\n33280\n5\n",
        "topo": "\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV18\t0-15\nGPU1\tNV18\t X \t0-15\n",
    }
    monkeypatch.setattr(multi_gpu_memory, "_nvidia_smi", lambda *arguments: texts[arguments[0]])
    assert multi_gpu_memory.card_gib(2) == [1.0, 32.5]
    assert multi_gpu_memory.links() == {"link": "NV18"}
