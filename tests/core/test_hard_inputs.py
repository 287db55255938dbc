"""The hard inputs tell a kernel that rounds as it should from one that has a fault."""

import fake_int8
import pytest
import torch
from hard_inputs import (
    BAR,
    HARD,
    draw,
    draw_loud_token,
    error_of,
    errors_of_loud_token,
    in_few_channels,
    relative_rms,
)

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.backends import reference as oracle
from radial_core.reference import reference_attention, reference_lse

LAYOUT = VideoLayout(12, 6, 9, prefix=3, suffix=1)
SPARSE = VideoLayout(12, 8, 12)
SHAPE = (1, 2, 128)
HELD = [name for name, hard in HARD.items() if hard.bound is not None]


def error(name, run, dtype=torch.bfloat16):
    q, k, v = draw(name, LAYOUT, SHAPE, dtype)
    plan = make_plan(RadialPattern(0.2, 0, 128), LAYOUT)
    out, _ = run(q, k, v, plan, 128**-0.5, False)
    assert out.isfinite().all()
    return error_of(name, out, reference_attention(q, k, v, plan))


@pytest.mark.parametrize("name", HARD)
def test_correct_rounding_passes(name):
    for dtype in HARD[name].dtypes:
        rounded, exact = (error(name, run, dtype) for run in (fake_int8.backend().run, oracle.run))
        assert HARD[name].bound is None or rounded <= HARD[name].bound
        assert exact <= 4e-3 or name == "denormals"  # of which few digits are left


@pytest.mark.parametrize(
    "fault, found_by",
    [
        ({"centred": False}, {"a key bias of 10"}),
        ({"rotated": False}, {"70 % of K in 4 channels"}),
    ],
    ids=str,
)
def test_a_fault_is_found(fault, found_by):
    run = fake_int8.backend(**fault).run
    assert found_by <= {name for name in HELD if error(name, run) > BAR}


def errors_of_one_loud_token(**how):
    q, k, v = draw_loud_token(SPARSE, SHAPE, torch.bfloat16)
    plan = make_plan(RadialPattern(0.2, 0, 64), SPARSE)
    out, _ = fake_int8.backend(**how).run(q, k, v, plan, 128**-0.5, False)
    return errors_of_loud_token(out, reference_attention(q, k, v, plan), q, k, v, plan)


def test_a_loud_token_costs_only_the_blocks_that_attend_to_it():
    assert max(errors_of_one_loud_token()) <= BAR
    assert errors_of_one_loud_token(values_by_block=False)[0] > 5 * BAR


def test_the_lse_of_correct_rounding():
    q, k, v = draw("a key bias of 10", LAYOUT, SHAPE, torch.float16)
    plan = make_plan(RadialPattern(0.2, 0, 128), LAYOUT)
    _, lse = fake_int8.backend().run(q, k, v, plan, 128**-0.5, True)
    assert (lse - reference_lse(q, k, plan)).square().mean().sqrt() < BAR


def test_four_channels_get_their_share_of_the_energy():
    k, channels = torch.ones(1, 5, 2, 128), torch.tensor([3, 50, 51, 127])
    for keep_energy in (True, False):
        energy = in_few_channels(k, channels, keep_energy).square().mean(dim=(0, 1, 2))
        assert (energy[channels].sum() / energy.sum()).item() == pytest.approx(0.7)
        assert (energy.sum() == pytest.approx(128)) == keep_energy


def test_an_output_that_is_not_finite_has_no_error_of_0():
    assert relative_rms(torch.zeros(3), torch.zeros(3)) == 0
    assert not relative_rms(torch.full((3,), torch.nan), torch.ones(3)) <= BAR
    assert not relative_rms(torch.ones(3), torch.zeros(3)) <= BAR
