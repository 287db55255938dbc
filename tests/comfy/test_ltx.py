"""What only LTX has: guides, sound of its own, and passes in which blocks lack their attention."""

import comfy.ldm.modules.attention
import pytest
import torch
import zoo
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from conftest import OLDEST, VERSION, difference, newest_only, pack_module, patch, with_override
from test_models import oracle
from zoo import lightricks as ltx
from zoo import sample

pytestmark = [pytest.mark.usefixtures("any_density"), pytest.mark.oldest]

PASSES, BLOCKS = 2, 3
IN_PARTS = "guides with a mask or a strength other than 1"
MASKED = {"strength": 1.0, "attention_mask": torch.rand(1, 192, 320)}


def case_of(name: str):
    return next(case for case in ltx.CASES if case.name == name)


VIDEO, SOUND = case_of("ltx-video t2v, a pass a prompt"), case_of("ltx-2 i2v with sound")
GUIDES, GUIDES_AND_SOUND = case_of("ltx-video guides"), case_of("ltx-2.3 guides with sound")


@pytest.mark.parametrize(
    "options",
    [{"strength": 0.5}, pytest.param(MASKED, marks=newest_only("its guides have no mask"))],
    ids=["half the strength", "a mask"],
)
def test_weaker_guides_stay_dense_and_the_report_says_why(summaries, options):
    model, inputs = GUIDES.model(), ltx.guides(**options)
    assert torch.equal(sample(patch(model), inputs), sample(model, inputs))
    (summary,) = summaries
    why = "attention mask" if VERSION == OLDEST.version else IN_PARTS
    assert summary["radial_calls"] == 0
    assert summary["dense_calls"][why] == PASSES * BLOCKS
    assert why in summary["text"]


@newest_only("its guides have no mask")
def test_a_guide_with_a_mask_of_ones_is_like_one_without(summaries):
    whole = ltx.guides(strength=1.0, attention_mask=torch.ones(1, 192, 320))
    expected = sample(patch(GUIDES.model()), GUIDES.inputs())
    assert torch.equal(sample(patch(GUIDES.model()), whole), expected)
    assert summaries[1] == summaries[0] and summaries[0]["radial_calls"] == PASSES * BLOCKS


def test_guides_attend_to_everything(summaries):
    """The video's rows are sparse, the guides' are dense: what one block makes of them."""
    model, inputs = GUIDES.model(), GUIDES.inputs()
    del model.model.diffusion_model.transformer_blocks[1:]
    outputs = []

    def spy(block, args, output):
        outputs.append(output.clone())

    handle = model.model.diffusion_model.transformer_blocks[0].register_forward_hook(spy)
    for each in (patch(model), model):
        sample(each, inputs, steps=1)
    handle.remove()
    guides, (radial, dense) = 2 * ltx.FRAME, outputs
    assert difference(radial[:, -guides:], dense[:, -guides:]) < 1e-6
    assert difference(radial[:, :-guides], dense[:, :-guides]) > 1e-3


def with_sound_of(latents: int):
    inputs = SOUND.inputs()
    samples = inputs.latent["samples"]
    samples.tensors[1] = torch.zeros(1, 8, latents, 16)
    masks = inputs.latent["noise_mask"]
    masks.tensors[1] = torch.ones(1, 8, latents, 16)
    return inputs


def test_sound_as_long_as_the_video_is_told_apart_or_left(summaries):
    """540 tokens each: nothing but its head_dim tells one from the other. 541 are no video."""
    model = SOUND.model()
    same, longer = with_sound_of(540), with_sound_of(541)
    assert torch.equal(sample(patch(model), same), sample(model, same))
    assert summaries[0]["radial_calls"] == 0
    (why,) = (why for why in summaries[0]["dense_calls"] if "540 tokens" in why)
    sample(patch(model), longer)
    assert summaries[1]["radial_calls"] == PASSES * BLOCKS
    assert why not in summaries[1]["dense_calls"]


@newest_only("it has no reference for the sound")
def test_a_voice_to_sound_like_is_part_of_the_sound(summaries):
    inputs = SOUND.inputs()
    for _, values in (*inputs.positive, *inputs.negative):
        values["ref_audio"] = {"tokens": zoo.case.normal(1, 12, 128)}
    sample(patch(SOUND.model()), inputs)
    assert summaries[0]["radial_calls"] == PASSES * BLOCKS
    assert summaries[0]["dense_calls"]["attention over text or sound alone"] == PASSES * BLOCKS
    assert len(summaries[0]["dense_calls"]) == 2  # the other one is cross-attention


def perturbed(model, block: int):
    """As the STG nodes of LTXVideo do it: all passes go through a function around each block, and
    in that of one block, the first call of the attention that modules look up returns v."""

    def around(index):
        def run(args, extra):
            module = comfy.ldm.modules.attention
            kept, calls = module.optimized_attention, []

            def first_is_v(q, k, v, *rest, **named):
                calls.append(q)
                return v if len(calls) == 1 else kept(q, k, v, *rest, **named)

            module.optimized_attention = first_is_v if index == block else kept
            try:
                return extra["original_block"](args)
            finally:
                module.optimized_attention = kept

        return run

    model = model.clone()
    for index in range(BLOCKS):
        model.set_model_patch_replace(around(index), "dit", "double_block", index)
    return model


@pytest.mark.parametrize("case", [VIDEO, SOUND], ids=lambda case: case.name)
def test_perturbed_attention(case, summaries):
    """The block whose attention is left out is none of ours, and the others keep their numbers."""
    model, inputs = case.model(), case.inputs()
    passes = PASSES * (2 if case is VIDEO else 1)
    turns = iter([0, 2] * passes)
    exact = oracle(case, lambda number, block: next(turns) < 1)
    truth = sample(with_override(perturbed(model, 1), exact), inputs)
    for both in (
        perturbed(patch(model, dense_blocks=1), 1),
        patch(perturbed(model, 1), dense_blocks=1),
    ):
        assert difference(sample(both, inputs), truth) < 1e-4
        calls = summaries[-1]["dense_calls"]
        assert summaries[-1]["radial_calls"] == calls["dense block"] == passes
        replaced = "optimized_attention is replaced by test_ltx, and asks no attention hook"
        assert calls[replaced] == passes


@pytest.mark.parametrize("case", [VIDEO, SOUND], ids=lambda case: case.name)
def test_skipped_blocks(case, summaries):
    """ComfyUI's skip-layer guidance: a further pass each step, without the second block."""
    model, inputs = case.model(), case.inputs()
    passes = PASSES * (2 if case is VIDEO else 1)
    values = {"scale": 2.0, "double_layers": "1", "start_percent": 0.0, "end_percent": 1.0}

    def guided(model):
        return SkipLayerGuidanceDiT.execute(model, **values).args[0]

    step = [0, 1, 2] * (passes // PASSES) + [0, 2]
    turns = iter(step * PASSES)
    exact = oracle(case, lambda number, block: next(turns) < 2)
    truth = sample(with_override(guided(model), exact), inputs)
    for both in (guided(patch(model, dense_blocks=2)), patch(guided(model), dense_blocks=2)):
        assert difference(sample(both, inputs), truth) < 1e-4
        assert summaries[-1]["dense_calls"]["dense block"] == sum(n < 2 for n in step) * PASSES
        assert summaries[-1]["radial_calls"] == step.count(2) * PASSES


@newest_only("its windows know no guides")
def test_windows_of_a_video_with_guides_and_sound(summaries):
    """Each window has the guides that are in it, and its part of the sound."""
    model, inputs = GUIDES_AND_SOUND.model(), GUIDES_AND_SOUND.inputs()
    settings = (5, 2, "standard_static", 1, False, "pyramid", 2, False)

    def windows(model):
        return ContextWindowsManualNode.execute(model, *settings).args[0]

    plain = sample(windows(model), inputs)
    everything = {"decay": 4.0, "sink_frames": 100}
    assert difference(sample(windows(patch(model, **everything)), inputs), plain) < 1e-4
    (summary,) = summaries
    assert summary["radial_calls"] == BLOCKS * summary["model_calls"] > PASSES * BLOCKS
    assert difference(sample(windows(patch(model)), inputs), plain) > 1e-3


models = pack_module("nodes.families.catalog").VIDEO_MODELS
AUTOMATIC = pack_module("nodes.inputs.settings").Settings(None, 1, None, None, None, 128)


@pytest.mark.parametrize("name", [name for name in models if name.startswith("LTX")])
def test_lengths_are_those_of_comfyuis_nodes(name):
    for length in (1, 9, 97, 121, 257, 505):
        latent = ltx.empty(width=1280, height=704, length=length)["samples"].shape[2:]
        assert models[name].latent(1280, 704, length) == tuple(latent)
        assert models[name].length(latent[0]) == length


@pytest.mark.parametrize("name, longest", [("LTX-Video 2B", 321), ("LTX-2", 633)])
def test_the_preset_is_for_the_lengths_on_the_help_page(name, longest):
    for length, decay in ((121, 0.6), (longest, 0.6), (longest + 8, 1.0)):
        frames = models[name].latent(1280, 704, length)[0]
        pattern, _ = AUTOMATIC.resolve(models[name].preset, frames, None)
        assert pattern.decay == decay


def test_the_second_of_two_stages_has_no_dense_first_step():
    """Of a distilled model: the first takes 8 steps, the second 3 from sigma 0.909."""
    noise = pack_module("radial_core.noise_levels")
    first = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0]
    sampling = SOUND.model().get_model_object("model_sampling")
    for sigmas, dense_steps in ((first, 2), (first[5:], 0)):
        levels = noise.without_jump(noise.noise_levels(sigmas, sampling.percent_to_sigma))
        _, schedule = AUTOMATIC.resolve(models["LTX-2"].preset, 33, levels)
        assert (schedule.dense_steps, schedule.dense_last_steps) == (dense_steps, 1)
