"""The quality lab's video, codec, model and training, at a small size in the real ComfyUI."""

import comfy.supported_models
import pytest
import torch
from small_lab import saved  # puts the lab on the path

# isort: split

import codec
import decay
import flow
import learn
import model
import muon
import train
import video

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SMALL = model.Size(layers=2, dim=128, frames=3, height=8, width=12)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(SMALL, tmp_path_factory.mktemp("quality"))


@pytest.fixture(scope="module")
def patcher(path):
    return model.load(path, torch.float32)


def test_a_clip_does_not_depend_on_its_number_of_frames():
    short, long = (video.clips(3, 2, frames, 32, 64) for frames in (4, 12))
    assert short.shape == (2, 4, 32, 64, 3)
    assert torch.equal(short, long[:, :4])
    assert long.min() >= 0 and long.max() <= 1


def test_clips_move_and_differ():
    clips = video.clips(3, 2, 12, 32, 64)
    assert ((clips[:, 1:] - clips[:, :-1]).abs().mean(dim=(2, 3, 4)) > 0.01).all()
    assert (clips[0] - clips[1]).abs().mean() > 0.05
    assert (clips - video.clips(4, 2, 12, 32, 64)).abs().mean() > 0.05


def test_the_codec_keeps_a_clip():
    clips = video.clips(3, 8, 2, 128, 256)
    latents = codec.encode(clips)
    assert latents.shape == (8, 16, 2, 32, 64)
    assert 0.7 < latents.var() < 1.4
    assert (codec.decode(latents) - clips).square().mean() < 1e-4 * 2  # 37 dB


def test_the_codec_restores_latents_of_pictures_in_range():
    random = torch.Generator().manual_seed(2)
    latents = 0.02 * torch.randn(1, 16, 2, 3, 5, generator=random)  # near grey: nothing is clamped
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.from_comfy(codec.to_comfy(latents)), latents)


@pytest.mark.parametrize("shape", [(2, 32, 64, 3), (1, 2, 30, 64, 3)], ids=["no frames", "30 rows"])
def test_the_codec_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="expected pixels"):
        codec.encode(torch.zeros(shape))


def test_comfyui_loads_the_checkpoint_as_wan_with_its_schedule(patcher):
    assert type(patcher.model.model_config) is comfy.supported_models.WAN21_T2V
    assert patcher.cached_patcher_init is not None  # by which TrainLoraNode copies a model
    t = torch.tensor([0.1, 0.5, 1.0])
    sampling = patcher.get_model_object("model_sampling")
    torch.testing.assert_close(sampling.sigma(1000 * t), flow.sigmas(t))


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="train.py"):
        model.load(tmp_path / "none.safetensors")


def test_a_seeds_video_does_not_depend_on_the_batch(patcher):
    single = model.sample(patcher, [2], SMALL.latent, steps=3)
    both = model.sample(patcher, [1, 2], SMALL.latent, steps=3)
    torch.testing.assert_close(both[1:], single, atol=1e-4, rtol=0)
    assert (both[0] - both[1]).abs().mean() > 0.1
    assert codec.decode(both).shape == (2, *SMALL.pixels, 3)


def test_sampling_longer_than_the_trained_length(patcher):
    size = SMALL.longer(4)
    assert size.frames == 12
    assert model.sample(patcher, [1], size.latent, steps=1).shape == (1, 16, 12, 8, 12)


def test_training_and_comfyui_agree_on_the_loss(path, patcher):
    net = model.build(SMALL)
    net.load_state_dict(model.load(path, torch.float32).model.diffusion_model.state_dict())
    held_out = flow.validation(SMALL, count=3, levels=2)
    with flow.training():
        trained = held_out(net)
    assert trained == pytest.approx(held_out.through_comfy(patcher), rel=1e-3)
    # Changing the head changes the loss; otherwise the two would agree for any model.
    with torch.no_grad():
        net.head.head.weight.zero_()
    assert abs(held_out(net)[0] - trained[0]) > 0.01


def test_the_loss_of_a_linear_guess():
    held_out = flow.validation(SMALL, count=3, levels=3)
    spread = held_out.clean.var(dim=(0, 2, 3, 4), keepdim=True)
    for level, expected in zip(held_out.levels, held_out.linear(), strict=True):
        x = level * held_out.noise + (1 - level) * held_out.clean
        slope = (level - (1 - level) * spread) / (level**2 + (1 - level) ** 2 * spread)
        error = held_out.noise - held_out.clean - slope * x
        error = error - error.mean(dim=(0, 2, 3, 4), keepdim=True)
        assert error.square().mean().item() == pytest.approx(expected, rel=0.1)


def test_a_batch_spreads_over_the_schedule():
    clean, noise, sigma = flow.batch(SMALL, 5, 0, torch.Generator().manual_seed(0))
    assert clean.shape == noise.shape == (5, 16, *SMALL.latent)
    t = sigma / (model.SHIFT - (model.SHIFT - 1) * sigma)
    assert (5 * t).long().tolist() == [0, 1, 2, 3, 4]


def test_the_recipe_warms_up_and_falls_to_zero():
    recipe = learn.LAB
    assert recipe.pace(0, 0.0) == pytest.approx(1 / recipe.warm_up)
    assert recipe.pace(10_000, recipe.falls) == pytest.approx(1)
    assert recipe.pace(10_000, 0.999) < 0.01
    assert recipe.stage(0.0)[0] < recipe.stage(0.999)[0] == model.LAB.frames


@pytest.mark.parametrize("frames, count", [(16, 4), (32, 2), (48, 1), (100, 1)])
def test_longer_clips_are_fewer_a_step(frames, count):
    recipe = learn.for_clips_of(frames, learn.LAB)
    assert recipe.stage(0.39) == learn.LAB.stage(0.39) == (4, 16)
    assert recipe.stage(0.41) == recipe.stage(0.999) == (frames, count)
    assert (recipe == learn.LAB) == (frames == 16)


def test_a_step_of_muon_equals_torchs():
    random = torch.Generator().manual_seed(5)
    shapes = ((8, 24), (24, 8), (16, 16), (16, 16))
    start = [torch.randn(shape, generator=random) for shape in shapes]
    ours, theirs = ([x.clone().requires_grad_() for x in start] for _ in range(2))
    one = muon.Muon(ours)
    other = torch.optim.Muon(
        theirs, lr=0.01, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        for x, y in zip(ours, theirs, strict=True):
            x.grad = torch.randn(x.shape, generator=random)
            y.grad = x.grad.clone()
        one.step(0.01)
        other.step()
    for x, y, before in zip(ours, theirs, start, strict=True):
        assert (x - y).norm() < 0.04 * (y - before).norm()  # bfloat16


def test_all_blocks_share_one_graph():
    """Otherwise compiling would take a large part of the 8 minutes."""
    torch._dynamo.reset()
    learner = learn.Learner(SMALL, learn.TINY, 0, CPU)
    for block in learner.net.blocks:
        block.compile(dynamic=False, backend="aot_eager", fullgraph=True)
    learn.counters.clear()
    with flow.training():
        for _ in range(2):
            learner.step(2, 2, 1.0)
    assert learn.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_it_learns():
    learner = learn.Learner(SMALL, learn.TINY, 0, CPU)
    held_out = flow.validation(SMALL, count=4, levels=2)
    before = learn.mean(held_out(learner.average))
    with flow.training():
        for step in range(20):
            learner.step(2, 4, learn.TINY.pace(step, 0.0))
    assert learn.mean(held_out(learner.average)) < 0.95 * before


def test_a_training_run_gives_a_model_and_its_figures():
    average, held_out, figures = learn.learn(SMALL, learn.TINY, 2, 0, CPU)
    assert figures["curve"][-1]["steps"] == figures["steps"] > 0
    assert figures["val_loss"] == pytest.approx(learn.mean(held_out(average)), abs=1e-3)
    assert figures["tokens"] == 3 * 4 * 6


def test_attention_by_distance_equals_a_simple_computation():
    random = torch.Generator().manual_seed(4)
    grid = (3, 2, 3)
    q, k = (torch.randn(2, 2, 18, 8, generator=random) for _ in range(2))
    sums = decay.Sums(grid, CPU)
    sums.add(q, k)
    weights = (q @ k.mT * 8**-0.5).softmax(-1).mean(dim=(0, 1))
    frame, row, column = torch.cartesian_prod(*(torch.arange(n) for n in grid)).t()
    apart = (frame[:, None] - frame).abs()
    away = ((row[:, None] - row).square() + (column[:, None] - column).square()).sqrt().round()
    found = sums.means()
    for d in range(3):
        expected = weights[apart == d].mean()
        torch.testing.assert_close(found["frames"][d].float(), expected)
        torch.testing.assert_close(
            found["same_place"][d].float(), weights[(apart == d) & (away == 0)].mean()
        )
        torch.testing.assert_close(
            found["places"][d].float(), weights[(apart == 0) & (away == d)].mean()
        )


def test_the_fit_finds_a_decay():
    values = (-0.7 * torch.arange(8) - 2).double().exp()
    assert decay.fit(values) == {"a": 0.7, "b": -2.0, "r2": 1.0}


def test_decay_is_measured_in_every_layer(patcher):
    held_out = flow.validation(SMALL, count=2, levels=1)
    found = decay.measure(patcher, held_out.clean, held_out.noise)
    assert len(found["layers"]) == SMALL.layers
    for kinds in (found["all"], *found["layers"]):
        assert len(kinds["frames"]["mean"]) == SMALL.frames
        # The distances of a query share all of its probability.
        assert 1 / 100 < kinds["frames"]["mean"][0] * SMALL.frames * SMALL.frame_tokens < 100


def test_the_sheet_of_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(train.record, "ROOT", tmp_path)
    train.sheet(SMALL, torch.zeros(4, 16, *SMALL.latent), tmp_path / "results/sheet.jpg")
    assert (tmp_path / "results/sheet.jpg").stat().st_size > 1000
