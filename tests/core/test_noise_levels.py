import pytest

from radial_core.noise_levels import even_levels, is_whole, noise_levels, without_jump


def shifted(shift):
    """The sigma of a flow model where so much of its schedule is over."""
    return lambda over: shift * (1 - over) / (1 + (shift - 1) * (1 - over))


@pytest.mark.parametrize("shift", [1, 3, 8, 12])
def test_levels_are_the_share_still_to_come(shift):
    levels = [1.0, 0.75, 0.5, 0.02, 0.0]
    sigmas = [shifted(shift)(1 - level) for level in levels]
    assert noise_levels(sigmas, shifted(shift)) == pytest.approx(levels, abs=1e-6)
    assert noise_levels([1.5, 0.0], shifted(shift)) == pytest.approx([1, 0], abs=1e-6)


@pytest.mark.parametrize("sigmas", [None, [], [0.5]])
def test_no_schedule(sigmas):
    assert noise_levels(sigmas, shifted(8)) is None and even_levels(sigmas) is None
    assert without_jump(None) is None and is_whole(None)


def test_even_levels_are_a_whole_run():
    assert even_levels([14.6, 3.0, 1.0, 0.2, 0.0]) == [1, 0.75, 0.5, 0.25, 0]
    assert is_whole(even_levels([14.6, 3.0]))


@pytest.mark.parametrize(
    "levels, ends",
    [
        ([1, 0.75, 0], 0.5),  # 2 of 4 steps
        ([1, 0.9, 0.8, 0.7, 0], 0.6),
        ([1, 0.98, 0.9, 0.75, 0], 0.6),  # beta: steps that grow
        ([0.75, 0.625, 0], 0.5),  # the second of three samplers
        ([1, 0.7, 0.15, 0.1, 0], 0),  # no jump: karras
        ([1, 0.667, 0.333, 0], 0),
        ([1, 0.8, 0.6, 0.4, 0], 0),  # no jump: uni_pc
        ([1, 0.75, 0.5], 0.5),  # hands over
        ([0, 0.5, 1], 1),  # rises
        ([1, 0], 0),
    ],
)
def test_a_jump_ends_where_an_even_step_would(levels, ends):
    assert without_jump(levels) == pytest.approx([*levels[:-1], ends])


@pytest.mark.parametrize(
    "levels, whole",
    [
        ([1, 0.5, 0], True),
        ([0.985, 0.5, 0], True),
        ([1, 0.5, 0.25], False),
        ([0.833, 0.667, 0.5, 0.333, 0.167, 0], False),  # 1 to 6 of 6
        ([0.751, 0.501, 0.251, 0.001, 0], True),  # ddim_uniform
        ([0.25, 0], False),
        ([0, 0.5, 1], False),
    ],
)
def test_whole_runs_start_at_noise_and_end_clean(levels, whole):
    assert is_whole(levels) == whole
