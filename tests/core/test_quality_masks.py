"""The quality lab's masks: each keeps the right blocks, and the right number of them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/quality"))

import grid
import masks
import sol
from torch.nn.functional import one_hot, pad

from radial_core import RadialPattern, VideoLayout
from radial_core.masks.radial import kept_blocks, token_mask

LAB = VideoLayout(16, 16, 32)  # 4 blocks of 128 a frame
SIZES = (64, 128)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("decay, sink", [(0.2, 0), (1.0, 1), (2.0, 2)])
def test_released_is_radial_where_frames_are_whole_blocks(size, decay, sink):
    released = masks.released(LAB, decay, sink, size)
    assert torch.equal(released, masks.radial(LAB, decay, sink, size))


def test_released_loses_a_tokens_own_position_where_frames_straddle_blocks():
    layout = VideoLayout(16, 15, 32)
    kept = masks.released(layout, 0.2, 1, 128)
    position, s = torch.arange(layout.tokens_per_frame), layout.tokens_per_frame
    lost = {"released": 0, "radial": 0}
    for name, mask in (("released", kept), ("radial", masks.radial(layout, 0.2, 1, 128))):
        for i in range(16):
            for j in (0, max(i - 1, 0), max(i - 2, 0)):  # the sink, and distances never thinned
                lost[name] += int(
                    (~mask[(i * s + position) // 128, (j * s + position) // 128]).sum()
                )
    assert lost["released"] > 0 and lost["radial"] == 0


def released_by_tokens(layout, decay, sink, size):
    """The released code's mask from the mask of all tokens of each pair of frames."""
    s, blocks = layout.tokens_per_frame, layout.tokens // size
    pattern, side = RadialPattern(decay, sink, size), -(-s // size) * size
    kept = torch.zeros(blocks, blocks, dtype=torch.bool)
    for i in range(layout.frames):
        for j in range(layout.frames):
            mask = token_mask(0 if j < sink else abs(i - j), s, pattern)
            row, column = divmod(i * s, size), divmod(j * s, size)
            padded = pad(mask, (column[1], size, row[1], size))[:side, :side]
            for y, x in kept_blocks(padded, size).nonzero().tolist():
                if row[0] + y < blocks and column[0] + x < blocks:
                    kept[row[0] + y, column[0] + x] = True
    return kept


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("decay, sink", [(0.2, 0), (1.0, 1), (0.05, 2)])
@pytest.mark.parametrize("grid", [(32, 15, 20), (32, 4, 6), (4, 12, 40), (1, 8, 16)], ids=str)
def test_released_is_the_test_of_each_pair_of_frames(grid, decay, sink, size):
    layout = VideoLayout(*grid)  # frames begin inside blocks, and some are smaller than a block
    kept = masks.released(layout, decay, sink, size)
    assert torch.equal(kept, released_by_tokens(layout, decay, sink, size))


def test_released_needs_whole_blocks():
    with pytest.raises(ValueError, match="needs whole blocks of 128, got VideoLayout"):
        masks.released(VideoLayout(3, 15, 32), 0.2, 1, 128)


@pytest.mark.parametrize("frames", [16, 48])
def test_masks_in_proportion_are_equal_where_frames_are_whole_blocks(frames):
    layout = VideoLayout(frames, 15, 32)  # 30 blocks of 16 a frame
    released = masks.released_in_proportion(layout, 0.2, 1)
    assert released.shape == (30 * frames, 30 * frames)
    assert torch.equal(released, masks.radial_in_proportion(layout, 0.2, 1))


def test_masks_in_proportion_are_those_of_the_larger_video():
    layout, larger = VideoLayout(8, 15, 10), VideoLayout(8, 15, 80)  # frames begin inside blocks
    decay, sink, s, size = 0.2, 1, larger.tokens_per_frame, 128
    released = masks.released_in_proportion(layout, decay, sink)
    assert torch.equal(released, released_by_tokens(larger, decay, sink, size))

    pattern = RadialPattern(decay, sink, size)
    token = torch.arange(8 * s)
    place = token // size * size - token // s * s  # of a token's block in the token's frame
    place, inside = place.split(s), one_hot(token // size).float().split(s)
    pairs = torch.zeros(75, 75)  # of tokens that are near, by their blocks
    for i in range(8):
        for j in range(8):
            reach = 2 * s if j < sink else pattern.reach(abs(i - j), s)
            if reach is not None:
                near = (place[i][:, None] - place[j]).abs() <= reach
                pairs += inside[i].T @ near.float() @ inside[j]
    assert torch.equal(masks.radial_in_proportion(layout, decay, sink), pairs > 0)


def test_in_proportion_the_released_mask_loses_a_tokens_own_position_too():
    layout, s = VideoLayout(16, 15, 30), 450
    own = torch.arange(16 * s).view(16, s) // 16  # the block of each token, by frame and place
    released, radial = (
        mask(layout, 0.2, 1) for mask in (masks.released_in_proportion, masks.radial_in_proportion)
    )
    assert released.shape == radial.shape == (450, 450)
    near = [(i, j) for i in range(16) for j in (0, max(i - 1, 0))]
    assert not all(released[own[i], own[j]].all() for i, j in near)
    assert all(radial[own[i], own[j]].all() for i, j in near)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*grid.STATIC, "tile"])
def test_a_mask_keeps_the_same_number_of_blocks_in_each_row_with_the_diagonal(name, size):
    for keep in (1, 7, LAB.tokens // size):
        kept = grid.Mask(name, size, keep, sink_frames=0).block_map(LAB)
        assert (kept.sum(dim=1) == keep).all() and kept.diagonal().all()


@pytest.mark.parametrize("name", grid.STATIC)
def test_a_sink_is_kept_first(name):
    kept = grid.Mask(name, 128, 9, sink_frames=2).block_map(LAB)
    assert (kept.sum(dim=1) == 9).all() and kept[:, :8].all()
    assert kept.diagonal()[8:].all()


def test_spatial_masks_keep_frames_and_temporal_ones_positions():
    block = torch.arange(64)
    frame, position = block // 4, block % 4
    spatial, temporal = masks.spatial(LAB, 4, 128), masks.temporal(LAB, 16, 128)
    assert torch.equal(spatial, frame[:, None] == frame)
    assert torch.equal(temporal, position[:, None] == position)
    middle = masks.spatial(LAB, 12, 128)[30]
    assert torch.equal(middle, (frame - frame[30]).abs() <= 1)


@pytest.mark.parametrize("size", SIZES)
def test_a_block_of_the_tile_order_is_a_tile(size):
    order = masks.tile_order(LAB, size)
    assert torch.equal(order.sort().values, torch.arange(LAB.tokens))
    at = torch.stack([order // 512, order % 512 // 32, order % 32], dim=1).unflatten(0, (-1, size))
    extent = at.amax(dim=1) - at.amin(dim=1) + 1
    assert (extent == torch.tensor(masks.TILES[size])).all()


def test_a_tile_window_is_a_box_that_extends_inwards_at_an_edge():
    kept = masks.tile_window(LAB, 27, 128)  # of 4 x 4 x 4 tiles
    tile = torch.arange(64)
    at = torch.stack([tile // 16, tile // 4 % 4, tile % 4], dim=1)
    inside = 16 + 4 + 1  # the tile (1, 1, 1)
    assert torch.equal(kept[inside], (at <= 2).all(dim=1))
    assert kept[0, (at <= 1).all(dim=1)].all() and kept[0].sum() == 27


def test_a_tile_window_needs_whole_tiles():
    with pytest.raises(ValueError, match=r"whole tiles of \(4, 4, 8\), got a grid of \(5, 4, 8\)"):
        masks.tile_order(VideoLayout(5, 4, 8), 128)


def test_block_mass_is_the_share_of_the_true_attention():
    q, k = torch.randn(2, 2, 128, 3, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    mass = masks.block_mass(q, k, 64)
    scores = torch.einsum("bshd,bthd->bhst", q, k) / 4
    weights = scores.softmax(dim=-1)
    for row in range(2):
        for column in range(2):
            block = weights[:, :, 64 * row :, 64 * column :][:, :, :64, :64]
            expected = block.sum(dim=-1).mean(dim=-1)
            torch.testing.assert_close(mass[:, :, row, column], expected)


def test_most_mass_keeps_more_than_any_other_choice():
    random = torch.Generator().manual_seed(0)
    mass = torch.rand(3, 10, 10, generator=random)
    kept = masks.most_mass(mass, 4)
    assert (kept.sum(dim=-1) == 4).all()
    for _ in range(20):
        other = masks.most_mass(torch.rand(3, 10, 10, generator=random), 4)
        assert ((mass * kept).sum(dim=-1) >= (mass * other).sum(dim=-1)).all()


def test_all_masks_of_the_grid_have_the_budget_of_a_radial_one():
    rows = grid.main_rows(LAB, 30) + grid.variations(LAB, 30)
    radial = [
        masks.radial(LAB, decay, 1, size).sum(dim=1).float().mean() for decay, size in grid.BUDGETS
    ]
    budgets = {row.mask.keep for row in rows if row.mask.keep is not None}
    assert len(budgets) == len(radial) + 1  # the low one
    assert all(min(abs(keep - budget) for keep in budgets) <= 0.5 for budget in radial)
    assert len({str(row) for row in rows}) == len(rows)


def test_sol_keeps_less_with_a_higher_threshold_down_to_the_diagonal():
    q, k = torch.randn(2, 1, 640, 2, 128, generator=torch.Generator().manual_seed(0)).unbind(0)
    extra = sol.EXTRA_TOKENS / 640
    shares = [sol.density(q, k, tau) - extra for tau in (-100, 0.5, 1.3, 100)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(1) and shares[-1] == pytest.approx(28 / 100)
