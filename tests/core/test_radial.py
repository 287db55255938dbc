import random

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.masks.radial import block_map_by_tokens, token_mask


def seeds(quick, all_of_them):
    """Numbers for a test, of which those beyond the first are slow."""
    more = (pytest.param(seed, marks=pytest.mark.slow) for seed in range(quick, all_of_them))
    return pytest.mark.parametrize("seed", [*range(quick), *more])


def draw(seed):
    """Settings of one case whose frames are whole blocks, drawn anew from the seed."""
    rng = random.Random(seed)
    frames = rng.randint(1, 40)
    height, width = 8 * rng.randint(1, 4), 16 * rng.randint(1, 3 if frames > 12 else 8)
    decay = rng.choice([0.2, 0.5, 0.8, 0.95, 1.0, rng.uniform(0.01, 4.0), 4.0])
    sink = rng.choice([0, 1, 2, rng.randint(0, frames)])
    return VideoLayout(frames, height, width), RadialPattern(decay, sink, rng.choice([64, 128]))


@seeds(60, 240)
def test_equals_the_rule_of_tokens_on_whole_block_frames(seed):
    layout, pattern = draw(seed)
    expected = block_map_by_tokens(layout, pattern)
    assert torch.equal(make_plan(pattern, layout).block_mask(), expected)


WHOLE = [  # settings of the authors, and the share that the released code keeps
    ("hunyuan 117 f 768p", (30, 48, 80), 0.95, 0, 27.46),
    ("wan 69 f 768p", (18, 48, 80), 0.2, 1, 28.71),
    ("wan 161 f 768p", (41, 48, 80), 1.0, 1, 26.39),
]
STRADDLING = [
    ("wan 81 f 720p", (21, 45, 80), 0.2, 1, 26.2),
    ("hunyuan 253 f 720p", (64, 45, 80), 1.0, 1, 19.17),
    ("hunyuan 509 f 720p", (128, 45, 80), 1.0, 1, 11.63),
    ("mochi 331 f", (56, 30, 53), 1.0, 1, 23.59),
    ("mochi 667 f", (112, 30, 53), 1.0, 1, 14.41),
]


@pytest.mark.parametrize("name, grid, decay, sink, percent", WHOLE, ids=[c[0] for c in WHOLE])
def test_density_where_frames_are_whole_blocks(name, grid, decay, sink, percent):
    plan = make_plan(RadialPattern(decay, sink), VideoLayout(*grid, suffix=256))
    assert abs(100 * plan.video_density - percent) < 0.1


@pytest.mark.parametrize(
    "name, grid, decay, sink, percent", STRADDLING, ids=[c[0] for c in STRADDLING]
)
def test_density_where_frames_straddle_blocks(name, grid, decay, sink, percent):
    plan = make_plan(RadialPattern(decay, sink), VideoLayout(*grid))
    assert percent - 0.05 <= 100 * plan.video_density <= percent + 2


def odd_layout(rng, frames=None):
    frames = frames or rng.randint(1, 24)
    return VideoLayout(
        frames,
        rng.randint(1, 30),
        rng.randint(1, 30),
        prefix=rng.choice([0, 0, 1, 63, 128, rng.randint(0, 300)]),
        suffix=rng.choice([0, 0, 1, 77, 256, rng.randint(0, 300)]),
    )


@seeds(25, 60)
def test_a_token_keeps_its_own_place_in_every_frame_the_rule_keeps(seed):
    rng = random.Random(seed)
    layout = odd_layout(rng)
    s, size = layout.tokens_per_frame, rng.choice([64, 128])
    pattern = RadialPattern(rng.choice([0.05, 0.2, 1.0]), rng.randint(0, 3), size)
    mask = make_plan(pattern, layout).block_mask()
    place = torch.arange(s)
    for i in range(layout.frames):
        for j in range(layout.frames):
            if j < pattern.sink_frames or token_mask(abs(i - j), s, pattern).any():
                query = (layout.prefix + i * s + place) // size
                key = (layout.prefix + j * s + place) // size
                assert mask[query, key].all(), (layout, pattern, i, j)


@seeds(25, 60)
def test_keeps_no_block_beyond_the_rule(seed):
    """A kept block holds a pair of tokens of two kept frames, whose blocks' places are in reach."""
    rng = random.Random(seed)
    layout = odd_layout(rng, frames=rng.randint(1, 8))
    s, size = layout.tokens_per_frame, rng.choice([64, 128])
    pattern = RadialPattern(rng.choice([0.05, 0.5, 1.0]), rng.randint(0, 2), size)
    token = torch.arange(layout.tokens)
    other = (token < layout.prefix) | (token >= layout.prefix + layout.video_tokens)
    blocks = -(-layout.tokens // size)

    expected = torch.zeros(blocks, blocks, dtype=torch.bool)
    expected[token[other] // size] = True
    expected[:, token[other] // size] = True
    for p in range(blocks):
        for q in range(blocks):
            for i in frames_in(layout, p, size):
                for j in frames_in(layout, q, size):
                    reach = pattern.reach(abs(i - j), s)
                    if j < pattern.sink_frames:
                        reach = s + size
                    apart = (p * size - i * s) - (q * size - j * s)
                    expected[p, q] |= reach is not None and abs(apart) <= reach
    assert torch.equal(make_plan(pattern, layout).block_mask(), expected)


def frames_in(layout, block, size):
    video = range(
        max(block * size - layout.prefix, 0),
        min((block + 1) * size - layout.prefix, layout.video_tokens),
    )
    return sorted({t // layout.tokens_per_frame for t in video})


@pytest.mark.parametrize("seed", range(40))
def test_more_decay_or_sink_never_drops_a_block(seed):
    rng = random.Random(seed)
    layout, size = odd_layout(rng), rng.choice([64, 128])
    less, more = sorted(rng.uniform(0.01, 4.0) for _ in range(2))
    few, many = sorted(rng.randint(0, layout.frames) for _ in range(2))
    mask = make_plan(RadialPattern(less, few, size), layout).block_mask()
    for decay, sink in ((more, few), (less, many)):
        assert not (mask & ~make_plan(RadialPattern(decay, sink, size), layout).block_mask()).any()
    assert mask.any(dim=1).all()


@pytest.mark.parametrize("seed", range(10))
def test_other_tokens_are_dense_both_ways_and_a_full_sink_keeps_everything(seed):
    layout = odd_layout(random.Random(seed))
    pattern = RadialPattern(0.2, 0, 64)
    mask = make_plan(pattern, layout).block_mask()
    prefix = range(0, -(-layout.prefix // 64))
    suffix = range((layout.prefix + layout.video_tokens) // 64, len(mask)) if layout.suffix else []
    for block in (*prefix, *suffix):
        assert mask[block].all() and mask[:, block].all()
    assert make_plan(RadialPattern(0.2, layout.frames, 64), layout).density == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"decay": 0}, r"decay must be in \(0, 4\], got 0"),
        ({"decay": -1}, "got -1"),
        ({"decay": float("nan")}, "got nan"),
        ({"decay": 4.5}, "got 4.5"),
        ({"decay": "wide"}, "got 'wide'"),
        ({"sink_frames": -1}, "sink_frames must be a whole number from 0 up, got -1"),
        ({"sink_frames": 1.5}, "got 1.5"),
        ({"block_size": 96}, "block_size must be 64 or 128, got 96"),
    ],
)
def test_refuses_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RadialPattern(**settings)


@pytest.mark.parametrize("size", [(0, 4, 4), (1, 0, 4), (1, 4, -1), (1, 4, 4, -1), (1.0, 4, 4)])
def test_refuses_impossible_layouts(size):
    with pytest.raises(ValueError, match="must be a whole number"):
        VideoLayout(*size)
