"""The quality lab's 8 bits: the command, with a fake backend in place of the GPU's."""

import json
import subprocess
import sys
from statistics import median

import pytest
import torch
from conftest import ENVIRONMENT, PACK
from small_lab import saved  # puts the lab on the path

sys.path.append(str(PACK / "tests/core"))  # last: it has a conftest, too

# isort: split

import eight_bits
import fake_int8
import model as lab_model
import tables_format
import tables_quality
from lab import record
from registering import forget, register

from radial_core.backends import sdpa

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(lab_model.TINY, tmp_path_factory.mktemp("lab"), sharper=3)


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """Runs the command with a module as the 8-bit backend; returns the cases by question."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "eight_bits.py")])

    def run(module, *options):
        forget()
        register(monkeypatch, ("fake", "sdpa"), fake=module, sdpa=sdpa)
        given = ["--comfyui", str(ENVIRONMENT.comfyui), "--checkpoint", str(checkpoint)]
        eight_bits.main([*given, "--tiny", "--backend", "fake", *options])
        found = json.loads((tmp_path / "quality-eight-bits-tiny.json").read_text())
        by_question = {"exact": found["exact_backends"]}
        for case in found["cases"]:
            by_question.setdefault(case["question"], []).append(case)
        return by_question

    yield run
    forget()


def test_the_command_measures_what_8_bits_change(run, tmp_path, monkeypatch):
    found = run(fake_int8.backend())
    assert found["exact"] == ["sdpa"]
    assert [case["dense_steps"] for case in found["videos"]] == [1, 0, 1, 0]
    for case in found["videos"]:
        assert len(case["psnr_of_seeds"]) == len(case["ssim_of_seeds"]) == 2
        assert 40 < case["psnr"] < 100  # it differs, by a little
    for case in found["validation loss"]:
        share, added = case["share_of_the_masks_loss"], case["eight_bits_add"]
        assert added["standard_error"] > 0
        expected = added["mean"] / case["mask_adds"]["mean"]
        assert share["mean"] == pytest.approx(expected, rel=0.1, abs=1e-3)
    errors = found["attention error"]
    assert [case["inputs"] for case in errors].count("as recorded") == 2
    for case in errors:
        assert len(case["error_by_step"]) == len(case["steps"]) == 4
        assert all(len(row) == lab_model.TINY.layers for row in case["error_by_step"])
        every = [error for row in case["error_by_step"] for error in row]
        assert case["calls"] == len(every) and case["error_worst"] == max(every)
        assert case["error_median"] == pytest.approx(median(every), abs=2e-5)
        assert case["error_of_exact_worst"] < 1e-5 < 1e-3 < case["error_median"]
        assert case["error_worst"] < 0.025

    monkeypatch.setattr(tables_format, "RESULTS", tmp_path)
    assert tables_quality.quality_eight_bits() == "Not measured yet."  # on a CPU
    (tmp_path / "quality-eight-bits-tiny.json").rename(tmp_path / "quality-eight-bits-h100.json")
    table = tables_quality.quality_eight_bits()
    print(table)
    assert len(table.splitlines()) == 2 + 4 + 2 + 4 and "at least 40" in table
    assert f"| {errors[0]['error_median']:.4f}, {errors[0]['error_worst']:.4f} |" in table


def test_an_exact_one_changes_nothing(run):
    found = run(sdpa)
    assert all(case["psnr"] == pytest.approx(100) for case in found["videos"])
    assert all(case["eight_bits_add"]["mean"] == 0 for case in found["validation loss"])


def test_one_that_fails_is_no_result(run):
    module = fake_int8.backend()
    calls, proven = module.run, []

    def fail(q, *rest):
        if q.shape[1] == 512:  # the model's calls, not the proof's
            raise RuntimeError("illegal instruction")
        proven.append(q.shape)
        return calls(q, *rest)

    module.run = fail
    with pytest.raises(RuntimeError, match="fake failed, and sdpa ran"):
        run(module)
    assert proven


def test_four_channels_get_70_percent_of_the_energy_and_the_mean_stays():
    k = torch.randn(2, 50, 3, 128) * torch.rand(128) + 5
    moved = eight_bits.in_few_channels(k)
    energies = [(x - x.mean(dim=1, keepdim=True)).square().sum(dim=1) for x in (k, moved)]
    torch.testing.assert_close(moved.mean(dim=1), k.mean(dim=1))
    torch.testing.assert_close(energies[1].sum(-1), energies[0].sum(-1))
    share = energies[1].topk(4, dim=-1).values.sum(-1) / energies[1].sum(-1)
    torch.testing.assert_close(share, torch.full((2, 3), 0.7))


@pytest.mark.parametrize("flag", ["-P", "-s"])  # -s changes nothing here
def test_the_two_commands_start_from_any_python(flag, tmp_path):
    """-P keeps a script's folder off the path, as some embedded Pythons do."""

    def command(script: str, *options: str) -> str:
        given = [
            "--comfyui",
            str(ENVIRONMENT.comfyui),
            "--checkpoint",
            str(tmp_path / "made.safetensors"),
        ]
        path = str(PACK / "benchmarks/quality" / script)
        words = [sys.executable, flag, path, *given, "--tiny", "--seconds", *options]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    results = set(record.RESULTS.iterdir())
    assert "loss of a linear guess" in command("train.py", "2", "--model-only")
    assert (tmp_path / "made.safetensors").stat().st_size > 1e6
    assert "Time is up: 10 cases" in command("eight_bits.py", "0", "--backend", "sdpa")
    assert set(record.RESULTS.iterdir()) == results
