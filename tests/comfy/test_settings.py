"""The presets: what the node's inputs stand for when left as they are."""

import comfy.samplers
import pytest
from conftest import pack_module, patch, sample, with_wrapper

import nodes

AUTOMATIC = {"dense_steps": -1, "dense_blocks": -1, "sink_frames": -1, "decay": 0}
settings = pack_module("nodes.inputs.settings")
noise_levels = pack_module("radial_core.noise_levels")
PRESETS = {
    preset.name: preset
    for family in pack_module("nodes.families.registry").FAMILIES
    for preset in family.presets
}


def levels_of(steps, shift=5.0, part=slice(None), scheduler="simple", discards=0):
    """discards: levels that the sampler leaves out before the last one."""
    sampling = flow(shift)
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps + discards).tolist()
    sigmas = [*sigmas[: len(sigmas) - 1 - discards], sigmas[-1]][part]
    return noise_levels.noise_levels(sigmas, sampling.percent_to_sigma)


def resolved(preset, frames, steps, **schedule):
    """(decay, sink frames, dense steps, dense blocks) of a schedule or a part of it."""
    levels = noise_levels.without_jump(levels_of(steps, **schedule))
    automatic = settings.Settings(None, 1, None, None, None, 128)
    pattern, schedule = automatic.resolve(PRESETS[preset], frames, levels)
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
        ("Cosmos Predict2", 24, 35, (0.4, 1, 8, 1)),
        ("Wan 2.1", 41, 4, (1.0, 1, 1, 2)),
        ("MiniMax H3", 37, 40, (1.0, 1, 10, 1)),
        ("MiniMax H3", 107, 40, (1.0, 1, 10, 1)),  # 15 s, the longest that it was trained on
    ],
)
def test_the_presets(preset, frames, steps, expected):
    assert resolved(preset, frames, steps) == expected


SHIFTS = [3.0, 5.0, 8.0, 12.0]


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
@pytest.mark.parametrize("steps", [2, 3, 4, 6, 8, 20, 30, 50])
@pytest.mark.parametrize("discards", [0, 1], ids=["euler", "uni_pc"])
def test_a_quarter_of_the_steps_whatever_the_schedule(scheduler, steps, discards):
    for shift in SHIFTS:
        if looks_like_a_part(scheduler, steps, discards, shift):
            continue
        schedule = {"shift": shift, "scheduler": scheduler, "discards": discards}
        levels = levels_of(steps, **schedule)
        assert noise_levels.without_jump(levels) == levels
        assert noise_levels.is_whole(levels)
        assert resolved("Wan 2.1", 21, steps, **schedule)[2] == (len(levels) - 1) // 4


def looks_like_a_part(scheduler, steps, discards, shift):
    """As docs/samplers.md says."""
    if scheduler == "linear_quadratic":
        return steps <= 3 or (discards and shift < 5)
    return scheduler == "ddim_uniform" and discards


def test_the_experts_of_wan_22_share_one_schedule():
    high, low = {"shift": 8.0, "part": slice(0, 11)}, {"shift": 8.0, "part": slice(10, None)}
    assert resolved("Wan 2.2", 21, 20, **high)[2] == 5
    assert resolved("Wan 2.2", 21, 20, **low)[2] == 0
    assert resolved("Wan 2.2", 41, 20, **high)[2] == 2
    assert resolved("Wan 2.2", 41, 20, **low)[2] == 0


@pytest.mark.parametrize("scheduler", ["simple", "sgm_uniform", "normal", "beta"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_an_expert_that_starts_late_runs_a_part(scheduler, shift):
    for steps, start in ((20, 10), (20, 5), (20, 2), (8, 4), (8, 2), (6, 2), (4, 2)):
        levels = levels_of(steps, shift=shift, scheduler=scheduler, part=slice(start, None))
        assert noise_levels.without_jump(levels) == levels
        assert not noise_levels.is_whole(levels), (steps, start)


@pytest.mark.parametrize("scheduler", ["simple", "sgm_uniform", "normal", "beta"])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("discards", [0, 1], ids=["euler", "uni_pc"])
def test_an_expert_that_jumps_to_the_clean_video(scheduler, shift, discards):
    """It has the dense steps that it would have if it handed over its noise."""
    for steps, stop in ((30, 15), (20, 10), (20, 4), (8, 4), (6, 3), (4, 2)):
        if (steps, scheduler) in ((4, "normal"), (4, "beta")):
            continue  # a jump of a third, and steps that grow as fast as they can
        part = {"shift": shift, "scheduler": scheduler, "discards": discards}
        kept = levels_of(steps, **part, part=slice(0, stop + 1))
        jumped = noise_levels.without_jump([*kept[:-1], 0.0])
        assert not noise_levels.is_whole(jumped), (steps, stop)
        assert jumped[:-1] == kept[:-1]
        expected = resolved("Wan 2.2", 21, steps, **part, part=slice(0, stop + 1))
        automatic = settings.Settings(None, 1, None, None, None, 128)
        _, schedule = automatic.resolve(PRESETS["Wan 2.2"], 21, jumped)
        assert schedule.dense_steps == expected[2], (steps, stop)


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
