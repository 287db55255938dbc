import random
import threading

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, make_plan, plan

LAYOUTS = [
    VideoLayout(7, 9, 15),
    VideoLayout(5, 8, 16, prefix=3, suffix=70),
    VideoLayout(13, 5, 7, prefix=200),
    VideoLayout(2, 3, 5),
]


def test_rows_are_compressed_ascending_and_int32():
    made = make_plan(RadialPattern(0.3, 1, 64), VideoLayout(9, 7, 11, prefix=5, suffix=90))
    assert made.indptr.dtype == made.indices.dtype == torch.int32
    assert made.indptr[0, 0] == 0 and made.indptr[0, -1] == made.indices.numel()
    mask = torch.zeros(made.blocks, made.blocks, dtype=torch.bool)
    for p in range(made.blocks):
        row = made.indices[made.indptr[0, p] : made.indptr[0, p + 1]]
        assert (row.diff() > 0).all() and row.numel() > 0
        mask[p, row] = True
    assert torch.equal(made.block_mask(), mask)
    assert made.density == mask.sum().item() / made.blocks**2


def test_video_density_counts_only_blocks_that_hold_video():
    pattern = RadialPattern(0.2, 0, 64)
    alone = make_plan(pattern, VideoLayout(20, 8, 16))
    assert alone.video_density == alone.density
    amid = make_plan(pattern, VideoLayout(20, 8, 16, prefix=64, suffix=256))
    assert amid.video_density == alone.video_density < amid.density


def test_kept_blocks_grow_like_n_log_n():
    """Four times the frames: a little over four times the kept blocks, where the map has 16."""
    pattern = RadialPattern(0.2, 1)
    kept = [make_plan(pattern, VideoLayout(n, 45, 80)).indices.numel() for n in (32, 128)]
    assert 4 * kept[0] < kept[1] < 9 * kept[0]


@pytest.mark.parametrize("layout", [VideoLayout(128, 45, 80), VideoLayout(4000, 4, 4)])
def test_scratch_is_bounded(layout, monkeypatch):
    """However many frames a block holds, no more than so many runs are looked at together."""
    most = []
    key_runs = RadialPattern.key_runs

    def watch(*args):
        runs = key_runs(*args)
        most.append(runs[0].numel())
        return runs

    monkeypatch.setattr(RadialPattern, "key_runs", watch)
    make_plan(RadialPattern(0.2 + random.random() / 1000), layout)
    assert max(most) <= 1.1 * plan.RUNS_AT_ONCE


def test_made_once_and_bounded():
    layout = VideoLayout(3, 8, 8)
    first = make_plan(RadialPattern(0.2), layout)
    assert make_plan(RadialPattern(0.2), VideoLayout(3, 8, 8), torch.device("cpu")) is first
    assert make_plan(RadialPattern(0.3), layout) is not first
    for i in range(plan.PLANS_KEPT):
        make_plan(RadialPattern(1 + i / 100), layout)
    assert make_plan(RadialPattern(0.2), layout) is not first


def test_threads_share_one_plan():
    made = []
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        made.append(make_plan(RadialPattern(0.77), VideoLayout(40, 30, 40)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(map(id, made))) == 1


def test_a_plan_made_while_sampling_serves_training():
    with torch.inference_mode():
        made = make_plan(RadialPattern(0.61), VideoLayout(4, 8, 8))
    assert not made.indices.is_inference() and not made.indptr.is_inference()


def test_plans_go_to_the_device():
    assert make_plan(RadialPattern(), VideoLayout(2, 8, 8), "meta").device.type == "meta"
    with pytest.raises(RuntimeError):
        make_plan(RadialPattern(), VideoLayout(2, 8, 8), "no-such-device")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block_size", [64, 128])
def test_the_table_has_the_rows_side_by_side(layout, block_size):
    plan = make_plan(RadialPattern(0.2, 1, block_size), layout)
    lengths, table = plan.table
    assert lengths.dtype == table.dtype == torch.int32
    assert table.shape == (1, plan.blocks, int(lengths.max()))
    for row in range(plan.blocks):
        kept = plan.indices[plan.indptr[0, row] : plan.indptr[0, row + 1]]
        assert torch.equal(table[0, row, : lengths[0, row]], kept)
        assert (table[0, row, lengths[0, row] :] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_has_each_row_once_and_text_first(layout):
    plan = make_plan(RadialPattern(0.2, 1, 64), layout)
    order = plan.order
    assert order.dtype == torch.int32
    assert torch.equal(order.sort().values, torch.arange(plan.blocks, dtype=torch.int32))
    video = range(layout.prefix, layout.prefix + layout.video_tokens)
    inside = [(p * 64 in video, min(p * 64 + 63, plan.tokens - 1) in video) for p in order.tolist()]
    assert inside == sorted(inside, key=all)  # rows that hold video alone come last


def test_the_order_goes_through_strips():
    """64 frames of 30 blocks each: six blocks of every frame, then the next six."""
    plan = make_plan(RadialPattern(0.2), VideoLayout(70, 48, 80))
    first = plan.order[: 6 * 64]
    assert set((first % 30).tolist()) == set(range(6))
    assert (first // 30 == torch.arange(64).repeat_interleave(6)).all()


def test_derived_tables_serve_training_too(monkeypatch):
    monkeypatch.setattr(plan, "TABLE_BYTES", 0)
    with torch.inference_mode():
        cut = make_plan(RadialPattern(0.31, 0, 64), VideoLayout(12, 9, 15, prefix=5))
        assert cut.cut_rows
        made = (*cut.bounded_table, *cut.table, *cut.columns, cut.order)
    assert not any(x.is_inference() for x in made)
