import pytest
import torch

from radial_core.backends import triton, triton_int8
from radial_core.call import Call

CUDA = torch.device("cuda", 0)
HALF, BF = torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    "gpu, dtype, head_dim, options, reason",
    [
        ((9, 0), BF, 128, {}, None),
        ((8, 0), HALF, 64, {"lse": True}, None),
        ((8, 9), BF, 80, {}, None),
        ((12, 0), BF, 96, {}, None),
        ((7, 5), HALF, 128, {}, "triton needs an NVIDIA GPU of compute capability 8.0"),
        ((0, 0), BF, 128, {}, "triton needs an NVIDIA GPU"),
        ((9, 0), torch.float32, 128, {}, "triton needs float16 or bfloat16, got torch.float32"),
        ((9, 0), BF, 256, {}, "triton needs head_dim 64, 80, 96, 128, got 256"),
        ((9, 0), BF, 128, {"grad": True}, "triton has no backward pass"),
    ],
)
def test_why_not(monkeypatch, gpu, dtype, head_dim, options, reason):
    monkeypatch.setattr(triton, "capability", lambda device: gpu)
    monkeypatch.setattr(triton, "_version", lambda: (3, 6))
    answer = triton.why_not(Call(CUDA, dtype, head_dim, 128, **options))
    assert answer is None if reason is None else answer.startswith(reason)


@pytest.mark.parametrize("head_dim, grad", [(64, False), (80, False), (256, False), (128, True)])
def test_the_8_bit_kernel_answers_for_itself(monkeypatch, head_dim, grad):
    monkeypatch.setattr(triton, "capability", lambda device: (8, 9))
    monkeypatch.setattr(triton, "_version", lambda: (3, 6))
    answer = triton_int8.why_not(Call(CUDA, BF, head_dim, 128, grad))
    if grad:
        assert answer == "triton_int8 has no backward pass"
    elif head_dim in triton_int8.HEAD_DIMS:
        assert answer is None
    else:
        assert answer == f"triton_int8 needs head_dim 64, 128, got {head_dim}"


@pytest.mark.parametrize("backend", [triton, triton_int8])
def test_says_what_to_install(monkeypatch, backend):
    monkeypatch.setattr(triton, "capability", lambda device: (9, 0))
    for version in ((), (3, 2)):
        monkeypatch.setattr(triton, "_version", lambda version=version: version)
        reason = backend.why_not(Call(CUDA, BF, 128, 128))
        assert " needs Triton 3.3 or newer: " in reason
        assert reason.endswith("pip install triton-windows")


@pytest.mark.parametrize(
    "gpu, head_dim, can", [((9, 0), 128, True), ((9, 0), 80, False), ((8, 0), 128, False)]
)
def test_dense_is_for_hopper(monkeypatch, gpu, head_dim, can):
    monkeypatch.setattr(triton, "capability", lambda device: gpu)
    monkeypatch.setattr(triton, "_version", lambda: (3, 6))
    assert (triton.why_not_dense(Call(CUDA, BF, head_dim, 128)) is None) == can
