"""Rows of the block map against the whole of it."""

import math
import random

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, make_plan, mask_sample
from radial_core.mask_sample import sample


def odd_case(seed):
    rng = random.Random(seed)
    layout = VideoLayout(
        rng.randint(1, 40),
        rng.randint(1, 20),
        rng.randint(1, 20),
        prefix=rng.choice([0, 0, 1, 63, 128, rng.randint(0, 300)]),
        suffix=rng.choice([0, 0, 1, 77, 256, rng.randint(0, 300)]),
    )
    pattern = RadialPattern(
        rng.choice([0.05, 0.2, 1.0, 3.0]), rng.randint(0, 4), rng.choice([64, 128])
    )
    return pattern, layout


# Many frames of few tokens: then only the frames at a kept distance are looked at.
LONG = [
    (RadialPattern(1.0, 1), VideoLayout(300, 3, 5)),
    (RadialPattern(0.2, 0, 64), VideoLayout(90, 8, 9, prefix=100)),
    (RadialPattern(0.5, 400), VideoLayout(300, 7, 9, suffix=10)),
    (RadialPattern(1.0, 2), VideoLayout(700, 1, 1)),
]
CASES = [*(odd_case(seed) for seed in range(60)), *LONG]


def drawn(rows):
    """How often each block of the map is in a run."""
    times = torch.zeros(rows.blocks, rows.blocks, dtype=torch.int)
    for runs in rows.runs:
        for stratum, first, last in zip(*(x.tolist() for x in runs), strict=True):
            top, bottom = rows.edges[stratum : stratum + 2].tolist()
            times[top:bottom, first : last + 1] += 1
    return times


def averaged(mask, side):
    """A block map as a picture, pixel by pixel: the mean of the area under each."""
    share = torch.zeros(side, len(mask), dtype=torch.float64)
    for i in range(side):
        top, bottom = i * len(mask) / side, (i + 1) * len(mask) / side
        for block in range(int(top), min(math.ceil(bottom), len(mask))):
            share[i, block] = max(0, min(bottom, block + 1) - max(top, block))
    share *= side / len(mask)
    return (share @ mask.double() @ share.T).float()


@pytest.mark.parametrize("pattern, layout", CASES)
def test_all_rows_are_the_block_map(pattern, layout):
    plan, rows = make_plan(pattern, layout), sample(pattern, layout)
    assert rows.exact
    assert torch.equal(drawn(rows), plan.block_mask().int())
    assert rows.density == pytest.approx(plan.density)


@pytest.mark.parametrize("side", [7, 64, 100])
@pytest.mark.parametrize("pattern, layout", CASES[::4])
def test_the_picture_is_the_mean_of_the_area_under_each_pixel(pattern, layout, side):
    expected = averaged(make_plan(pattern, layout).block_mask(), side)
    assert torch.allclose(sample(pattern, layout).coverage(side), expected, atol=1e-5)


@pytest.mark.parametrize(
    "pattern, layout",
    [
        (RadialPattern(0.2, 1), VideoLayout(21, 45, 80)),
        (RadialPattern(0.95, 0), VideoLayout(33, 45, 80, prefix=256)),
        (RadialPattern(1.0, 1), VideoLayout(128, 30, 53, suffix=256)),
        (RadialPattern(1.0, 1, 64), VideoLayout(200, 12, 20)),
        (RadialPattern(1.0, 2), VideoLayout(1500, 5, 6)),
    ],
)
@pytest.mark.parametrize("most_rows", [60, 200])
def test_some_rows_are_nearly_it(monkeypatch, pattern, layout, most_rows):
    monkeypatch.setattr(mask_sample, "MOST_ROWS", most_rows)
    plan, rows = make_plan(pattern, layout), sample(pattern, layout)
    assert not rows.exact
    assert rows.density == pytest.approx(plan.density, rel=0.01)
    whole = averaged(plan.block_mask(), 20)
    assert (rows.coverage(20) - whole).square().mean().sqrt() < 0.05


def test_a_very_long_video_has_few_runs():
    """25,000 latent frames at 4K: 6.3 million rows of 6.3 million blocks."""
    rows = sample(RadialPattern(1.0, 1), VideoLayout(25_000, 135, 240))
    assert not rows.exact
    assert sum(len(first) for _, first, _ in rows.runs) <= mask_sample.MOST_RUNS
    assert 0.001 < rows.density < 0.002
    coverage = rows.coverage(64)
    assert coverage.diagonal().min() > 5 * coverage[0, 1:].mean()
