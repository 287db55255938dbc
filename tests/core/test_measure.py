"""Coverage and error of real calls, compared with the oracle row by row."""

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.adaptive.lists import look
from radial_core.adaptive.repair import RIDGE, ROWS, exact_rows, repair
from radial_core.adaptive.sample import repair_by_halves, sample_lists
from radial_core.measure import choose_rows, measure
from radial_core.reference import reference_attention

ALL = 10**6  # more tokens than there are
LAYOUTS = {
    "straddling frames": VideoLayout(7, 5, 9),
    "prefix": VideoLayout(7, 8, 9, prefix=77),
    "prefix and suffix": VideoLayout(9, 9, 11, prefix=13, suffix=60),
    "whole blocks": VideoLayout(6, 8, 16),
    "frames smaller than a block": VideoLayout(40, 3, 5, suffix=7),
    "one frame": VideoLayout(1, 9, 9, prefix=3),
}


def patterns_of(block_size, decays=(0.1, 0.5, 1.0), sinks=(0, 1)):
    return [RadialPattern(d, s, block_size) for d in decays for s in sinks]


def local_call(layout, heads=2, head_dim=16, dtype=torch.float64, seed=0):
    """q, k, v (s, h, d) whose attention falls off in time, at a different rate for each head."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, layout.tokens, heads, head_dim, generator=generator).double().unbind()
    time = torch.arange(layout.tokens).double()[:, None] / layout.tokens_per_frame
    rate = 0.3 + torch.arange(heads) / heads
    for x in (q, k):
        x[..., 0] = 4 * torch.cos(time * rate)
        x[..., 1] = 4 * torch.sin(time * rate)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def truth(q, k, v, layout, pattern, scale=None):
    """The oracle's error, coverage of each head, and mass at each distance."""
    return truth_of_plan(q, k, v, make_plan(pattern, layout), scale)


def by_halves(sparse, dense):
    """The outputs (rows, h, d), each half repaired by least squares over rows of the other."""
    result = sparse.clone()
    for head in range(sparse.shape[1]):
        for own, other in ((0, 1), (1, 0)):
            rows = 2 * exact_rows(0, (len(sparse) + 1) // 2, torch.device("cpu")) + other
            rows = rows[rows < len(sparse)]
            found, full = sparse[rows, head], dense[rows, head]
            ridge = (RIDGE * found.square().sum(dim=0)).sqrt()  # of each channel
            left = torch.cat((found, ridge.diag()))
            right = torch.cat((full - found, torch.zeros(found.shape[1], found.shape[1]).double()))
            result[own::2, head] += sparse[own::2, head] @ torch.linalg.lstsq(left, right).solution
    return result


def truth_of_plan(q, k, v, plan, scale=None, repaired=lambda sparse, dense: sparse):
    layout, block_size = plan.layout, plan.block_size
    everything = make_plan(RadialPattern(4.0, layout.frames, block_size), layout)
    assert everything.density == 1
    video = slice(layout.prefix, layout.prefix + layout.video_tokens)
    ours, dense = (
        reference_attention(q[None], k[None], v[None], p, scale)[0, video]
        for p in (plan, everything)
    )
    error = ((repaired(ours, dense) - dense).norm() / dense.norm()).item()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mass = torch.einsum("qhd,khd->hqk", q.double(), k.double()).mul(scale).softmax(-1)[:, video]
    block = torch.arange(layout.tokens) // block_size
    keep = plan.block_mask()[..., block[video, None], block]
    coverage = (mass * keep).sum(-1).mean(1)
    frame = torch.arange(layout.video_tokens) // layout.tokens_per_frame
    frames = mass.mean(0)[:, video] @ torch.nn.functional.one_hot(frame).double()
    distance = (frame[:, None] - torch.arange(layout.frames)).abs()
    by_distance = [frames[distance == d].mean().item() for d in range(layout.frames)]
    return error, coverage, by_distance


@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_row_against_the_oracle(layout, block_size):
    q, k, v = local_call(layout)
    patterns = patterns_of(block_size)
    rows = choose_rows(layout, patterns, ALL)
    reading = measure(q, k, v, rows)
    for i, pattern in enumerate(patterns):
        error, coverage, by_distance = truth(q, k, v, layout, pattern)
        assert reading.error[i] == pytest.approx(error, rel=1e-9, abs=1e-12)
        assert reading.coverage[i] == pytest.approx(coverage.mean().item(), rel=1e-9)
        assert reading.worst_head[i] == pytest.approx(coverage.min().item(), rel=1e-9)
        assert reading.median_head[i] == pytest.approx(coverage.quantile(0.5).item(), rel=1e-9)
        assert reading.by_distance == pytest.approx(by_distance, rel=1e-9)
        assert rows.densities[i] == make_plan(pattern, layout).density
    assert (reading.error[0] > 0.01) == (rows.densities[0] < 1)  # the mask matters


BUDGETS = (1.0, 0.6)


@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_adaptive_lists_are_those_of_a_look(layout, block_size):
    q, k, v = local_call(layout)
    patterns = patterns_of(block_size)
    rows = choose_rows(layout, patterns, ALL)
    lists = sample_lists(layout, patterns[2], rows.tokens, BUDGETS)
    reading = measure(q, k, v, rows, 0.7, lists=lists)
    alone = measure(q, k, v, rows, 0.7)
    assert reading.error[: len(patterns)] == pytest.approx(alone.error, rel=1e-9, abs=1e-12)
    assert reading.by_distance == pytest.approx(alone.by_distance, rel=1e-9)
    for i, budget in enumerate(BUDGETS):
        plan = look(q, k, make_plan(patterns[2], layout), budget, 0.7).plan()
        error, coverage, _ = truth_of_plan(q, k, v, plan, 0.7, by_halves)
        place = len(patterns) + i
        assert reading.error[place] == pytest.approx(error, rel=1e-9, abs=1e-12)
        assert reading.coverage[place] == pytest.approx(coverage.mean().item(), rel=1e-9)
        assert reading.worst_head[place] == pytest.approx(coverage.min().item(), rel=1e-9)
        assert lists.densities[i] == plan.density


@pytest.mark.parametrize("rows", [2, 77, 5 * ROWS])
def test_each_half_is_repaired_by_the_other(rows):
    generator = torch.Generator().manual_seed(0)
    sparse = torch.randn(rows, 2, 8, generator=generator).double()
    dense = sparse[:, 0] + 0.2 * torch.randn(rows, 8, generator=generator).double()
    expected = [by_halves(x[:, None], dense[:, None])[:, 0] for x in sparse.unbind(1)]
    mine, one = sparse.clone(), sparse[:1].clone()
    repair_by_halves(mine, dense)
    torch.testing.assert_close(mine, torch.stack(expected, dim=1), rtol=1e-9, atol=1e-12)
    repair_by_halves(one, dense[:1])
    assert torch.equal(one, sparse[:1])  # there is nothing to fit


def test_a_linear_loss_is_repaired():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(128, 16, generator=generator)
    mixed = torch.eye(16) + 0.2 * torch.randn(2, 16, 16, generator=generator)
    sparse = torch.stack([dense @ torch.linalg.inv(each) for each in mixed], dim=1)
    mine = sparse.clone()
    repair_by_halves(mine, dense)
    error, before = ((x - dense[:, None]).norm() for x in (mine, sparse))
    assert error < 0.3 * before


def smooth_call(layout, seed, heads=2, head_dim=16):
    """q, k, v (s, h, d) of waves in time and space, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    token = torch.arange(layout.tokens).double()
    frame, pixel = token // layout.tokens_per_frame, token % layout.tokens_per_frame
    place = [frame / layout.frames, pixel // layout.width / layout.height]
    place = torch.stack([*place, pixel % layout.width / layout.width], dim=1)
    waves = 4 * torch.randn(2, 3, heads * head_dim, generator=generator).double()
    start = 6.3 * torch.rand(2, heads * head_dim, generator=generator).double()
    code, v = ((place @ wave + begin).cos() for wave, begin in zip(waves, start, strict=True))
    noise = torch.randn(3, *v.shape, generator=generator).double()
    found = (1.5 * code + 0.5 * noise[0], 1.5 * code + 0.5 * noise[1], v + 0.3 * noise[2])
    return [x.unflatten(1, (heads, head_dim)) for x in found]


def test_the_error_is_near_that_of_a_whole_repaired_output():
    """A little larger with half as many rows to fit as in a run, near it with as many."""
    layout, pattern, seeds = VideoLayout(10, 12, 16), RadialPattern(0.3, 1, 64), range(3)
    true, without, measured = 0.0, 0.0, {ROWS: 0.0, 2 * ROWS: 0.0, 8 * ROWS: 0.0}
    for seed in seeds:
        q, k, v = smooth_call(layout, seed)
        plan = look(q, k, make_plan(pattern, layout), 0.5).plan()
        everything = make_plan(RadialPattern(4.0, 99, 64), layout)
        q, k, v = (x[None] for x in (q, k, v))
        out, dense = (reference_attention(q, k, v, each) for each in (plan, everything))
        without += ((out - dense).norm() / dense.norm()).item() / len(seeds)
        repair(q, k, v, out, slice(0, layout.tokens))
        true += ((out - dense).norm() / dense.norm()).item() / len(seeds)
        for number in measured:
            rows = choose_rows(layout, [pattern], number)
            lists = sample_lists(layout, pattern, rows.tokens, (0.5,))
            error = measure(q[0], k[0], v[0], rows, lists=lists).error[-1]
            measured[number] += error / len(seeds)
    assert true < 0.6 * without
    assert true < measured[ROWS] < 1.2 * true
    assert measured[2 * ROWS] == pytest.approx(true, rel=0.12)
    assert measured[8 * ROWS] == pytest.approx(true, rel=0.06)


def test_a_few_queries_have_the_rows_of_all_lists():
    layout, pattern = LAYOUTS["prefix and suffix"], RadialPattern(0.1, 0, 64)
    q, k, _ = local_call(layout, heads=3)
    rows = choose_rows(layout, [pattern], 5)
    lists = sample_lists(layout, pattern, rows.tokens, BUDGETS)
    assert len(lists.blocks) <= 5 < layout.blocks(64)
    for i, budget in enumerate(BUDGETS):
        whole = look(q, k, make_plan(pattern, layout), budget).plan().block_mask()
        for head in range(3):
            kept = lists.kept(q[:, head], k[:, head], None)[:, i]
            assert torch.equal(kept, whole[head, rows.tokens // 64])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_summed_in_float32(dtype):
    layout, patterns = LAYOUTS["prefix and suffix"], patterns_of(64)
    q, k, v = local_call(layout, dtype=dtype)
    reading = measure(q, k, v, choose_rows(layout, patterns, ALL))
    for i, pattern in enumerate(patterns):
        error, coverage, _ = truth(q, k, v, layout, pattern)
        assert reading.error[i] == pytest.approx(error, rel=1e-4)
        assert reading.coverage[i] == pytest.approx(coverage.mean().item(), rel=1e-5)


def test_a_scale_and_strides():
    layout, patterns = LAYOUTS["straddling frames"], patterns_of(64)
    q, k, v = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in local_call(layout, heads=3))
    assert not q.is_contiguous()
    reading = measure(q, k, v, choose_rows(layout, patterns, ALL), softmax_scale=0.7)
    error, coverage, _ = truth(q, k, v, layout, patterns[0], 0.7)
    assert reading.error[0] == pytest.approx(error, rel=1e-9)
    assert reading.coverage[0] == pytest.approx(coverage.mean().item(), rel=1e-9)


@pytest.mark.parametrize("scratch", [1, 60_000, 300_000])
def test_chunks_of_keys_change_nothing(scratch):
    """With scores in the hundreds, any chunk may have a new maximum."""
    layout, patterns = LAYOUTS["prefix and suffix"], patterns_of(64)
    q, k, v = local_call(layout)
    rows = choose_rows(layout, patterns, 50)
    lists = sample_lists(layout, patterns[0], rows.tokens, BUDGETS)
    whole, chunks = (measure(30 * q, k, v, rows, None, n, lists) for n in (2**28, scratch))
    for name in ("error", "coverage", "worst_head", "median_head", "by_distance"):
        assert getattr(chunks, name) == pytest.approx(getattr(whole, name), rel=1e-9)


def test_large_scores_are_finite():
    """Everything that a mask keeps of a row may underflow; the other rows count."""
    layout, patterns = LAYOUTS["straddling frames"], patterns_of(64)
    q, k, v = local_call(layout, dtype=torch.float32)
    reading = measure(1000 * q, k, v, choose_rows(layout, patterns, ALL))
    assert all(0 <= x < 1.5 for x in reading.error)
    assert all(0 <= x <= 1.00001 for x in reading.coverage)


def test_a_larger_decay_and_more_sinks_keep_more():
    layout = VideoLayout(12, 16, 20, prefix=5)
    decays, sinks = (0.1, 0.3, 1.0, 2.0, 4.0), (0, 1, 2)
    patterns = patterns_of(64, decays, sinks)
    rows = choose_rows(layout, patterns, 100)
    reading = measure(*local_call(layout), rows)
    for i in range(len(sinks), len(patterns)):
        assert not (rows.kept[:, i - len(sinks)] & ~rows.kept[:, i]).any()
        assert reading.coverage[i - len(sinks)] <= reading.coverage[i] + 1e-12
    for i in range(len(patterns) - 1):
        if (i + 1) % len(sinks):
            assert not (rows.kept[:, i] & ~rows.kept[:, i + 1]).any()
    assert reading.coverage[0] < reading.coverage[-1]


def test_kept_blocks_are_those_of_the_plan():
    for layout in LAYOUTS.values():
        for size in (64, 128):
            patterns = patterns_of(size)
            rows = choose_rows(layout, patterns, 100)
            for i, pattern in enumerate(patterns):
                mask = make_plan(pattern, layout).block_mask()
                assert torch.equal(rows.kept[:, i], mask[rows.tokens // size])


def test_rows_are_spread_over_the_video_and_always_the_same():
    layout = VideoLayout(21, 45, 80, prefix=256, suffix=10)
    rows = choose_rows(layout, patterns_of(128), 128)
    assert torch.equal(rows.tokens, choose_rows(layout, patterns_of(128), 128).tokens)
    position = rows.tokens - layout.prefix
    assert (position.diff() > 0).all()
    assert position.min() >= 0 and position.max() < layout.video_tokens
    assert (position // 3600).bincount(minlength=21).min() >= 5
    column = position % 80
    assert column.min() < 8 and column.max() > 72  # the edges of the picture too


def test_the_users_random_state_is_unchanged():
    layout = LAYOUTS["straddling frames"]
    q, k, v = local_call(layout)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    rows = choose_rows(layout, patterns_of(64), 20)
    lists = sample_lists(layout, RadialPattern(0.5, 1, 64), rows.tokens, BUDGETS)
    measure(q, k, v, rows, lists=lists)
    assert torch.equal(torch.rand(1), expected)


def test_patterns_of_two_block_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one block size, got \[64, 128\]"):
        choose_rows(VideoLayout(3, 4, 5), [RadialPattern(1.0, 1, 64), RadialPattern()], 10)
