"""The fused operations, in Triton's interpreter (see conftest.py)."""

import pytest
import torch

from radial_core import fused


@pytest.mark.parametrize("seed", range(3))
def test_each_operation_equals_torchs(seed):
    checked = []
    for name, out, truth in fused._cases(torch.device("cpu"), torch.float32, seed):
        assert out.shape == truth.shape
        assert ((out.double() - truth).norm() / truth.norm()).item() < 1e-6, name
        checked.append(name)
    assert len(checked) == 5


def test_a_wrong_operation_is_detected(monkeypatch):
    right = fused.add_gated
    monkeypatch.setattr(fused, "add_gated", lambda x, y, gate: right(x, y, -gate))
    wrong = fused._first_wrong(torch.device("cpu"), torch.float32, fused._cases)
    assert wrong.startswith("add_gated is off by")


def test_in_place():
    x, y, gate = torch.randn(2, 5, 9), torch.randn(2, 5, 9), torch.randn(2, 1, 9)
    truth = x + y * gate
    assert fused.add_gated(x, y, gate, out=x) is x
    assert torch.allclose(x, truth, atol=1e-6)


def test_into_a_part_of_a_sequence():
    """HunyuanVideo's text and video, each with its own weight, as one."""
    whole = torch.empty(2, 8, 3, 4)
    text, video = torch.randn(2, 3, 3, 4), torch.randn(2, 5, 3, 4)
    weights, freqs = torch.randn(2, 4), torch.eye(2).expand(1, 8, 2, 2, 2).contiguous()
    fused.rms_norm_rope(text, weights[0], freqs[:, :3], 1e-6, out=whole[:, :3])
    fused.rms_norm_rope(video, weights[1], freqs[:, 3:], 1e-6, out=whole[:, 3:])
    norm = torch.nn.functional.rms_norm
    truth = [norm(x, (4,), w, 1e-6) for x, w in zip((text, video), weights, strict=True)]
    assert torch.allclose(whole, torch.cat(truth, dim=1), atol=1e-6)


def test_which_tensors_they_decline():
    x = torch.zeros(1, 2, 4)
    assert fused.why_not(x.half()) == "gradients"
    with torch.inference_mode():
        assert fused.why_not(x) == "torch.float32"
        assert fused.why_not(x.half(), x) == "tensors of different kinds"
        assert fused.why_not(x.half()).startswith("cpu is no NVIDIA GPU")


def test_a_failing_kernel_is_logged_once_and_torch_computes(monkeypatch, caplog):
    monkeypatch.setattr(fused, "_verdicts", {})
    monkeypatch.setattr(fused, "on_device", None)
    for name, out, truth in fused._cases(torch.device("cpu"), torch.float32):
        assert ((out.double() - truth).norm() / truth.norm()).item() < 1e-6, name
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
    assert "failed: TypeError" in fused._verdicts[torch.device("cpu"), torch.float32, fused.KERNELS]


def test_out_of_memory_is_not_a_failure(monkeypatch):
    monkeypatch.setattr(fused, "_verdicts", {})
    monkeypatch.setattr(fused, "capability", lambda device: (9, 0))

    def no_memory(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fused, "_first_wrong", no_memory)
    with torch.inference_mode():
        assert fused.why_not(torch.zeros(1).half()) == "no memory to prove them"
    assert not fused._verdicts


@pytest.fixture
def gpu(monkeypatch):
    """As on a GPU, with nothing remembered: returns a function that asks for float16."""
    for name in ("_verdicts", "_failed_runs"):
        monkeypatch.setattr(fused, name, type(getattr(fused, name))())
    for name in ("_failed", "_said"):
        monkeypatch.setattr(fused, name, set())
    monkeypatch.setattr(fused, "capability", lambda device: (9, 0))

    @torch.inference_mode()
    def why_not():
        return fused.why_not(torch.zeros(1).half())

    return why_not


def test_a_failed_proof_is_tried_again_in_the_next_run(gpu, monkeypatch, caplog):
    def broken(*arguments):
        tries.append(1)
        raise RuntimeError("device busy")

    tries = []
    monkeypatch.setattr(fused, "_first_wrong", broken)
    assert gpu() == gpu() == "RuntimeError: device busy"
    fused.next_run()
    monkeypatch.setattr(fused, "_first_wrong", lambda *arguments: None)
    assert gpu() is None
    monkeypatch.setattr(fused, "_first_wrong", broken)
    fused._verdicts.clear()
    for _ in range(5):
        assert gpu() == "RuntimeError: device busy"
        fused.next_run()
    assert len(tries) == fused.RUNS
    assert len(caplog.records) == 1


def test_a_kernel_that_failed_is_tried_again_in_the_next_run(gpu, monkeypatch):
    monkeypatch.setattr(fused, "_first_wrong", lambda *arguments: None)
    monkeypatch.setattr(fused, "on_device", None)
    x, gate = torch.zeros(1, 2, 4).half(), torch.zeros(1, 1, 4).half()
    for _ in range(fused.RUNS):
        assert gpu() is None
        fused.add_gated(x, x, gate)
        assert gpu().startswith("add_gated failed: TypeError")
        fused.next_run()
    assert gpu().startswith("add_gated failed: TypeError")


def test_wrong_results_are_not_tried_again(gpu, monkeypatch):
    wrong = ["add_gated is off by 1.0e-01", None]
    monkeypatch.setattr(fused, "_first_wrong", lambda *arguments: wrong.pop(0))
    for _ in range(2):
        assert gpu() == "add_gated is off by 1.0e-01"
        fused.next_run()
