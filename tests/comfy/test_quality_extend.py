"""The quality lab's length extension at a small size: Train LoRA works, and figures are right."""

import json
import sys
from argparse import Namespace

import pytest
import torch
from conftest import difference, newest_only
from small_lab import saved  # puts the lab on the path

# isort: split

import extend
import extend_stats
import extend_tune
import flow
import metrics
import model as lab_model
import video
from lab import record

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SIZE = lab_model.Size(layers=2, dim=256, frames=4, height=8, width=16)  # 32 tokens a frame
RADIAL = extend_tune.Attention(radial=True, block_size=64)
DENSE = extend_tune.Attention(radial=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(SIZE, tmp_path_factory.mktemp("extend"))


@pytest.fixture(scope="module")
def base(path):
    return lab_model.load(path, torch.float32)


@newest_only("its Train LoRA trains the model that it is given, not a copy")
@pytest.mark.parametrize("attention", [DENSE, RADIAL], ids=["dense", "radial"])
def test_tuning_lowers_the_loss_on_its_clips(base, attention):
    longer = SIZE.longer(4)
    clips = extend_tune.training_clips(longer, 1, CPU)
    held_out = flow.validation(longer, 1, 2)
    settings = {"rank": 8, "learning_rate": 0.03}
    lora, figures = extend_tune.tune(base, attention, clips, 12, 1, **settings)
    assert figures["tuning_steps"] == 12 and figures["tuning_s_a_step"] > 0
    assert figures["tuning_kernel"] == ("sdpa" if attention.radial else "ComfyUI's dense")
    trained = {name for name, x in lora.items() if "down" in name and x.any()}
    names = [
        f"diffusion_model.blocks.{block}.self_attn.{one}" for block in (0, 1) for one in "qkvo"
    ]
    assert trained == {f"{name}.lora_down.weight" for name in names}
    before, after = (
        held_out.through_comfy(attention.on(model))
        for model in (base, extend_tune.with_lora(base, lora))
    )
    assert sum(after) < 0.98 * sum(before)


def test_radial_and_dense_run_the_right_kernels(base):
    latent = SIZE.longer(4).latent
    videos = {}
    for attention, kernel in ((DENSE, "ComfyUI's dense"), (RADIAL, "sdpa")):
        model = attention.on(base)
        videos[attention.radial] = lab_model.sample(model, [1], latent, steps=2)
        assert attention.ran(model) == kernel
    assert difference(videos[True], videos[False]) > 1e-4


def test_the_wrong_kernel_is_an_error(base):
    model = RADIAL.on(base)
    lab_model.sample(model, [1], SIZE.longer(4).latent, steps=1)
    with pytest.raises(RuntimeError, match="radial is False"):
        DENSE.ran(model)


@pytest.fixture(scope="module")
def real():
    return extend_stats.Real((8, 32, 64), 8, CPU)


def test_real_clips_are_like_real_clips(real):
    floor = real.floor
    assert 0 < floor["frechet"] < 20
    for name in ("motion", "sharpness"):
        assert floor[name] == pytest.approx(1, abs=0.4)
    known = torch.cat([real.clips(2 + i) for i in range(extend_stats.KNOWN // real.count)])
    itself = real.compare(known)
    assert itself["frechet"] == pytest.approx(0, abs=1e-3)
    assert itself["motion"] == itself["sharpness"] == 1


def test_damage_is_detected_in_the_right_quarter(real):
    clips = real.clips(0)
    still = clips.clone()
    still[:, 4:] = still[:, 4:5]
    found = real.compare(still)
    first, _, third, last = found["motion_quarters"]
    assert first > 0.5 and third == last == 0
    noisy = clips.clone()
    noisy[:, 6:] = (noisy[:, 6:] + 0.2 * torch.randn(noisy[:, 6:].shape)).clamp(0, 1)
    found = real.compare(noisy)
    assert found["sharpness_quarters"][3] > 2 > found["sharpness_quarters"][0]
    assert found["frechet_quarters"][3] > 3 * found["frechet_quarters"][0]


def test_frechet_distance_of_gaussians():
    random = torch.Generator().manual_seed(0)
    crowd = torch.randn(20_000, 3, generator=random, dtype=torch.float64)
    other = crowd * torch.tensor([2.0, 1.0, 1.0]) + torch.tensor([0.0, 3.0, 0.0])
    # (2 - 1)^2 of the spread and 3^2 of the mean.
    assert extend_stats.frechet(crowd, other) == pytest.approx(10, rel=0.05)
    assert extend_stats.frechet(crowd, crowd) == pytest.approx(0, abs=1e-9)


def test_the_clips_to_tune_on_differ_and_are_in_comfyuis_format():
    clips = extend_tune.training_clips(SIZE, 9, CPU)
    assert clips.shape == (9, 16, *SIZE.latent) and clips.dtype == torch.bfloat16
    import codec

    pixels = codec.decode(codec.from_comfy(clips.float()))
    truth = video.clips(extend_tune.TRAINING_SEED, 8, *SIZE.pixels)
    assert metrics.psnr(pixels[:8], truth).mean() > 25
    assert not any(torch.equal(clips[8], clip) for clip in clips[:8])


@newest_only("its Train LoRA trains the model that it is given, not a copy")
def test_the_whole_command(path, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "extend.py")])
    given = dict(checkpoint=path, lengths=[2], methods=list(extend.METHODS), steps=2, batch=1)
    given |= dict(rank=4, learning_rate=1e-3, seeds=2, sampling_steps=2, held_out=1)

    def run(**changed):
        extend.run(SIZE, "test", Namespace(**given | changed), CPU, "0")
        return json.loads((tmp_path / "quality-extend-test.json").read_text())

    found = run()
    rows, sheet = found["cases"], tmp_path / "quality-extend-2x-test.jpg"
    assert [row["times"] for row in rows] == [1, 1, 2, 2, 2, 2]
    assert all(row["val_loss"] > 0 for row in rows)
    assert set(found["real"]) == {"1x", "2x"}
    assert sheet.stat().st_size > 1000

    sheet.unlink()
    ran = []
    monkeypatch.setattr(extend, "show", lambda row: ran.append(row["name"]))
    again = run(methods=["untouched, radial"], lengths=[3])
    assert ran == ["1x, untouched, radial", "3x, untouched, radial"]
    names = [row["name"] for row in again["cases"]]
    assert names == [*(row["name"] for row in rows), "3x, untouched, radial"]
    assert [again["cases"][0], *again["cases"][2:6]] == [rows[0], *rows[2:]]
    assert set(again["real"]) == {"1x", "2x", "3x"} and not sheet.exists()

    other = tmp_path / "other.safetensors"
    lab_model.save(lab_model.build(SIZE).state_dict(), other)  # its output is 0
    found = run(checkpoint=other, methods=["untouched, dense"], lengths=[])
    assert [row["name"] for row in found["cases"]] == ["1x, untouched, dense"]
