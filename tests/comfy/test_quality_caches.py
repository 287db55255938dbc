"""The quality lab's step caches: which steps they skip, and what the command makes of it."""

import json
import logging
import sys

import numpy
import pytest
import torch
from conftest import ENVIRONMENT, difference
from small_lab import saved  # puts the lab on the path

# isort: split

import caches
import comfy.samplers
import draw
import masked
import masks
import model as lab_model
import tables_format
import tables_quality
from cache_rules import computed_steps, easycache, fitted, teacache
from comfy.ldm.wan.model import sinusoidal_embedding_1d
from lab import record
from work import attention_shares, speedup

from radial_core import VideoLayout

SIZE, SEEDS, STEPS = caches.TINY


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(lab_model.TINY, tmp_path_factory.mktemp("lab"), sharper=3)


@pytest.fixture(scope="module")
def model(checkpoint):
    model = lab_model.load(checkpoint)
    sampled(model)  # EasyCache takes wrong noise levels before the first run, see caches.py
    return model


def sampled(model):
    with computed_steps(model) as steps:
        latents = lab_model.sample(model, [5], SIZE.latent, STEPS)
    return latents, steps


def test_easycache_skips_what_it_says(model, caplog):
    with caplog.at_level(logging.INFO):
        latents, steps = sampled(easycache(model, 0.2))
    skipped = STEPS - len(steps)
    assert f"EasyCache - skipped {skipped}/{STEPS} steps" in caplog.text
    assert 3 < skipped < STEPS - 4 and steps[:4] == [0, 1, 2, 3]
    dense, every = sampled(model)
    assert every == list(range(STEPS)) and 1e-3 < difference(latents, dense) < 0.2


def expected_steps(model, threshold, polynomial):
    """TeaCache's steps, from the timesteps alone."""
    sampling = model.get_model_object("model_sampling")
    net = model.model.diffusion_model
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)[:-1]
    with torch.inference_mode():
        embedded = sinusoidal_embedding_1d(net.freq_dim, sampling.timestep(sigmas)).float()
        modulation = net.time_projection(net.time_embedding(embedded))
    steps, total = [0], 0.0
    for step in range(1, STEPS):
        old, new = modulation[step - 1 : step + 1]
        change = ((new - old).abs().mean() / old.abs().mean()).item()
        total += float(numpy.polyval(polynomial, change))
        if total >= threshold:
            steps, total = [*steps, step], 0.0
    return steps


@pytest.mark.parametrize("polynomial", [(1.0, 0.0), (1.0, -0.5, 0.1)], ids=["line", "curve"])
@pytest.mark.parametrize("threshold", [1.2, 2.5])
def test_teacache_skips_by_the_change_of_the_timestep(model, polynomial, threshold):
    expected = expected_steps(model, threshold, polynomial)
    assert 1 < len(expected) < STEPS
    cached, _ = teacache(model, threshold, polynomial)
    for _ in range(2):  # a run starts anew
        assert sampled(cached)[1] == expected


def test_a_step_that_teacache_skips_adds_what_the_blocks_added_before(model):
    """If only the first step runs, every other adds the same to its tokens."""
    cached, cache = teacache(model, threshold=1e9)
    net, seen = model.model.diffusion_model, []
    hook = net.head.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    embedded = net.patch_embedding.register_forward_hook(
        lambda module, given, out: seen.append(out.flatten(2).transpose(1, 2))
    )
    try:
        assert sampled(cached)[1] == [0]
    finally:
        hook.remove()
        embedded.remove()
    added = [out - tokens for tokens, out in zip(seen[::2], seen[1::2], strict=True)]
    assert len(added) == STEPS and added[0].abs().mean() > 0.01
    for each in added[1:]:
        assert difference(each, added[0]) < 1e-5


def test_the_polynomial_is_fitted_to_steps_that_ran(model):
    cached, cache = teacache(model, threshold=0)
    dense = sampled(model)[0]
    assert torch.equal(sampled(cached)[0], dense)  # threshold 0 skips nothing
    assert len(cache.changes) == STEPS - 1
    inputs, outputs = (numpy.array(x) for x in zip(*cache.changes, strict=True))
    error = numpy.polyval(fitted(cache.changes), inputs) - outputs
    assert numpy.abs(error).mean() < numpy.abs(outputs - outputs.mean()).mean()


def test_a_mask_in_proportion_is_the_rule_with_every_length_an_eighth():
    layout = VideoLayout(16, 16, 32)
    kept = masks.radial_in_proportion(layout, 0.2, 1)
    assert kept.shape == (512, 512) and kept.float().mean() == pytest.approx(0.328, abs=5e-4)
    band = 2 ** (9 - 2) * 0.2  # of frames 4 to 7 apart: 26 places, and the frames are 32 blocks
    near = kept[5 * 32 + 16, 9 * 32 : 10 * 32].nonzero().flatten()
    assert (near - 16).abs().max() == (band + 2) // 16


def test_a_map_of_any_block_size_is_exact_masked_attention():
    layout = VideoLayout(4, 8, 16)
    q, k, v = torch.randn(3, 2, 512, 2, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    kept = masks.spatial(layout, 3, 64)
    expected = masked.by_plan(masked.plan_of(kept, layout, 64, "cpu"))(q, k, v, 0)
    fine = kept.repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert difference(masked.by_map(fine, 16, "cpu")(q, k, v, 0), expected) < 1e-5


def test_the_threshold_that_comes_nearest():
    def count(threshold):
        return 20 if threshold > 0.3 else 14 if threshold > 0.07 else 3

    assert 0.07 < caches.nearest(count, 15) <= 0.3
    assert caches.nearest(count, 30) > 0.3 and caches.nearest(count, 0) <= 0.07


def test_work_is_counted_by_the_step():
    shares = attention_shares()
    assert shares["Wan 2.1 14B, 69 frames, 768p"] == pytest.approx(0.70, abs=0.01)
    assert shares["MiniMax H3, 15 s, 768p"] == pytest.approx(0.79, abs=0.02)
    assert speedup([(30, 0), (30, 0)], 30, 0.7, 0.3) == 1
    assert speedup([(10, 0), (20, 0)], 30, 0.7, 0.3) == 2
    assert speedup([(0, 30)], 30, 0.75, 0.2) == pytest.approx(1 / (0.25 + 0.75 * 0.2))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for the files that the command writes."""
    monkeypatch.setattr(tables_format, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "caches.py")])
    monkeypatch.setattr(caches, "HALVINGS", 3)
    monkeypatch.setattr(caches, "SKIPPED", (0.25, 0.67))
    return tmp_path


def test_the_command_measures_every_way_and_makes_its_table(checkpoint, results):
    given = ["--comfyui", str(ENVIRONMENT.comfyui), "--checkpoint", str(checkpoint), "--tiny"]
    caches.main(given)
    found = json.loads((results / "quality-caches-tiny.json").read_text())
    assert [case["name"] for case in found["cases"]] == [str(way) for way in caches.ways()]
    by_name = {case["name"]: case for case in found["cases"]}
    for case in found["cases"]:
        ran = zip(case["dense_steps_of_seeds"], case["sparse_steps_of_seeds"], strict=True)
        ran = [sum(both) for both in ran]
        assert len(ran) == len(case["psnr_of_seeds"]) == 2 and 10 < case["psnr"] < 99
        assert case["steps_run"] == sum(ran) / 2 < found["steps"] or case["name"] == "radial"
        assert (sum(case["sparse_steps_of_seeds"]) > 0) == case["radial"]
        slower, faster = case["speedup"].values()  # H3 has more attention
        assert (slower < faster) == case["radial"]
    assert by_name["radial"]["dense_steps_of_seeds"] == [found["dense_steps"]] * 2
    assert by_name["67% fewer steps"]["steps_run"] == 4
    few, many = (by_name[f"EasyCache, {share}% skipped"] for share in (25, 67))
    assert few["threshold"] < many["threshold"]

    assert tables_quality.quality_caches() == "Not measured yet."  # on a CPU
    (results / "quality-caches-tiny.json").rename(results / "quality-caches-h200.json")
    every = tables_quality.quality_caches()
    assert len(every.splitlines()) == 2 + 1 + len(found["cases"])
    both = by_name["radial + TeaCache, 25% skipped"]["psnr_of_seeds"]
    added = [
        x - y for x, y in zip(both, by_name["TeaCache, 25% skipped"]["psnr_of_seeds"], strict=True)
    ]
    error = abs(added[0] - added[1]) / 2  # the standard error of two
    assert f" | {sum(added) / 2:+.1f} ± {error:.1f} |" in every

    draw.main("h200", results / "RESULTS.md")
    assert (results / "quality-caches-h200.png").stat().st_size > 1e4
