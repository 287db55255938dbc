"""The quality lab's front: which steps run how, their cost, and what the command makes of it."""

import json
import re
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from conftest import ENVIRONMENT, PACK, difference
from small_lab import saved  # puts the lab on the path

# isort: split

import draw
import draw_front
import front
import front_attention
import front_sets
import model as lab_model
import motion
import per_head
import real_time
import rest
import stretches
import tables_format
import tables_front
from front_ways import AUTHORS, BY_MASS, DENSE, EARLY, LATE, adaptive, cached, of, repaired
from front_ways import both as by_both_kernels
from ground import Ground
from lab import record
from table import pareto_front

from radial_core.adaptive.repair import repair

SIZE, SEEDS, STEPS = front.TINY
EVERY = {way.name: way for make in front_sets.SETS.values() for way in make()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(lab_model.TINY, tmp_path_factory.mktemp("lab"), sharper=3)


@pytest.fixture(scope="module")
def lab(checkpoint):
    return front.Lab(Ground(lab_model.load(checkpoint), SIZE, SEEDS, STEPS, torch.device("cpu")))


def ran(lab, way):
    """Of each step that ran, the budget; and the steps in which lists were chosen."""
    _, (run, *_) = lab.sample(way)
    return {step: stretch.budget for step, stretch in run.steps.items()}, sorted(run.looks)


def test_stretches_are_dense_and_choose_lists_where_they_begin(lab):
    budgets, looks = ran(lab, of(0.2, (0.5, 2.0), 0.5, last=0.1))
    assert list(budgets.values()) == 2 * [None] + 3 * [2.0] + 4 * [0.5] + [None]
    assert looks == [2, 5]
    assert ran(lab, adaptive(0.1, 0.67, 1.5)) == (
        {0: None, 1: 1.5, **dict.fromkeys(range(2, 10), 0.67)},
        [1, 2],
    )
    assert stretches.round_down(0.29 * 100) == 29 and stretches.round_down(0.25 * 30) == 7


def test_lists_wait_for_a_step_that_a_cache_does_not_skip(lab):
    way = cached(of(0.2, (0.5, 1.0), 0.67), "67%")
    budgets, looks = ran(lab, way)
    assert 3 <= len(budgets) < 8 and list(budgets) == sorted(budgets)
    first = [next(step for step in budgets if budgets[step] == x) for x in (1.0, 0.67)]
    assert looks == first != [2, 5]


def test_lists_are_chosen_in_a_run_that_starts_in_the_middle(lab):
    model, run = lab.patched(of(0.2, (0.5, 1.0), 0.67))
    motion.from_clips(model, lab.clips, STEPS, 3)
    assert sorted(run.steps) == list(range(3, 10)) and run.looks == {3, 5}


def test_dense_layers_and_dense_steps_by_another_kernel(lab):
    """Of two layers, one or both are dense; a dense attention may be given."""
    reference = lab.ground.reference
    assert lab.sample(replace(AUTHORS, dense_blocks=2))[0].equal(reference)
    assert not lab.sample(replace(AUTHORS, dense_blocks=1))[0].equal(reference)
    calls = []

    def dense(q, k, v, layer):
        calls.append(layer)
        return torch.zeros_like(q)

    way = of(0.5, 1.0)
    run = stretches.Run(lab.patched(way)[1].sigmas, way.stretches)
    parts = front_attention.attention_of(way, lab.ground, ()) | {"dense": dense}
    lab_model.sample(stretches.stretched(lab.ground.model, run, **parts), [1], SIZE.latent, STEPS)
    assert calls == 5 * [0, 1]


def test_layers_share_blocks_and_keep_as_many_in_all(lab):
    for depth in (None, EARLY, LATE):
        factors = front_attention.depth_factors(depth, 8, ())
        assert sum(factors) / 8 == pytest.approx(1)
        assert factors == sorted(factors, reverse=depth == EARLY)
    plan = front_attention.plan_of(AUTHORS, lab.ground)
    spread = torch.rand(3, plan.blocks, plan.blocks, generator=torch.Generator().manual_seed(0))
    mass = [(spread * steep).softmax(dim=-1) for steep in (60, 1, 20, 8)]
    shares = front_attention.layer_shares(plan, mass)
    assert sum(shares) / 4 == pytest.approx(1) and min(shares) >= 0.5 and max(shares) <= 2
    assert shares[0] == min(shares) < max(shares)
    assert front_attention.depth_factors(BY_MASS, 4, shares) == shares


def test_sols_rule():
    q, k, v = torch.randn(3, 2, 96, 2, 32, generator=torch.Generator().manual_seed(0)).unbind(0)
    found, blocks = front_attention.above(q[0], k[0], 0.7), range(6)
    for head in range(2):
        means = [x[0, :, head].unflatten(0, (6, 16)).mean(dim=1) for x in (q, k)]
        queries, keys = means[0], means[1] - means[1].mean(dim=0)
        for one in blocks:
            # The standard deviation that scores with independent channels would have.
            spread = sum(queries[one] ** 2 * (keys**2).mean(dim=0)) ** 0.5
            for other in blocks:
                near = abs(one - other) <= 1
                expected = near or bool(queries[one] @ keys[other] > 0.7 * spread)
                assert found[head, one, other] == expected
    kept = [front_attention.above(*one, 1.3) for one in zip(q, k, strict=True)]
    lists = [per_head.BlockLists(each) for each in kept]
    expected = rest.pooled(q, k, v, lists, *per_head.attend(q, k, v, lists))
    assert front_attention.sol_in_proportion(q, k, v, [], 0.5).equal(expected)


def test_what_is_given_back_and_from_when_on():
    q, k, v = torch.randn(3, 1, 96, 2, 32, generator=torch.Generator().manual_seed(0)).unbind(0)
    lists = [per_head.BlockLists(torch.eye(6, dtype=torch.bool)[None])]
    out, lse = per_head.attend(q, k, v, lists)
    pooled = rest.pooled(q, k, v, lists, out, lse)
    late = replace(adaptive(0.25), give_back="pooled rest from half of the steps on")
    for done, expected in ((0.49, out), (0.5, pooled)):
        assert front_attention.sparse(late)(q, k, v, lists, done).equal(expected)
    ours = front_attention.sparse(repaired(adaptive(0.25)))(q, k, v, lists, 0.0)
    expected = out.clone()
    repair(q, k, v, expected, slice(0, 96))  # the pack's own
    assert ours.equal(expected)
    assert 0 < difference(ours, rest.residual_repair()(q, k, v, lists, out, lse)) < 0.2
    eight_bit = front_attention.sparse(adaptive(0.25, eight_bit=True))(q, k, v, lists, 0.0)
    assert 1e-3 < difference(eight_bit, out) < 0.03


def test_cost_by_hand():
    times = real_time.passes()
    assert times.repair == pytest.approx(39 * 0.001545 * 69120 / 75600)
    steps = [(None, 0.0)] * 7 + [(0.5, 0.0)] * 23
    sparse = times.sparse[0] + 0.5 * times.sparse[1] + times.repair
    seconds = (7 * times.ours + 23 * sparse) / 30 * 100
    found = real_time.cost(repaired(adaptive(0.25, 0.5)), steps, 30, looks=1)
    assert found["seconds_estimate"] == pytest.approx(seconds + 2 * times.look, abs=0.06)
    # Of a pass: a block of 40 is dense, so this is what is left without any attention.
    left = (times.sparse[0] - times.ours / 40) / (39 / 40)
    authors = 12 * times.ours + 38 * sum(times.sparse) - 50 * left
    share = (seconds + 2 * times.look - 100 * left) / (2 * authors)
    assert found["attention_share"] == pytest.approx(share, abs=1e-4)

    without = real_time.cost(adaptive(0.25, 0.5), steps, 30, looks=1)["seconds_estimate"]
    added = found["seconds_estimate"] - without
    assert added == pytest.approx(23 / 30 * 100 * times.repair, abs=0.11)
    for way, seconds in zip(by_both_kernels(DENSE), (times.ours, times.comfyui), strict=True):
        half = real_time.cost(way, [(None, 0.0)] * 15, 30, 0)["seconds_estimate"]
        assert half == pytest.approx(50 * seconds, abs=0.06)
    layers = real_time.cost(AUTHORS, [(1.0, 0.25)] * 30, 30, 0)["seconds_estimate"]
    expected = 100 * (0.25 * times.ours + 0.75 * sum(times.sparse))
    assert layers == pytest.approx(expected, abs=0.06)


def made(training, method, psnr, diffs, **more):
    figures = {name: 1.0 for name in front.OF_CASES} | {"preset": None, "grid": tables_front.GRID}
    return figures | {"training": training, "method": method, "psnr": psnr, "diffs": diffs} | more


def test_means_put_all_methods_on_the_scale_of_all_trainings():
    first, other = made(1, AUTHORS.name, 30.0, [0.0, 0.0]), made(2, AUTHORS.name, 20.0, [0.0, 0.0])
    found = [made(1, "one", 33.0, [2.0, 4.0], lost_objects=None, flicker=0.2)]
    found += [made(2, "two", 19.0, [-1.0, -1.0], lost_objects=None)]
    found += [made(2, "one", 25.0, [3.0, 7.0], lost_objects=0.5, flicker=0.4, preset="closer")]
    found += [made(2, AUTHORS.name, 99.0, [0.0, 0.0], grid="another")]
    authors, one, two, another = front.means([first, other, *found])
    assert authors["psnr"] == 25 and another["psnr"] == 99
    assert one["psnr"] == 25 + 4 and one["diff"] == 4 and one["preset"] == "closer"
    assert one["diff_se"] == pytest.approx((14 / 3) ** 0.5 / 2, abs=1e-3)
    assert one["diff_of_trainings"] == {"1": 3, "2": 5}
    assert one["lost_objects"] == 0.5 and one["flicker"] == pytest.approx(0.3)
    assert two["psnr"] == 24 and two["lost_objects"] is None and two["preset"] is None


def test_every_method_of_the_results_can_be_measured_again():
    found = json.loads((PACK / "benchmarks/results/quality-front-h200.json").read_text())
    for case in found["cases"]:
        assert case["preset"] == front_sets.preset_of(EVERY[case["method"]])
    assert {case["preset"] for case in found["cases"]} == {None, *tables_front.PRESETS}
    assert {*tables_front.SHOWN} <= {case["method"] for case in found["cases"]}
    for make in front_sets.SETS.values():
        names = [way.name for way in make()]
        assert names[0] == AUTHORS.name and len({*names}) == len(names)
    again = front.means(found["runs"])
    assert again == found["cases"]
    names = {name for name in front_attention.GIVE_BACK} | {""}
    assert names == {*tables_front.GIVEN_BACK}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for the files that the command writes, with those that it reads."""
    for name in ("end_to_end-h200.json", "repair-h200.json"):
        shutil.copy(PACK / "benchmarks/results" / name, tmp_path)
    monkeypatch.setattr(tables_format, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "front.py")])
    return tmp_path


def test_the_command_measures_a_set_and_keeps_what_it_has(checkpoint, results, monkeypatch):
    given = ["--comfyui", str(ENVIRONMENT.comfyui), "--checkpoint", str(checkpoint), "--tiny"]
    ways = [*front_sets.presets()[:4], *by_both_kernels(DENSE)]
    ways.append(replace(adaptive(0.25), depth=BY_MASS))
    monkeypatch.setitem(front_sets.SETS, "front", lambda: ways)
    monkeypatch.setitem(front_sets.SETS, "rows", lambda: ways[:2])
    path = results / "quality-front-tiny.json"
    front.main(given)
    first = json.loads(path.read_text())
    assert [case["method"] for case in first["cases"]] == [way.name for way in ways]
    assert [case["preset"] for case in first["cases"][:5]] == [None, *tables_front.PRESETS, None]
    by_name = {case["method"]: case for case in first["cases"]}
    fields = {"grid", "method", "preset", "psnr", "diff", "diff_se", "diff_of_trainings"}
    assert all(case.keys() == fields | {*front.OF_CASES} for case in first["cases"])
    assert {case["grid"] for case in first["cases"]} == {"5 x 4 x 16"}
    dense, comfyui = by_name["dense"], by_name["ComfyUI's dense"]
    assert dense["psnr"] == comfyui["psnr"] > 90
    assert comfyui["seconds_estimate"] == pytest.approx(1416.2) != dense["seconds_estimate"]
    assert first["runs"][-1]["steps_run"] == STEPS and first["runs"][-1]["looks"] == 1
    balanced = by_name[ways[2].name]
    authors, run = first["runs"][0], first["runs"][2]
    pairs = zip(run["psnr_of_seeds"], authors["psnr_of_seeds"], strict=True)
    assert run["diffs"] == pytest.approx([one - other for one, other in pairs], abs=2e-3)
    assert balanced["psnr"] == pytest.approx(run["psnr"], abs=3e-3)

    others = [run | {"training": 2} for run in first["runs"]]
    edited = first | {"note": "by hand", "runs": first["runs"] + others}
    path.write_text(json.dumps(edited))
    front.main([*given, "--training", "2", "--set", "rows"])
    found = json.loads(path.read_text())
    assert found["note"] == "by hand" and found["runs"][:-2] == first["runs"] + others[2:]
    assert [run["training"] for run in found["runs"][-2:]] == [2, 2]
    assert list(found["trainings"]) == ["1, 5 x 4 x 16", "2, 5 x 4 x 16"]
    assert [case["method"] for case in found["cases"]] == [way.name for way in ways]
    assert all([*case["diff_of_trainings"]] == ["1", "2"] for case in found["cases"])


def test_tables_and_picture(results):
    for table in tables_front.TABLES:
        assert table() == "Not measured yet."
    presets = {front_sets.preset_of(way): way for way in front_sets.presets()}
    runs = [made(1, AUTHORS.name, 30.0, [0.0, 0.0], seconds_estimate=700.0, flicker=0.2)]
    for name in tables_front.PRESETS:
        runs += [made(n, presets[name].name, 31.0, [1.0, 2.0], preset=name) for n in (1, 2)]
    runs += [made(2, AUTHORS.name, 30.0, [0.0, 0.0], seconds_estimate=700.0, flicker=0.2)]
    runs += [made(1, cached(presets["faster"], "50%").name, 30.0, [0.0, 2.0], seconds_estimate=354)]
    runs += [made(2, adaptive(0.25).name, 30.0, [-0.001, -0.001], lost_objects=None)]
    runs += [made(1, replace(AUTHORS, decay=1.0).name, 30.0, [3.0, 4.0])]
    runs += [made(1, AUTHORS.name, 9.0, [0.0, 0.0], grid="another")]
    passes = {"comfyui": 14.16, "forwards": 100}
    found = {"runs": runs, "passes_of_wan": passes, "cases": front.means(runs)}
    path = results / "quality-front-h200.json"
    path.write_text(json.dumps(found))
    every, given_back, rows, short = (table().splitlines() for table in tables_front.TABLES)
    assert len(every) == 2 + 6 and len(given_back) == 2 + 1 and len(rows) == 2 + 1
    assert "| **faster**, EasyCache 50% | 354 | 4.0x | 100% | 31.0 | +1.00 ± 1.00 |" in every[-2]
    assert every[-1] == f"| {AUTHORS.name} | 700 | 2.0x | 100% | 30.0 |  | +20% | 100.0% |"
    assert "| nothing | adaptive |  | +0.00 | +0.00 ± 0.00 | +100% |" in given_back
    assert rows[-1] == "| decay 1 | 1.00 | 1416.0x | 100% | +3.50 ± 0.50 | +100% |"
    assert [line.split(" | ")[0] for line in short[2:]] == [
        *(f"| {name}" for name in tables_front.PRESETS),
        "| the authors' settings",
    ]
    assert short[2].endswith("| 100% | +1.50 | +1.50 |")

    cases = [{"seconds_estimate": x, "psnr": y} for x, y in ((1, 5), (2, 4), (3, 7), (3, 6))]
    assert pareto_front(cases, "seconds_estimate") == [cases[0], cases[2]]
    draw.main("h200", results / "RESULTS.md")
    assert (results / "quality-front-h200.png").stat().st_size > 1e4


def test_kinds_of_the_picture():
    kinds = {name: draw_front.kind_of(name) for name in EVERY}
    shown = [name for name, kind in kinds.items() if kind]
    assert not [name for name in shown if re.search("layers|rows|decay|sink|order|mean", name)]
    assert {kinds[way.name] for way in front_sets.presets()} >= {
        *("radial lists", "ComfyUI's sol_attn, its rule", "adaptive lists"),
        *("adaptive lists, repair", "adaptive lists, repair, EasyCache"),
    }
    assert {*kinds.values()} == {None, *draw_front.KINDS}
