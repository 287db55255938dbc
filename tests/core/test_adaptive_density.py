"""The density that the preview has of adaptive lists against that of the lists themselves."""

import random
import time

import pytest

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.adaptive.choice import rows_of
from radial_core.adaptive.density import density
from radial_core.mask_sample import sample


def odd_case(seed):
    rng = random.Random(seed)
    layout = VideoLayout(
        *(rng.randint(1, most) for most in (30, 40, 40)),
        prefix=rng.choice([0, 0, 1, 63, 128, 300]),
        suffix=rng.choice([0, 0, 1, 77, 256]),
    )
    return RadialPattern(rng.choice([0.05, 0.5, 2.0]), rng.randint(0, 2), 64), layout


@pytest.mark.parametrize("budget", [0.05, 0.67, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(24))
def test_it_is_that_of_the_lists(seed, budget):
    pattern, layout = odd_case(seed)
    real = rows_of(make_plan(pattern, layout), budget).density
    told = density(sample(pattern, layout), layout, pattern.block_size, budget)
    assert told == real


def test_a_very_long_video_takes_a_moment():
    layout = VideoLayout(25_000, 135, 240, prefix=256)
    rows, start = sample(RadialPattern(1.0, 1), layout), time.perf_counter()
    assert density(rows, layout, 128, 0.5) == pytest.approx(rows.density / 2, rel=0.01)
    assert time.perf_counter() - start < 1
