"""The output of a patched model, compared with the unpatched one and the oracle's attention."""

from types import SimpleNamespace

import pytest
import torch
from conftest import difference, load, pack_module, patch, sample, with_blocks

CASES = {
    "cfg in one batch": {},
    "no cfg": {"cfg": 1.0},
    "two videos at a time": {"batch": 2},
    "odd resolution": {"frames": 11, "height": 13, "width": 15},
    "long and narrow": {"frames": 40, "height": 4, "width": 16},
    "large frames": {"frames": 3, "height": 32, "width": 34},
}


def core():
    return pack_module("radial_core"), pack_module("radial_core.reference")


def with_oracle_attention(model, grid, pattern):
    """The model with its self-attention computed by the oracle, without our hook.

    Token t of the video is position t % s of frame t // s: here the test states the layout
    independently of the pack.
    """
    radial_core, reference = core()
    plan = radial_core.make_plan(pattern, radial_core.VideoLayout(*grid))
    calls = []

    def override(func, q, k, v, heads, mask=None, **kwargs):
        if k.shape[1] != plan.tokens:
            return func(q, k, v, heads, mask=mask, **kwargs)
        calls.append(q.shape)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        return reference.reference_attention(q, k, v, plan).to(q.dtype).flatten(2)

    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model, calls


def grid_of(case):
    defaults = {"frames": 9, "height": 12, "width": 20}
    frames, height, width = (case.get(name, n) for name, n in defaults.items())
    return frames, -(-height // 2), -(-width // 2)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_plan_that_keeps_everything_changes_nothing(wan, case, summaries, any_density):
    kept = sample(patch(wan, sink_frames=1000, decay=4.0), **case)
    assert difference(kept, sample(wan, **case)) < 1e-4
    (summary,) = summaries
    assert summary["radial_calls"] == 3 * summary["model_calls"] and summary["density"] == 1


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_radial_plan_is_the_oracles_attention(wan, case, summaries):
    radial_core, _ = core()
    pattern = radial_core.RadialPattern(0.2, 1, 64)
    oracle, calls = with_oracle_attention(wan, grid_of(case), pattern)
    truth = sample(oracle, **case)
    radial = sample(patch(wan), **case)
    (summary,) = summaries
    assert len(calls) == summary["radial_calls"] > 0 and summary["density"] < 1
    assert difference(radial, truth) < 1e-4
    assert difference(sample(wan, **case), truth) > 1e-3  # the plan matters


def test_cfg_in_two_batches(wan, summaries, monkeypatch):
    together = sample(patch(wan))
    monkeypatch.setattr(type(wan), "get_free_memory", lambda self, device: 0)
    assert difference(sample(patch(wan)), together) < 1e-5
    assert [s["model_calls"] for s in summaries] == [2, 4]
    assert all(s["steps"] == 2 for s in summaries)


def test_image_to_video(summaries, any_density):
    """The same class as text to video, with image tokens in its cross-attention."""
    from comfy.ldm.wan.model import WanModel
    from headless.standins.weights import OPERATIONS, random_weights

    net = WanModel(
        model_type="i2v",
        dim=256,
        ffn_dim=256,
        num_heads=2,
        num_layers=2,
        text_dim=16,
        in_dim=36,
        **OPERATIONS,
    )
    model = load(random_weights(net), {"config": '{"transformer": {"text_dim": 16}}'})
    image = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280))
    case = {"condition": {"clip_vision_output": image}}
    everything = {"sink_frames": 1000, "decay": 4.0}
    assert difference(sample(patch(model, **everything), **case), sample(model, **case)) < 1e-4
    radial_core, _ = core()
    oracle, _ = with_oracle_attention(model, (9, 6, 10), radial_core.RadialPattern(0.2, 1, 64))
    assert difference(sample(patch(model), **case), sample(oracle, **case)) < 1e-4
    assert all(s["radial_calls"] == 2 * s["model_calls"] for s in summaries)


def test_the_mask_in_the_models_own_output(wan_weights):
    """In a one-block model, changing one patch of one frame may only change the patches that attend
    to it. This ties the mask to pixels, independently of the layout in the code."""
    model = with_blocks(1, *wan_weights)
    radial_core, _ = core()
    grid = frames, rows, columns = 9, 6, 10
    model = patch(model, sink_frames=0, decay=0.05)
    options = {"steps": 1, "cfg": 1.0, "denoise": 0.5, "disable_noise": True}

    def output(latent):
        return sample(model, latent=latent, **options)

    base = torch.randn(1, 16, frames, 2 * rows, 2 * columns)
    changed = base.clone()
    frame, row, column = 6, 3, 7
    changed[:, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 3
    moved = (output(changed) - output(base)).abs().amax(1)[0]  # (f, h, w)
    moved = moved.unflatten(1, (rows, 2)).unflatten(3, (columns, 2)).amax((2, 4)).flatten() > 0

    plan = radial_core.make_plan(
        radial_core.RadialPattern(0.05, 0, 64), radial_core.VideoLayout(*grid)
    )
    token = torch.arange(frames * rows * columns) // 64
    source = (frame * rows + row) * columns + column
    attends = plan.block_mask()[token, source // 64]
    assert torch.equal(moved, attends) and not attends.all()
