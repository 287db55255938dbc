"""The fused operations on this machine's GPU, against torch in float64."""

import pytest
import torch
import torch.nn.functional as F

from radial_core import fused, fused_packed

DEVICE = torch.device("cuda", 0)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("operations", [fused, fused_packed], ids=["batches", "packed"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_each_operation_equals_torchs(operations, dtype, seed):
    with torch.inference_mode():
        assert operations.why_not(torch.zeros(1, device=DEVICE, dtype=dtype)) is None
    for name, out, truth in operations._cases(DEVICE, dtype, seed):
        assert ((out.double() - truth).norm() / truth.norm()).item() < 4e-3, name


def test_rows_of_several_programs():
    """At the width of HunyuanVideo's."""
    x = torch.randn(1, 1000, 3072, device=DEVICE, dtype=torch.bfloat16)
    made = torch.randn(1, 1000, 7 * 3072, device=DEVICE, dtype=torch.bfloat16)
    y = made[..., 2 * 3072 :]
    gelu = F.gelu(y[..., 3072:].double(), approximate="tanh")
    truth = torch.cat((x.double(), gelu), dim=2)
    before = made[..., : 2 * 3072].clone()
    out = fused.beside_gelu(x, y)
    assert ((out.double() - truth).norm() / truth.norm()).item() < 4e-3
    assert torch.equal(made[..., : 2 * 3072], before)


def test_a_buffer_of_more_than_2_to_the_31_numbers():
    """q, k and v of 15 s of MiniMax H3, and what goes into its SwiGLU: the last tokens."""
    if torch.cuda.mem_get_info(DEVICE)[0] < 16 << 30:
        pytest.skip("needs 16 GiB of free memory")
    tokens, last = 109_318, slice(-3, None)
    qkv = torch.randn(tokens, 3, 56, 128, device=DEVICE, dtype=torch.bfloat16)
    weights = torch.randn(2, 128, device=DEVICE, dtype=torch.bfloat16)
    freqs = torch.randn(tokens, 48, 2, 2, device=DEVICE, dtype=torch.bfloat16)
    some, values = qkv[last].clone(), qkv[:, 2].clone()
    fused_packed.rms_norm_rope_halves_(qkv[:, :2], weights, freqs, 1e-5)
    fused_packed.rms_norm_rope_halves_(some[:, :2], weights, freqs[last].contiguous(), 1e-5)
    assert torch.equal(qkv[last], some) and torch.equal(qkv[:, 2], values)
    del qkv, values
    x = torch.randn(tokens, 2 * 14336, device=DEVICE, dtype=torch.bfloat16)
    assert torch.equal(fused_packed.swiglu(x)[last], fused_packed.swiglu(x[last]))


def test_the_width_of_h3():
    """Many runs of text, and rows of modulation that are parts of one tensor."""
    segments = *((i, i + 1, i % 3) for i in range(250)), (250, 1000, 7)
    x, y = torch.randn(2, 1000, 5376, device=DEVICE, dtype=torch.bfloat16)
    weight = torch.randn(5376, device=DEVICE, dtype=torch.bfloat16)
    made = torch.randn(9, 3 * 5376, device=DEVICE, dtype=torch.bfloat16)
    scale, shift, gate = made.chunk(3, dim=1)
    rows = torch.tensor([i % 3 for i in range(250)] + 750 * [7], device=DEVICE)
    truth = F.rms_norm(x.double(), (5376,), weight.double(), 1e-5)
    truth = truth * (1 + scale[rows].double()) + shift[rows].double()
    out = fused_packed.rms_norm_modulate(x, weight, scale, shift, segments, 1e-5)
    assert ((out.double() - truth).norm() / truth.norm()).item() < 4e-3
    truth = x.double() + y.double() * gate[rows].double()
    fused_packed.add_gated_(x, y, gate, segments)
    assert ((x.double() - truth).norm() / truth.norm()).item() < 4e-3
