"""The patch with the ways ComfyUI splits a step into passes, and the latents it starts from."""

import pytest
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode, WanContextWindowsManualNode
from comfy_extras.nodes_video_model import ConditioningSetAreaPercentageVideo
from conftest import BLOCKS, NEWEST, VERSION, newest_only, patch, prompt, sample

STEPS = 2
CASES = [{"batch": 2}, {"frames": 11, "height": 13, "width": 15}]


@pytest.mark.parametrize("case", CASES, ids=["two videos", "odd resolution"])
@pytest.mark.parametrize(
    "cfg, memory, passes",
    [(1.0, 0, 1), (3.0, 1e15, 1), (3.0, 0, 2)],
    ids=["no cfg", "batched", "split"],
)
def test_conditionings_in_one_pass_or_two(wan, check, monkeypatch, cfg, memory, passes, case):
    monkeypatch.setattr(type(wan), "get_free_memory", lambda *args: memory)
    summary, _ = check(wan, cfg=cfg, **case)
    assert (summary["steps"], summary["model_calls"]) == (STEPS, STEPS * passes)
    assert summary["radial_calls"] == BLOCKS * summary["model_calls"]


def test_prompts_of_different_lengths(wan, check):
    """Three prompts, one of them longer, so that they don't all fit in one batch."""
    positive = [*prompt(3), *prompt(4), *prompt(5, tokens=33)]
    summary, _ = check(wan, positive=positive)
    assert summary["dense_calls"] == {"cross-attention": BLOCKS * summary["model_calls"]}


def test_a_prompt_for_a_part_of_the_video(wan, check):
    """Such a pass gets a part of the latent: fewer frames, fewer rows."""
    half = {"width": 1.0, "height": 0.5, "temporal": 0.6, "x": 0.0, "y": 0.5, "z": 0.4}
    (part,) = ConditioningSetAreaPercentageVideo().append(prompt(3), **half, strength=1.0)
    _, grids = check(wan, positive=[*prompt(4), *part], height=16, width=20)
    assert len(set(grids)) == 2


def test_a_prompt_for_a_part_of_the_steps(wan, check):
    late = prompt(3, condition={"start_percent": 0.5, "end_percent": 1.0})
    summary, _ = check(wan, positive=[*prompt(4), *late], steps=3)
    assert summary["steps"] == 3


def windows(node=ContextWindowsManualNode, **settings):
    defaults = {
        "context_length": 5,
        "context_overlap": 2,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "freenoise": False,
    }
    return lambda model: node.execute(model, **{**defaults, **settings}).args[0]


def frames_of(grids):
    """The frames of each pass in the first step."""
    frames = [grid[0] for grid in grids[::BLOCKS]]
    return frames[: len(frames) // STEPS]


LOOP = {"context_schedule": "looped_uniform", "closed_loop": True, "freenoise": True}


@pytest.mark.parametrize(
    "settings, frames",
    [
        ({"context_schedule": "standard_static"}, [5, 5, 5]),
        ({"context_schedule": "batched"}, [5, 5, 1]),
        (LOOP, [5, 5, 5, 5]),
    ],
    ids=["overlapping", "a last one of one frame", "around the end"],
)
def test_context_windows(wan, check, settings, frames):
    """Each pass gets some of the frames; its pattern is that of a video with these frames."""
    if VERSION == NEWEST.version:
        settings = {**settings, "causal_window_fix": False}
    summary, grids = check(wan, windows(dim=2, **settings), frames=11)
    assert frames_of(grids) == frames
    single = STEPS * BLOCKS * frames.count(1)
    assert summary["dense_calls"].get("single frame", 0) == single


@newest_only("its windows keep no frame")
@pytest.mark.parametrize("settings", [{}, {"latent_retain_index_list": "0"}])
def test_context_windows_that_keep_a_frame(wan, check, settings):
    """The kept frame is put in front of the window's own frames."""
    _, grids = check(wan, windows(dim=2, **settings), frames=11)
    assert frames_of(grids) == [5, 6, 6]


def test_wans_context_windows(wan, check):
    """They count frames of the video, not of the latent."""
    node = windows(WanContextWindowsManualNode, context_length=17, context_overlap=8)
    summary, grids = check(wan, node, frames=11)
    assert len(frames_of(grids)) == 3
    assert summary["radial_calls"] == BLOCKS * summary["model_calls"]


def test_a_video_that_is_partly_redone(wan, check):
    """A noise mask on a latent, and a sampler that starts in the middle of the schedule."""
    latent = torch.randn(1, 16, 9, 12, 20, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(9, 96, 160)
    mask[3:, :, 80:] = 1
    case = {"latent": latent, "mask": mask, "denoise": 0.5}
    summary, _ = check(wan, steps=3, **case)
    assert summary["steps"] == 3
    video = sample(patch(wan), steps=3, **case)
    kept = (video - latent).abs().amax((0, 1)) < 1e-5
    assert kept[:, :, :8].all() and not kept[4:, :, 12:].any()


def test_dense_steps_count_in_the_part_of_the_schedule_that_runs(wan, summaries):
    latent = torch.randn(1, 16, 9, 12, 20)
    model = patch(wan, dense_steps=1, dense_last_steps=1)
    sample(model, latent=latent, denoise=0.3, steps=4)
    assert summaries[0]["dense_calls"]["dense step"] == 2 * BLOCKS
    assert summaries[0]["radial_calls"] == 2 * BLOCKS
