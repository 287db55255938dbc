"""SpargeAttn and SageAttention 2, if they are installed: their real kernels with our masks.

Their errors are larger than ours (test_eight_bits.py), so they have their own tolerance.
"""

import pytest
import torch
from hard_inputs import HARD, draw, error_of, relative_rms
from test_backends import DEVICE, LAYOUTS
from test_per_head import plan_of

from radial_core import RadialPattern, make_plan
from radial_core.backends import sageattention, spargeattn
from radial_core.call import Call
from radial_core.reference import reference_attention

HALF = torch.bfloat16
TOLERANCE = spargeattn.ACCURACY.tolerance[HALF]
CALL = Call(DEVICE, HALF, 128, 128)


@pytest.fixture
def sparge():
    if reason := spargeattn.why_not(CALL):
        pytest.skip(reason)
    return spargeattn.run


@pytest.mark.parametrize("shape", [(1, 1, 128), (2, 2, 64)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(sparge, layout, shape):
    q, k, v = draw("normal", layout, shape, HALF, DEVICE)
    plan = make_plan(RadialPattern(0.2, 1), layout, DEVICE)
    out, _ = sparge(q, k, v, plan, 0.1, False)
    assert relative_rms(out, reference_attention(q, k, v, plan, 0.1)) <= TOLERANCE


def test_lists_per_head(sparge):
    layout = LAYOUTS["both"]
    q, k, v = draw("normal", layout, (2, 2, 128), HALF, DEVICE)
    plan = plan_of(layout, 2, 128)
    out, _ = sparge(q, k, v, plan, 0.1, False)
    assert relative_rms(out, reference_attention(q, k, v, plan, 0.1)) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in HARD if HALF in HARD[name].dtypes])
def test_hard_inputs_stay_finite(sparge, name):
    layout = LAYOUTS["both"]
    q, k, v = draw(name, layout, (1, 2, 128), HALF, DEVICE)
    out, _ = sparge(q, k, v, make_plan(RadialPattern(0.2), layout, DEVICE), 128**-0.5, False)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", ["normal", "channel biases", "large v, 1e6", "zeros"])
def test_dense(name):
    if reason := sageattention.why_not_dense(CALL):
        pytest.skip(reason)
    layout = LAYOUTS["both"]
    q, k, v = draw(name, layout, (2, 2, 128), HALF, DEVICE)
    everything = make_plan(RadialPattern(0.2, layout.frames), layout, DEVICE)
    truth = reference_attention(q, k, v, everything, 128**-0.5)
    assert error_of(name, sageattention.dense(q, k, v, 128**-0.5), truth) <= TOLERANCE
