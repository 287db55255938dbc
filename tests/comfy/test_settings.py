"""The presets: what the node's inputs stand for when left as they are."""

import comfy.samplers
import pytest
from conftest import pack_module, patch, sample, with_wrapper

import nodes

AUTOMATIC = {"dense_steps": -1, "dense_blocks": -1, "sink_frames": -1, "decay": 0}
settings = pack_module("nodes.inputs.settings")
PRESETS = {
    preset.name: preset
    for family in pack_module("nodes.families.registry").FAMILIES
    for preset in family.presets
}


def resolved(preset, frames, steps, shift=5.0, part=slice(None), scheduler="simple"):
    """(decay, sink frames, dense steps, dense blocks) of a schedule or a part of it."""
    sampling = flow(shift)
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps).tolist()[part]
    quarter = sampling.percent_to_sigma(settings.QUARTER)
    automatic = settings.Settings(None, 1, None, None, None, 128)
    pattern, schedule = automatic.resolve(PRESETS[preset], frames, sigmas, quarter)
    return pattern.decay, pattern.sink_frames, schedule.dense_steps, schedule.dense_blocks


def flow(shift):
    from comfy.model_sampling import ModelSamplingDiscreteFlow

    sampling = ModelSamplingDiscreteFlow()
    sampling.set_parameters(shift=shift)
    return sampling


@pytest.mark.parametrize(
    "preset, frames, steps, expected",
    [
        ("Wan 2.1", 18, 50, (0.2, 1, 12, 1)),
        ("Wan 2.1", 41, 50, (1.0, 1, 2, 2)),
        ("Wan 2.1", 18, 8, (0.2, 1, 2, 1)),  # FusionX
        ("Wan 2.1", 18, 4, (0.2, 1, 1, 1)),  # LightX2V
        ("Wan 2.1", 22, 20, (0.2, 1, 5, 1)),  # a reference frame in front of 81
        ("Wan 2.2", 20, 40, (0.8, 1, 10, 1)),  # the authors take 11
        ("HunyuanVideo", 30, 50, (0.95, 0, 12, 0)),
        ("HunyuanVideo", 128, 50, (1.0, 1, 2, 2)),
        ("Mochi", 28, 50, (1.0, 1, 12, 0)),
        ("Mochi", 112, 50, (1.0, 1, 2, 2)),
        ("Wan 2.1", 41, 4, (1.0, 1, 1, 2)),
        ("MiniMax H3", 37, 40, (1.0, 1, 10, 1)),
        ("MiniMax H3", 107, 40, (1.0, 1, 10, 1)),  # 15 s, the longest that it was trained on
    ],
)
def test_the_presets(preset, frames, steps, expected):
    assert resolved(preset, frames, steps) == expected


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
@pytest.mark.parametrize("shift", [1.0, 5.0, 8.0, 12.0])
@pytest.mark.parametrize("steps", [4, 8, 20, 30, 50])
def test_a_quarter_of_the_steps_whatever_the_schedule(scheduler, shift, steps):
    if (scheduler, steps) == ("ddim_uniform", 4):
        pytest.skip("starts at three quarters of the noise")
    sigmas = comfy.samplers.calculate_sigmas(flow(shift), scheduler, steps)
    expected = (len(sigmas) - 1) // 4
    assert resolved("Wan 2.1", 21, steps, shift, scheduler=scheduler)[2] == expected


def test_the_experts_of_wan_22_share_one_schedule():
    assert resolved("Wan 2.2", 21, 20, 8.0, slice(0, 11))[2] == 5
    assert resolved("Wan 2.2", 21, 20, 8.0, slice(10, None))[2] == 0
    assert resolved("Wan 2.2", 41, 20, 8.0, slice(0, 11))[2] == 2
    assert resolved("Wan 2.2", 41, 20, 8.0, slice(10, None))[2] == 0


@pytest.mark.parametrize("scheduler", ["simple", "sgm_uniform"])
@pytest.mark.parametrize("shift", [3.0, 5.0, 8.0])
def test_an_expert_that_starts_at_the_quarter_runs_a_part(scheduler, shift):
    sampling = flow(shift)
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, 20).tolist()[5:]
    assert not settings.runs_all(sigmas, sampling.percent_to_sigma(settings.QUARTER))


def test_a_model_without_a_noise_schedule(wan, summaries, monkeypatch):
    sampling = wan.get_model_object("model_sampling")

    def unknown(percent):
        raise NotImplementedError

    monkeypatch.setattr(sampling, "percent_to_sigma", unknown)
    sample(patch(wan, **AUTOMATIC), steps=8, cfg=1.0)
    sample(patch(wan), steps=2, cfg=1.0)
    assert summaries[0]["settings"]["dense_steps"] == 2
    assert all(summary["radial_calls"] for summary in summaries)


def test_they_are_what_the_node_starts_with():
    inputs = nodes.NODE_CLASS_MAPPINGS["RadialAttentionPatch"].INPUT_TYPES()["required"]
    assert {name: inputs[name][1]["default"] for name in AUTOMATIC} == AUTOMATIC


def test_at_the_trained_length_and_beyond_it(wan, summaries):
    model = patch(wan, **AUTOMATIC)
    sample(model, steps=8, cfg=1.0)
    sample(model, frames=27, height=8, width=8, steps=8, cfg=1.0)
    trained, long = (summary["settings"] for summary in summaries)
    assert (trained["decay"], trained["dense_steps"], trained["dense_blocks"]) == (0.2, 2, 1)
    assert (long["decay"], long["dense_steps"], long["dense_blocks"]) == (1.0, 2, 2)
    assert summaries[0]["dense_calls"]["dense step"] == 2 * 3
    assert "settings for Wan 2.1: dense_steps 2" in summaries[0]["text"]


def test_a_value_set_by_hand_stays(wan, summaries):
    sample(patch(wan, **AUTOMATIC | {"decay": 0.5, "dense_steps": 1}), steps=8, cfg=1.0)
    (summary,) = summaries
    assert (summary["settings"]["decay"], summary["settings"]["dense_steps"]) == (0.5, 1)
    assert summary["settings"]["dense_blocks"] == 1


def test_a_part_of_a_schedule_is_an_expert_of_wan_22(wan, summaries):
    model = patch(wan, **AUTOMATIC)
    sample(model, steps=8, cfg=1.0, start_step=0, last_step=4)
    sample(model, steps=8, cfg=1.0, start_step=4, force_full_denoise=True)
    high, low = summaries
    assert high["settings"]["decay"] == low["settings"]["decay"] == 0.8
    assert (high["settings"]["dense_steps"], low["settings"]["dense_steps"]) == (2, 0)
    assert "settings for Wan 2.2" in low["text"]


def test_they_are_resolved_once_for_a_length_and_a_schedule(wan, summaries, monkeypatch):
    """Not at each pass, though windows of two lengths take turns."""
    resolve, asked = settings.Settings.resolve, []

    def watched(self, preset, frames, *schedule):
        asked.append(frames)
        return resolve(self, preset, frames, *schedule)

    monkeypatch.setattr(settings.Settings, "resolve", watched)

    def windows(executor, x, *args, **kwargs):
        executor(x[:, :, :5], *args, **kwargs)
        return executor(x, *args, **kwargs)

    model = patch(with_wrapper(wan, windows), **AUTOMATIC)
    sample(model, steps=4, batch=2)
    assert asked == [5, 9]
    sample(model, steps=4, frames=27, height=8, width=8, cfg=1.0)
    assert asked == [5, 9, 5, 27]  # in each run anew
    assert [summary["settings"]["decay"] for summary in summaries] == [0.2, 1.0]


def test_a_model_and_its_copies_share_the_override(wan):
    override_of = pack_module("nodes.hook.attach").override_of
    model = patch(wan, **AUTOMATIC)
    override = override_of(model)
    assert override is not None and override_of(wan) is None
    assert override_of(model.clone()) is override
    again = patch(model, **AUTOMATIC)
    assert override_of(again) is not override and override_of(model) is override
    sample(again, steps=1, cfg=1.0)  # its cleanup is over
    assert override_of(again).runs and not override.runs
