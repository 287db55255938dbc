import pytest

from radial_core import Schedule
from radial_core.schedule import step_of

SIGMAS = [1.0, 0.9, 0.75, 0.5, 0.0]


def dense_steps(schedule, sigmas):
    return [schedule.is_dense_step(sigmas, step_of(sigmas, sigma)) for sigma in sigmas[:-1]]


def test_first_and_last_steps():
    assert dense_steps(Schedule(0, 0), SIGMAS) == [False] * 4
    assert dense_steps(Schedule(1, 0), SIGMAS) == [True, False, False, False]
    assert dense_steps(Schedule(1, 2), SIGMAS) == [True, False, True, True]
    assert dense_steps(Schedule(9, 9), SIGMAS) == [True] * 4


def test_a_slice_that_ends_early_has_no_last_steps():
    high, low = SIGMAS[:3], SIGMAS[2:]
    assert dense_steps(Schedule(1, 1), high) == [True, False]
    assert dense_steps(Schedule(0, 1), low) == [False, True]


def test_one_step():
    assert dense_steps(Schedule(1, 0), [1.0, 0.0]) == [True]
    assert dense_steps(Schedule(0, 1), [1.0, 0.0]) == [True]
    assert dense_steps(Schedule(0, 0), [1.0, 0.0]) == [False]


@pytest.mark.parametrize("sigmas, sigma", [(None, 0.5), ([], 0.5), ([0.5], 0.5), (SIGMAS, None)])
def test_no_schedule_is_radial(sigmas, sigma):
    assert step_of(sigmas, sigma) is None
    assert not Schedule(5, 5, 1).is_dense_step(sigmas, None)


@pytest.mark.parametrize(
    "sigma, step",
    [
        (1.3, 0),  # churned above the first
        (1.0, 0),
        (0.95, 0),  # the midpoint of dpm_2
        (0.9001, 1),  # rounded up on its way through log sigma
        (0.9, 1),
        (0.8999, 1),
        (0.75, 2),
        (0.001, 3),  # which uni_pc uses for zero
        (0.0, 3),
    ],
)
def test_a_sigma_belongs_to_the_step_it_falls_in(sigma, step):
    assert step_of(SIGMAS, sigma) == step


def test_rising_schedules_count_from_their_start():
    assert [step_of(SIGMAS[::-1], s) for s in (0.0, 0.2, 0.5, 0.8, 0.95)] == [0, 0, 1, 2, 3]


def test_blocks():
    schedule = Schedule(dense_blocks=2)
    assert [schedule.is_dense_block(i) for i in (0, 1, 2, None)] == [True, True, False, False]


@pytest.mark.parametrize("name", ["dense_steps", "dense_last_steps", "dense_blocks"])
@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number from 0 up, got"):
        Schedule(**{name: value})
