"""The quality lab's lists per head: which blocks they keep, and what the command makes of it."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import ENVIRONMENT, difference
from small_lab import saved  # puts the lab on the path

# isort: split

import draw
import flow
import list_ways
import masked
import masks
import model as lab_model
import per_head
import proportions
import rest
import tables_format
import tables_lists
from lab import record
from torch.nn.functional import scaled_dot_product_attention

from radial_core import VideoLayout
from radial_core.adaptive.choice import most_attended, rows_of

LAYOUT = VideoLayout(5, 4, 16)  # 4 blocks of 16 a frame
PLAN = masks.radial_plan_in_proportion(LAYOUT, 0.2, 1)
ROWS = rows_of(PLAN, 0.5)
SIZE, SEEDS, _ = proportions.TINY
STEPS = 5  # so a tenth of them is none


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def video(batch=2, heads=3):
    """q, k, v (b, s, h, d)."""
    return 2 * random(3, batch, LAYOUT.tokens, heads, 32).unbind(0)[0], *random(
        2, batch, LAYOUT.tokens, heads, 32, seed=1
    ).unbind(0)


def alike(x, tokens):
    """With the first of so many tokens in the place of all of them."""
    return x.unflatten(1, (-1, tokens))[:, :, :1].expand(-1, -1, tokens, -1, -1).flatten(1, 2)


def dense(q, k, v):
    heads = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(*heads).transpose(1, 2)


def test_mass_of_all_queries_is_the_labs_own():
    q, k, _ = video()
    expected = masks.block_mass(q, k, 16)
    for one_q, one_k, mass in zip(q, k, expected, strict=True):
        torch.testing.assert_close(per_head.mass_of_all(one_q, one_k), mass)
        some = per_head.mass(one_q, one_k)
        assert 0.01 < difference(some, mass) < 0.5  # from 1 query in 4


@pytest.mark.parametrize("cells", [1, 4])
def test_pooled_scores_are_the_mass_where_what_is_pooled_is_alike(cells):
    q, k, _ = video()
    q, k = alike(q, 16), alike(k, 16 // cells)
    torch.testing.assert_close(per_head.pooled(cells)(q[0], k[0]), masks.block_mass(q, k, 16)[0])


def test_heads_that_share_a_budget_keep_as_much_in_all():
    q, k, _ = video()
    mass = per_head.mass(q[0], k[0]) ** torch.tensor([0.2, 1.0, 2.0])[:, None, None]
    mass /= mass.sum(
        dim=-1, keepdim=True
    )  # a head that spreads its attention, and one that doesn't
    recall = {}
    for choice in (most_attended, per_head.shared_by_mass, per_head.shared_by_recall):
        kept = choice(mass, ROWS)
        assert kept.sum() == 3 * ROWS.total and kept[:, ROWS.backbone].all()
        recall[choice] = (mass * kept).sum(dim=-1)
    each, by_mass, by_recall = recall.values()
    assert by_mass.mean() > by_recall.mean() > each.mean()
    assert by_recall.min() > each.min() + 0.1


def test_attention_over_lists_per_head_is_exact_by_torch_and_by_the_kernel():
    q, k, v = (x[:, :96] for x in video(batch=1, heads=2))
    kept = (random(2, 6, 6) < 0) | torch.eye(6, dtype=torch.bool)
    for each in (per_head.BlockLists(kept), per_head.BlockLists(kept[:1])):
        fine = each.kept.repeat_interleave(16, 1).repeat_interleave(16, 2)
        heads = (x.transpose(1, 2) for x in (q, k, v))
        expected = scaled_dot_product_attention(*heads, attn_mask=fine).transpose(1, 2)
        out, lse = per_head.attend(q, k, v, [each])
        assert difference(out, expected) < 1e-5
        by_kernel = per_head._by_kernel(q[0], k[0], v[0], each)
        assert difference(by_kernel[0], out[0]) < 1e-5
        torch.testing.assert_close(by_kernel[1], lse[0])


def test_the_pooled_rest_stands_for_all_its_tokens():
    q, k, v = video()
    k, v = alike(k, 16), alike(v, 16)
    out = rest.with_the_rest_pooled(ROWS)(q, k, v, 0)
    assert difference(out, dense(q, k, v)) < 1e-5
    lists = per_head.finder(per_head.pooled(1), ROWS)(q, k)
    assert difference(per_head.attend(q, k, v, lists)[0], out) > 0.1  # the rest matters


def test_without_a_rest_sols_rule_is_dense():
    q, k, v = video()
    everything = replace(ROWS, lengths=torch.full_like(ROWS.lengths, PLAN.blocks))
    assert difference(rest.with_the_rest_pooled(everything)(q, k, v, 0), dense(q, k, v)) < 1e-5


def test_scores_steadied_by_distance():
    q, k, _ = (x[0] for x in video())
    mass, half, all_of_it = per_head.mass(q, k), *(per_head.steadied(x)(q, k) for x in (0.5, 1))
    for distance in (-19, -3, 0, 7):
        mean = mass.diagonal(distance, 1, 2).mean(dim=1, keepdim=True)
        at_distance = all_of_it.diagonal(distance, 1, 2)
        torch.testing.assert_close(at_distance, mean.expand_as(at_distance))
    torch.testing.assert_close(half, (mass + all_of_it) / 2)


def test_when_lists_are_chosen():
    """Three calls of a layer; each time another video comes."""
    calls = [video(), [x.flip(1) for x in video()], [x.roll(24, 1) for x in video()]]
    find = per_head.finder(per_head.mass, ROWS)

    def expected(number, *lists_of):
        """Of a call, by the mean of the scores of these."""
        scores = [
            [per_head.mass(*one) for one in zip(*calls[x][:2], strict=True)] for x in lists_of
        ]
        means = [sum(each) / len(each) for each in zip(*scores, strict=True)]
        lists = [per_head.BlockLists(most_attended(mean, ROWS)) for mean in means]
        return per_head.attend(*calls[number], lists)[0]

    in_dense_steps = [dense(*call) for call in calls]
    firsts, own = [expected(x, 0) for x in range(3)], [expected(x, x) for x in range(3)]
    assert difference(firsts[1], own[1]) > 0.05
    before = partial(per_head.looks_before, per_head.mass, ROWS)
    for attention, outputs in (
        (per_head.looks_again(find, ()), firsts),
        (per_head.looks_again(find, [1]), [own[0], own[1], expected(2, 1)]),
        (before(dense=1, sparse=0), [in_dense_steps[0], *firsts[1:]]),
        (
            per_head.looks_before(per_head.mass, ROWS, 2, 1),
            [*in_dense_steps[:2], expected(2, 0, 1, 2)],
        ),
        (per_head.looks_anew(find), own),
    ):
        for call, output in zip(calls, outputs, strict=True):
            for layer in range(2):
                assert difference(attention(*call, layer), output) < 1e-5


def test_radial_in_the_lab_is_the_map_in_proportion():
    q, k, v = video()
    kept = masks.radial_in_proportion(LAYOUT, 0.2, 1)
    lists = per_head.BlockLists(kept[None])
    expected = masked.by_map(kept, 16, "cpu")(q, k, v, 0)
    assert difference(per_head.fixed([lists])(q, k, v, 0), expected) < 1e-5
    assert ROWS.total == pytest.approx(int(kept.sum()) / 2, rel=0.05)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for the files that the command writes."""
    monkeypatch.setattr(tables_format, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "proportions.py")])
    monkeypatch.setattr(proportions, "TINY", (SIZE, SEEDS, STEPS))
    for module in (list_ways, proportions):
        monkeypatch.setattr(module, "BUDGETS", (1.0, 0.67))
    monkeypatch.setattr(flow, "validation", partial(flow.validation, count=2, levels=2))
    return tmp_path


def quick_ways():
    """All but those without a dense step; the loss of few.

    A tenth of the steps is none here, and so the mean of three steps would be that of one.
    """
    ways = [way for way in list_ways.ways() if way.dense]
    ways.remove(list_ways.Way(list_ways.MEAN, dense=list_ways.TENTH))
    return [replace(way, loss=way.loss and number in (0, 1)) for number, way in enumerate(ways)]


def test_the_command_measures_every_way_of_each_training(results, tmp_path, monkeypatch):
    checkpoint = saved(lab_model.TINY, tmp_path / "lab", sharper=3)
    given = ["--comfyui", str(ENVIRONMENT.comfyui), "--checkpoint", str(checkpoint), "--tiny"]
    ways = quick_ways()
    monkeypatch.setattr(proportions, "ways", lambda: ways)
    path = results / "quality-proportions-tiny.json"
    proportions.main(given)
    first = json.loads(path.read_text())
    assert [(case["lists"], case["budget"]) for case in first["cases"]] == [
        (way.lists, way.budget) for way in ways
    ]
    assert {case["lists"] for case in first["cases"]} >= {*list_ways.LOOKS, *tables_lists.BY_TIME}
    radial = {case["dense_steps"]: case for case in first["cases"] if case["lists"] == "radial"}
    assert sorted(radial) == [0, 1, 2]  # a tenth, a quarter and a half
    for way, case in zip(ways, first["cases"], strict=True):
        pairs = zip(
            case["psnr_of_seeds"], radial[case["dense_steps"]]["psnr_of_seeds"], strict=True
        )
        one, other = [x - y for x, y in pairs]
        assert case["diff_to_radial"] == pytest.approx((one + other) / 2, abs=2e-3)
        assert case["diff_se"] == pytest.approx(abs(one - other) / 2, abs=2e-3)
        assert (case["val_loss"] is None) != way.loss and 20 < case["worst_frame"] < case["psnr"]
    assert len({case["psnr"] for case in first["cases"]}) == len(ways)  # no two are the same
    added = first["cases"][1]["val_loss"] - first["trainings"]["1"]["dense_val_loss"]
    assert first["cases"][1]["val_loss_added"] == pytest.approx(added, abs=2e-5)

    monkeypatch.setattr(proportions, "ways", lambda: ways[:2])
    proportions.main([*given, "--training", "2"])
    found = json.loads(path.read_text())
    assert found["cases"][:-2] == first["cases"] and list(found["trainings"]) == ["1", "2"]
    assert [case["training"] for case in found["cases"][-2:]] == [2, 2]
    about, others = proportions.of_other_trainings(path, 1)  # which is measured again
    assert list(about) == ["2"] and others == found["cases"][-2:]

    tables = (tables_lists.quality_lists, tables_lists.quality_lists_otherwise)
    assert all(table() == "Not measured yet." for table in tables)  # on a CPU
    path.rename(results / "quality-proportions-h200.json")
    by_steps, otherwise = (table().splitlines() for table in tables)
    assert len(by_steps) == 2 + 15 and len(otherwise) == 2 + 14
    adaptive, less = first["cases"][1:3]  # the second is of one training
    each, one = (f"{case['diff_to_radial']:+.1f}" for case in (adaptive, less))
    of_each, of_mean = (f"{adaptive['diff_se'] / n**0.5:.1f}" for n in (1, 2))
    (line,) = [line for line in by_steps if line.startswith("| 1 of 5 | adaptive | 8")]
    assert line.endswith(f"| {each} ± {of_each} | {each} ± {of_each} | {each} ± {of_mean} |")
    error, worst = less["diff_se"], less["worst_frame"] - first["cases"][0]["worst_frame"]
    expected = f"| {one} ± {error:.1f} |  | {one} ± {error:.1f} | {worst:+.1f} |  |"
    assert [line for line in otherwise if line.startswith("| adaptive |")][1].endswith(expected)

    draw.main("h200", results / "RESULTS.md")
    assert (results / "quality-proportions-h200.png").stat().st_size > 1e4
