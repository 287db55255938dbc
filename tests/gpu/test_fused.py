"""The fused operations on this machine's GPU, against torch in float64."""

import pytest
import torch
import torch.nn.functional as F

from radial_core import fused

DEVICE = torch.device("cuda", 0)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_each_operation_equals_torchs(dtype, seed):
    with torch.inference_mode():
        assert fused.why_not(torch.zeros(1, device=DEVICE, dtype=dtype)) is None
    for name, out, truth in fused._cases(DEVICE, dtype, seed):
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
