"""The fused operations on packed sequences, in Triton's interpreter (see conftest.py)."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from compiling import output_of

from radial_core import fused, fused_packed

WIDTH, HEADS, PAIRS = 5376, 56, 48  # MiniMax H3's


def error_of(out, truth) -> float:
    return ((out.double() - truth).norm() / truth.norm()).item()


def rows_of(segments) -> torch.Tensor:
    return torch.cat([torch.full((stop - start,), row) for start, stop, row in segments])


@pytest.mark.parametrize("seed", range(3))
def test_each_operation_equals_torchs(seed):
    checked = []
    for name, out, truth in fused_packed._cases(torch.device("cpu"), torch.float32, seed):
        assert out.shape == truth.shape
        assert error_of(out, truth) < 1e-6, name
        checked.append(name)
    assert len(checked) == 5


SEGMENTS = {
    "one": ((0, 9, 2),),
    "many runs of text": tuple((i, i + 1, i % 3) for i in range(7)) + ((7, 9, 0),),
    "one without tokens": ((0, 4, 5), (4, 4, 1), (4, 9, 3)),
}


@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["fp16", "rows in fp32"])
def test_norms_and_gates_at_the_width_of_h3(segments, dtype):
    """Not above the error of ComfyUI's operations: ours round once. The gates are as they are
    where the model has its timesteps as curves: in float32."""
    torch.manual_seed(0)
    x, y, weight = (torch.randn(n, WIDTH).half() for n in (9, 9, 1))
    scale, shift, gate = torch.randn(6, 3 * WIDTH).to(dtype).chunk(3, dim=1)
    rows = rows_of(segments)
    truth = F.rms_norm(x.double(), (WIDTH,), weight[0].double(), 1e-5)
    truth = truth * (1 + scale[rows].double()) + shift[rows].double()
    plain = F.rms_norm(x, (WIDTH,), weight[0], 1e-5)
    plain = plain.mul(1 + scale[rows].half()).add(shift[rows].half())
    out = fused_packed.rms_norm_modulate(x, weight[0], scale, shift, segments, 1e-5)
    assert error_of(out, truth) < min(3e-4, error_of(plain, truth))
    truth = x.double() + y.double() * gate[rows].double()
    plain = torch.addcmul(x, y, gate[rows].half())
    assert fused_packed.add_gated_(x, y, gate, segments) is x
    assert error_of(x, truth) < 3e-4 and error_of(x, truth) <= error_of(plain, truth)


def test_rope_at_the_sizes_of_h3():
    """In place in the buffer of q, k and v, whose values stay as they are."""
    torch.manual_seed(0)
    qkv = torch.randn(3, 3, HEADS, 128).half()
    weights, angles = torch.randn(2, 128).half(), torch.rand(3, PAIRS) * 6
    cos, sin = angles.cos(), angles.sin()
    freqs = torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2)).half()

    def rotated(x, freqs):
        first, second = x[..., :PAIRS], x[..., PAIRS : 2 * PAIRS]
        a, b, c, d = freqs.flatten(-2)[:, None, None].unbind(-1)
        both = a * first + b * second, c * first + d * second
        return torch.cat((*both, x[..., 2 * PAIRS :]), dim=-1)

    def normed(x, weights):
        parts = [F.rms_norm(x[:, n], (128,), weights[n], 1e-5) for n in range(2)]
        return torch.stack(parts, dim=1)

    truth = rotated(normed(qkv[:, :2].double(), weights.double()), freqs.double())
    plain, before = rotated(normed(qkv[:, :2], weights), freqs), qkv.clone()
    fused_packed.rms_norm_rope_halves_(qkv[:, :2], weights, freqs, 1e-5)
    assert error_of(qkv[:, :2], truth) < min(3e-4, error_of(plain, truth))
    assert torch.equal(qkv[:, 2], before[:, 2])


@pytest.mark.parametrize("heads", [2, 65])
def test_rope_of_other_strides(heads):
    """As another pack's layer may return q and k; more heads than a program takes."""
    torch.manual_seed(0)
    x, weights, freqs = torch.randn(heads, 2, 3, 16), torch.randn(2, 16), torch.randn(3, 5, 2, 2)
    packed = x.permute(2, 1, 0, 3).contiguous()
    for each in (x.permute(2, 1, 0, 3), packed):
        fused_packed.rms_norm_rope_halves_(each, weights, freqs, 1e-5)
    assert torch.equal(x.permute(2, 1, 0, 3), packed)


def test_swiglu_in_several_programs():
    x = torch.randn(3, 2 * 5000)
    gate, other = x.double().chunk(2, dim=1)
    assert error_of(fused_packed.swiglu(x), F.silu(gate) * other) < 1e-6
    assert torch.equal(fused_packed.swiglu(x.t().contiguous().t()), fused_packed.swiglu(x))


def test_a_failure_turns_off_its_own_file_of_kernels(monkeypatch, caplog):
    monkeypatch.setattr(fused, "_verdicts", {})
    monkeypatch.setattr(fused, "on_device", None)
    for name, out, truth in fused_packed._cases(torch.device("cpu"), torch.float32):
        assert error_of(out, truth) < 1e-6, name
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
    assert list(fused._verdicts) == [(torch.device("cpu"), torch.float32, "packed_norms")]


def test_the_proof_is_of_these_operations(monkeypatch):
    monkeypatch.setattr(fused, "_verdicts", {})
    monkeypatch.setattr(fused, "capability", lambda device: (9, 0))
    monkeypatch.setattr(fused_packed, "swiglu", lambda x: x.chunk(2, dim=1)[0])
    with torch.inference_mode():
        assert fused_packed.why_not(torch.zeros(1).half()).startswith("swiglu is off by")
        assert fused.why_not(torch.zeros(1).half()) is None


def test_code_for_nvidia():
    """Tokens are read and written 16 bytes at a time, and nothing is put aside for lack of
    registers. The one other load is of a token's row or of its rotations."""
    backends = pytest.importorskip("triton.backends")
    if not (Path(backends.__file__).parent / "nvidia/bin/ptxas").exists():
        pytest.skip("this Triton brings no assembler")
    kernels = [json.loads(line) for line in output_of("compile_packed.py").splitlines()]
    assert len(kernels) == 4 * 2
    for found in kernels:
        assert found["wide moves"] >= 6 and found["other moves"] <= 1, found
        assert found["registers"] <= 128 and found["stack"] == 0, found
