"""What only MiniMax H3 has: two latents in one, its own lengths, and q and k made in place."""

import pytest
import torch
import zoo
from conftest import difference, newest_only, pack_module, patch
from trainer import train

import nodes

pytestmark = newest_only("it has no MiniMax H3")

CASE = next(case for case in zoo.CASES if case.name == "minimax h3 first frame")
RADIAL_CALLS = 2 * 2  # blocks, steps
entry = pack_module("nodes.families.catalog").VIDEO_MODELS["MiniMax H3"]


def test_the_report_finds_the_run_of_a_latent(any_density):
    model, inputs = patch(CASE.model()), CASE.inputs()
    out = nodes.common_ksampler(
        *(model, 1, 2, 1.0, "euler", "simple"), inputs.positive, inputs.negative, inputs.latent
    )[0]
    run_of = pack_module("nodes.report").run_of
    run = run_of(model, out).read()
    assert run["latent"] == [1, 24, *inputs.latent["samples"].shape[2:]]
    zoo.sample(model, inputs, latent={"samples": inputs.latent["samples"][:, :, :7]})
    assert run_of(model, out).read() == run  # not the newest


@pytest.mark.parametrize("length", [1, 5, 6, 22, 23, 124, 125, 243, 362])
def test_lengths_are_those_of_comfyuis_nodes(length):
    from comfy_extras.nodes_minimax_h3 import temporal_shape

    frames, latent_frames, sound = temporal_shape(length)
    assert entry.latent(1344, 768, length) == (latent_frames, 48, 84)
    assert entry.length(latent_frames) == frames
    assert abs(entry.tokens_before(latent_frames) - entry.before - 2 * sound) < 16


def test_a_latent_of_any_length_has_a_length():
    """Each latent frame stands for 1 or 4 frames, as H3's positions have it."""
    from comfy.ldm.minimax.model import FRAME_PER_TOKEN

    for n in range(1, 40):
        assert entry.length(n) == sum(FRAME_PER_TOKEN[k % 5] for k in range(n))


def test_no_call_changes_or_copies_the_buffer_of_q_k_and_v(summaries, any_density, monkeypatch):
    """q, k and v are parts of one buffer, in which H3 normalizes and rotates q and k."""
    import comfy.ldm.minimax.model as h3

    compute, calls, shaped = pack_module("nodes.hook.compute"), [], []
    attend, to_bshd = h3.optimized_attention, compute.to_bshd

    def buffer_of(x):
        return x.untyped_storage().data_ptr()

    def spy(q, k, v, *args, **kwargs):
        before = [x.clone() for x in (q, k, v)]
        out = attend(q, k, v, *args, **kwargs)
        assert all(map(torch.equal, (q, k, v), before))
        if kwargs["transformer_options"]:  # the text refiner's have none
            calls.append({buffer_of(q), buffer_of(k), buffer_of(v)})
            assert out.untyped_storage().data_ptr() not in calls[-1]
        return out

    def shaping(*args):
        out = to_bshd(*args)
        shaped.append({buffer_of(x) for x in out})
        assert all(x.stride() == (x.stride(0), 3 * 2 * 128, 128, 1) for x in out)
        return out

    monkeypatch.setattr(h3, "optimized_attention", spy)
    monkeypatch.setattr(compute, "to_bshd", shaping)
    zoo.sample(patch(CASE.model()), CASE.inputs())
    assert summaries[0]["radial_calls"] == RADIAL_CALLS == len(calls)
    assert shaped == calls and all(len(buffers) == 1 for buffers in calls)


def test_the_text_refiner_stays_dense_in_a_pass(summaries, any_density, monkeypatch):
    """ComfyUI refines text before the first pass. Where it did not, the model does so in each."""
    model, inputs = CASE.model(), CASE.inputs()
    expected = zoo.sample(patch(model), inputs)
    monkeypatch.setattr(model.model.diffusion_model, "preprocess_text_embeds", lambda text: text)
    assert difference(zoo.sample(patch(model), inputs), expected) < 1e-5
    before, after = summaries
    assert after["radial_calls"] == before["radial_calls"] == RADIAL_CALLS
    refiner = {"outside the transformer blocks": RADIAL_CALLS}  # 2 blocks too
    assert (before["dense_calls"], after["dense_calls"]) == ({}, refiner)


def test_a_prompt_as_long_as_the_video_stays_dense_in_the_refiner(summaries, any_density):
    """With more text tokens than the video has, the refiner's calls are long enough to hold it."""
    model, inputs = CASE.model(), CASE.inputs()
    positive = zoo.minimax_h3.text(800)
    inputs = zoo.Inputs(positive, positive, inputs.latent)
    expected = zoo.sample(patch(model), inputs)
    model.model.diffusion_model.preprocess_text_embeds = lambda text: text
    assert difference(zoo.sample(patch(model), inputs), expected) < 1e-5
    assert summaries[1]["radial_calls"] == summaries[0]["radial_calls"] == RADIAL_CALLS


def test_blocks_that_say_their_index(summaries, any_density):
    """As in later versions of ComfyUI: here a replacement of each block announces it."""
    model, inputs = CASE.model(), CASE.inputs()

    def announcing(index):
        def run(args, extra):
            options = {**args["transformer_options"], "block_index": index}
            return extra["original_block"]({**args, "transformer_options": options})

        return run

    expected = zoo.sample(patch(model, dense_blocks=1), inputs)
    announced = patch(model, dense_blocks=1)
    for index in range(2):
        announced.set_model_patch_replace(announcing(index), "dit", "double_block", index)
    assert torch.equal(zoo.sample(announced, inputs), expected)
    assert summaries[0] == summaries[1]
    assert summaries[0]["dense_calls"] == {"dense block": 2}


def test_sound_hears_the_whole_video(any_density):
    """Tokens of sound attend to all frames: without the sparse rows of the video the sound is
    what dense attention makes of it. So one block, whose sound depends on no sparse row."""
    model, inputs = CASE.model(), CASE.inputs()
    blocks = model.model.diffusion_model.blocks
    del blocks[1]
    latent = inputs.latent["samples"]
    video = latent.tensors[0].numel()
    radial, dense = (zoo.sample(each, inputs, steps=1) for each in (patch(model), model))
    assert difference(radial[..., video:], dense[..., video:]) < 1e-5
    assert difference(radial[..., :video], dense[..., :video]) > 1e-3


def test_comfyui_cannot_train_it():
    """If this fails, ComfyUI can: then H3 belongs into test_training.py."""
    model = CASE.model()
    model.cached_patcher_init = (lambda disable_dynamic=False: CASE.model(), ())
    with pytest.raises(ValueError, match="Number of"):
        train(model, CASE.inputs().positive, CASE.inputs().latent["samples"])


@pytest.mark.parametrize("block_size, kept", [(128, (31, 20, 16)), (64, (27, 17, 13))])
def test_the_preset_keeps_what_the_help_page_says(block_size, kept):
    for length, percent in zip((124, 243, 362), kept, strict=True):
        latent = entry.latent(1344, 768, length)
        settings = pack_module("nodes.inputs.settings").read_settings(
            decay=0, sink_frames=-1, dense_blocks=-1, block_size=block_size
        )
        pattern, _ = settings.resolve(entry.preset, latent[0], None)
        plan = pack_module("radial_core").make_plan(pattern, entry.layout(latent))
        assert round(100 * plan.density) == percent
