"""The quality lab's comparison: masks run exactly, and metrics detect what they should."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from conftest import ENVIRONMENT, difference
from small_lab import saved  # puts the lab on the path

# isort: split

import compare
import draw
import ground
import masked
import masks
import metrics
import model as lab_model
import video
from grid import Mask, Row
from lab import record

from radial_core import Schedule, VideoLayout

pytestmark = pytest.mark.slow

SIZE = replace(lab_model.TINY, frames=8, height=16, width=32)  # 8 frames of 8 x 16 tokens
EVERYTHING = Row("", Mask("everything"))
RADIAL = Row("", Mask("radial", 64, decay=0.2, sink_frames=1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(lab_model.TINY, tmp_path_factory.mktemp("lab"), sharper=3)


@pytest.fixture(scope="module")
def lab(checkpoint):
    model = lab_model.load(checkpoint)
    return ground.Ground(model, SIZE, seeds=2, steps=4, device=torch.device("cpu"))


def sampled(lab, model):
    return lab_model.sample(model, [5], SIZE.latent, lab.steps)


def test_a_map_that_keeps_everything_is_dense(lab):
    dense = sampled(lab, lab.model)
    assert difference(sampled(lab, lab.patched(EVERYTHING)), dense) < 1e-5
    assert difference(sampled(lab, lab.patched(RADIAL)), dense) > 1e-4


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(1, 1, 1)], ids=["sparse", "some dense"])
def test_radial_by_the_labs_hook_equals_the_node(lab, schedule):
    row = replace(RADIAL, schedule=schedule)
    attention, density = lab.attention(row.mask)
    ours = masked.masked(lab.model, attention, lab.layout.tokens, schedule)
    assert difference(sampled(lab, ours), sampled(lab, lab.patched(row))) < 1e-6
    sparse = 8 if schedule == Schedule() else 2  # pairs of a step and a block, of 8
    kept = ground.kept_of_all(row, density, lab.steps, lab.layers)
    assert kept == pytest.approx(1 - (1 - density) * sparse / 8)


def draw_qkv(layout, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, layout.tokens, 2, 16, generator=random).unbind(0)


def test_every_way_to_run_a_map_is_exact_masked_attention():
    layout = VideoLayout(4, 8, 16)
    q, k, v = draw_qkv(layout)
    kept = masks.spatial(layout, 3, 64)
    keep = kept.repeat_interleave(64, 0).repeat_interleave(64, 1)
    heads = (x.transpose(1, 2) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=keep)
    expected = expected.transpose(1, 2)
    plan = masked.plan_of(kept, layout, 64, "cpu")
    rows = kept.nonzero()[:, 1].view(8, 3).expand(2, 2, 8, 3)
    for out in (
        masked.by_plan(plan)(q, k, v, 0),
        masked.by_head([[plan, plan]])(q, k, v, 0),
        masked.gathered(q, k, v, rows, 64),
    ):
        assert difference(out, expected) < 1e-5


def test_a_map_for_reordered_tokens_is_exact_masked_attention():
    layout = VideoLayout(4, 8, 16)
    q, k, v = draw_qkv(layout)
    order, kept = masks.tile_order(layout, 64), masks.tile_window(layout, 5, 64)
    tile = order.argsort() // 64
    heads = (x.transpose(1, 2) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *heads, attn_mask=kept[tile[:, None], tile]
    )
    out = masked.by_plan(masked.plan_of(kept, layout, 64, "cpu"), order)(q, k, v, 0)
    assert difference(out, expected.transpose(1, 2)) < 1e-5


def test_the_oracle_keeps_most_attention_and_is_dense_when_it_keeps_everything(lab):
    everything = lab.layout.tokens // 64
    assert lab.error(Mask("oracle", 64, everything)) < 1e-5
    errors = [lab.error(Mask("oracle", 64, keep)) for keep in (2, 6, 12)]
    assert errors == sorted(errors, reverse=True)
    for call in lab.calls:
        mass = masks.block_mass(call.q, call.k, 64)
        most = mass[masks.most_mass(mass, 6)].sum()
        for name in ("sliding", "spatial", "temporal"):
            kept = Mask(name, 64, 6, sink_frames=0).block_map(lab.layout)
            assert mass[..., kept].sum() < most


def test_the_loss_with_a_mask_that_keeps_everything_is_the_models_own(lab):
    assert lab.masked_loss(EVERYTHING) == pytest.approx(lab.loss(lab.model), rel=1e-5)
    assert lab.masked_loss(RADIAL) != pytest.approx(lab.loss(lab.model), rel=1e-5)


@pytest.fixture(scope="module")
def clip():
    return video.clips(3, 2, 6, 64, 128)


def blurred(clip, width):
    images = clip.flatten(0, 1).permute(0, 3, 1, 2)
    images = torch.nn.functional.avg_pool2d(images, width, 1, width // 2, count_include_pad=False)
    return images.permute(0, 2, 3, 1).view_as(clip)


def noisy(clip, size):
    return clip + size * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))


def shifted(clip, pixels):
    return clip.roll(pixels, dims=3)


@pytest.mark.parametrize(
    "spoil, steps",
    [(blurred, (3, 5, 9)), (noisy, (0.02, 0.05, 0.2)), (shifted, (1, 2, 4))],
    ids=["blur", "noise", "shift"],
)
def test_every_metric_gets_worse_with_the_damage(clip, spoil, steps):
    spoiled = [clip, *(spoil(clip, step) for step in steps)]
    lpips = [metrics.lpips_like(x, clip).mean().item() for x in spoiled]
    assert lpips[0] == 0 and lpips == sorted(set(lpips))
    for measure, same in ((metrics.psnr, 100), (metrics.ssim, 1)):
        values = [measure(x, clip).mean().item() for x in spoiled]
        assert values[0] == pytest.approx(same) and values == sorted(set(values), reverse=True)


def test_psnr_is_computed_for_each_frame(clip):
    wrong = clip.clone()
    wrong[1, 2] += 0.1
    psnr = metrics.psnr(wrong, clip)
    assert psnr.shape == (2, 6) and psnr[1, 2].item() == pytest.approx(20, abs=0.01)
    assert (psnr.flatten() > 99).sum() == 11


def test_a_video_that_jumps_is_less_consistent(clip):
    still = clip[:, :1].expand_as(clip)
    jumping = torch.stack([clip[0], clip[1]], dim=1).flatten(0, 1)[None, :6]  # of two scenes
    moving = metrics.consistency(clip)
    assert metrics.consistency(still).allclose(torch.ones(2), atol=1e-5)
    assert metrics.consistency(jumping).item() < moving.min().item() < 1


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for the files that a script writes."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "compare.py")])
    return tmp_path


def test_the_command_measures_every_method_and_keeps_earlier_rows(checkpoint, results, capsys):
    def run(*options):
        compare.main(
            ["--comfyui", str(ENVIRONMENT.comfyui), "--checkpoint", str(checkpoint), "--tiny"]
            + list(options)
        )
        return json.loads((results / "quality-compare-tiny.json").read_text())

    found = run()
    methods = {row["mask"]["method"] for row in found["cases"]}
    assert {"radial", "released", "sliding", "spatial", "temporal", "tile"} < methods
    assert {"mean_all", "mean_heads", "oracle", "sol", "everything"} < methods
    if not torch.cuda.is_available():
        (missing,) = (row for row in found["cases"] if "missing" in row)
        assert missing["mask"]["method"] == "sol" and "sol_attn" in missing["missing"]
    for row in found["cases"]:
        if "missing" not in row:
            assert 0 < row["density"] <= row["kept_flops"] <= 1 and row["psnr"] > 20
    again = run("--only", "spatial")
    names = [[row["name"] for row in each["cases"]] for each in (found, again)]
    assert sorted(names[0]) == sorted(names[1])
    assert "The front of all masks" in capsys.readouterr().out

    draw.main("tiny", results / "RESULTS.md")
    text = (results / "RESULTS.md").read_text()
    assert all(f"| {row['name']} |" in text for row in found["cases"])
    assert (results / "quality-compare-tiny.png").exists()
    assert "Not measured" in capsys.readouterr().out  # the training, for one
