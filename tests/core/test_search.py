"""The search on made-up measurements, for which the right settings are known."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.estimate import ModelSize, estimate
from radial_core.measure import CallMeasurement
from radial_core.measurements import MeasuredCall, Measurements
from radial_core.search import (
    all_settings,
    current_setting,
    largest_speedup,
    pareto_front,
    setting,
    smallest_error,
)

LAYOUT = VideoLayout(21, 16, 32)
BLOCKS = 8
DECAYS, SINKS = (0.2, 0.5, 1.0, 4.0), (0, 1)
PATTERNS = tuple(RadialPattern(d, s) for s in SINKS for d in DECAYS)
DENSITIES = tuple(make_plan(pattern, LAYOUT).density for pattern in PATTERNS)
SIZE = ModelSize(blocks=BLOCKS, heads=12, head_dim=128, linear_flops=3e8)


BUDGETS = (1.0, 0.67, 0.5)
ADAPTIVE_DENSITIES = tuple(budget * DENSITIES[4] for budget in BUDGETS)


def made_up(error, steps=(3, 6), blocks=range(BLOCKS), adaptive=None, budget=None):
    """Measurements with error(pattern, step, block), and maybe adaptive(budget, step, block)."""
    budgets = () if adaptive is None else BUDGETS
    calls = []
    for step in steps:
        for block in blocks:
            errors = tuple(error(pattern, step, block) for pattern in PATTERNS)
            errors += tuple(adaptive(budget, step, block) for budget in budgets)
            shares = tuple(1 - e for e in errors)
            distances = tuple(1 / (1 + d) / 21 for d in range(21))
            reading = CallMeasurement(errors, shares, shares, shares, distances)
            calls.append(MeasuredCall(step, block, reading))
    densities = DENSITIES + (ADAPTIVE_DENSITIES if budgets else ())
    fields = SIZE, LAYOUT, 9, PATTERNS, densities, 4, 1, "nobody", tuple(calls)
    # As measurements of older versions: without the fields for adaptive lists.
    return Measurements(*fields, budgets, budget) if budgets else Measurements(*fields)


def smooth(pattern, step, block):
    return 0.1 / pattern.decay * (0.5 if pattern.sink_frames else 1) * (10 - step) / 10


def test_the_error_of_a_setting_is_the_rms_over_blocks_and_steps():
    m = made_up(lambda pattern, step, block: (1 + block) * step / 100)
    squares = {
        block: sum(((1 + block) * step / 100) ** 2 for step in (3, 6)) / 2
        for block in range(BLOCKS)
    }
    for dense in range(BLOCKS + 1):
        expected = math.sqrt(sum(squares[b] for b in range(dense, BLOCKS)) / BLOCKS)
        assert m.error(0, dense) == pytest.approx(expected)
    assert m.error(0, BLOCKS) == 0
    assert m.by_block(0)[3] == pytest.approx(math.sqrt(squares[3]))
    assert m.by_step(0)[6] / m.by_step(0)[3] == pytest.approx(2)


def test_unmeasured_blocks_are_interpolated():
    def error(pattern, step, block):
        return math.sqrt(block + 1)

    m = made_up(error, blocks=(1, 5))
    squares = [2, 2, 3, 4, 5, 6, 6, 6]
    for dense in range(BLOCKS + 1):
        assert m.error(2, dense) == pytest.approx(math.sqrt(sum(squares[dense:]) / BLOCKS))
    assert set(m.by_block(2)) == {1, 5}


def test_the_speed_of_a_setting_is_the_estimate():
    m = made_up(smooth)
    one = setting(m, 5, 2)
    times = estimate(SIZE, LAYOUT.tokens, DENSITIES[5], 2)
    assert (one.decay, one.sink_frames, one.dense_blocks) == (0.5, 1, 2)
    assert one.speedup == times.step_speedup > 1
    assert one.attention_speedup == times.attention_speedup > one.speedup
    assert current_setting(m) == setting(m, 4, 1)


def test_every_pattern_with_up_to_half_of_the_blocks_dense():
    settings = all_settings(made_up(smooth))
    assert len({(x.decay, x.sink_frames, x.dense_blocks) for x in settings}) == len(settings)
    assert len(settings) == len(PATTERNS) * (BLOCKS // 2 + 1)


@pytest.mark.parametrize("best", range(len(PATTERNS)), ids=str)
@pytest.mark.parametrize("dense", [0, 2])
def test_finds_the_only_setting_within_an_error(best, dense):
    """One pattern is good if the first blocks, which are bad in all patterns, are dense."""

    def error(pattern, step, block):
        return 0.01 if pattern == PATTERNS[best] and block >= dense else 0.6

    settings = all_settings(made_up(error))
    chosen, reached = largest_speedup(settings, 0.05)
    assert reached and chosen.error <= 0.05
    pattern = PATTERNS[best]
    assert (chosen.decay, chosen.sink_frames) == (pattern.decay, pattern.sink_frames)
    assert chosen.dense_blocks == dense


def test_the_fastest_within_an_error_and_the_most_exact_at_a_speed():
    settings = all_settings(made_up(smooth))
    speeds = sorted(each.speedup for each in settings)
    for limit in (0.03, 0.1, 0.3):
        chosen, reached = largest_speedup(settings, limit)
        within = [each for each in settings if each.error <= limit]
        assert reached and chosen in within
        assert chosen.speedup == max(each.speedup for each in within)
    for limit in (speeds[5], speeds[20], speeds[-5]):
        chosen, reached = smallest_error(settings, limit)
        within = [each for each in settings if each.speedup >= limit]
        assert reached and chosen in within
        assert chosen.error == min(each.error for each in within)


def test_of_equally_fast_settings_the_more_exact_and_of_those_the_fewer_dense_blocks():
    one = setting(made_up(smooth), 0, 1)
    others = [replace(one, error=one.error / 2, dense_blocks=n) for n in (3, 2)]
    assert largest_speedup([one, *others], 1)[0] == others[1]


def test_an_unreachable_target_gives_the_best_setting():
    settings = all_settings(made_up(smooth))
    chosen, reached = largest_speedup(settings, 1e-6)
    assert not reached and chosen.error == min(each.error for each in settings)
    chosen, reached = smallest_error(settings, 100)
    assert not reached and chosen.speedup == max(each.speedup for each in settings)


def test_nothing_beats_the_front():
    settings = all_settings(made_up(smooth))
    best = pareto_front(settings)
    assert all(a.speedup > b.speedup and a.error > b.error for a, b in pairwise(best))
    for each in settings:
        assert any(x.speedup >= each.speedup and x.error <= each.error for x in best)


def test_adaptive_lists_are_settings_like_others():
    m = made_up(smooth, adaptive=lambda budget, step, block: 0.03 / budget)
    settings = all_settings(m)
    assert len(settings) == (len(PATTERNS) + len(BUDGETS)) * (BLOCKS // 2 + 1)
    one = setting(m, m.adaptive(0.67), 1)
    times = estimate(SIZE, LAYOUT.tokens, 0.67 * DENSITIES[4], 1)
    assert (one.decay, one.sink_frames, one.budget) == (0.2, 1, 0.67)
    assert one.speedup == times.step_speedup > current_setting(m).speedup
    assert one.error == pytest.approx(0.03 / 0.67 * (7 / 8) ** 0.5)
    chosen, reached = largest_speedup(settings, 0.07)
    assert reached and (chosen.budget, chosen.dense_blocks) == (0.5, 0)


def test_adaptive_lists_that_are_no_better_are_not_chosen():
    def same(budget, step, block):
        return smooth(PATTERNS[4], step, block) / budget

    every = all_settings(made_up(smooth, adaptive=same))
    now = setting(made_up(smooth), 4, 0)
    settings = [each for each in every if (each.decay, each.sink_frames) == (0.2, 1)]
    assert largest_speedup(settings, now.error)[0].budget is None
    assert smallest_error(settings, now.speedup)[0].budget is None


def test_the_lists_of_the_run():
    for budget, expected in ((None, None), (0.67, 0.67), (0.9, None)):  # 0.9 was not measured
        m = made_up(smooth, adaptive=lambda budget, step, block: 0.03, budget=budget)
        now = current_setting(m)
        assert (now.decay, now.sink_frames, now.budget) == (0.2, 1, expected)


def test_measurements_as_json():
    data = json.loads(made_up(smooth).as_json())
    assert data["layout"]["frames"] == 21 and data["size"]["blocks"] == BLOCKS
    assert data["patterns"][4] == {"decay": 0.2, "sink_frames": 1, "block_size": 128}
    assert data["calls"][0]["step"] == 3
    assert data["calls"][0]["reading"]["error"][0] == pytest.approx(0.35)
    assert data["densities"] == pytest.approx(DENSITIES, rel=1e-3)


def test_means_over_the_measured_calls():
    m = made_up(smooth)
    assert m.coverage(0) == pytest.approx(1 - 0.5 * (0.7 + 0.4) / 2)
    assert m.by_distance()[1] == pytest.approx(1 / 42)
    assert m.measured_steps == (3, 6) and m.sinks == SINKS and m.decays == DECAYS
    assert m.index(0.5, 1) == 5 and m.index(0.3, 1) is None
