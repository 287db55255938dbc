"""The record of a run: what each step and block ran as, why it was dense, and seconds."""

import threading
import time
from collections import defaultdict

import comfy.ldm.wan.model
import pytest
import torch
import torch._dynamo
import zoo
from comfy.ldm.modules.attention import attention_pytorch
from comfy_extras.nodes_torch_compile import TorchCompileModel
from conftest import (
    BLOCKS,
    newest_only,
    pack_module,
    patch,
    sample,
    with_override,
    with_wrapper,
)
from step_caches import lazy_cache

SETTINGS = {"dense_steps": 2, "dense_last_steps": 1, "dense_blocks": 1}


def runs_of(model):
    return [run.read() for run in pack_module("nodes.hook.attach").override_of(model).runs]


def only_run(model):
    (run,) = runs_of(model)
    return run


def cells(run):
    """(step, block) -> {what it ran as -> calls}."""
    found = {}
    for step in run["steps"]:
        for entry in step["blocks"]:
            if entry["first"] is None:
                found[step["step"], None] = entry["calls"]
                continue
            for block in range(entry["first"], entry["last"] + 1):
                assert (step["step"], block) not in found
                found[step["step"], block] = entry["calls"]
    return found


def expected_kind(step, block, steps, dense_steps=0, dense_last_steps=0, dense_blocks=0):
    if step < dense_steps or step >= steps - dense_last_steps:
        return "dense step"
    return "dense block" if block < dense_blocks else "radial"


def expected(calls_of_steps, blocks=(1,) * BLOCKS, **settings):
    """The expected cells. calls_of_steps: model calls of each step. blocks: calls of each block."""
    steps = len(calls_of_steps)
    return {
        (step, block): {expected_kind(step, block, steps, **settings): calls * times}
        for step, calls in enumerate(calls_of_steps)
        for block, times in enumerate(blocks)
    }


@pytest.mark.parametrize("settings", [{}, SETTINGS, {"dense_blocks": 2}, {"dense_steps": 6}])
def test_each_step_and_block(wan, summaries, settings):
    model = patch(wan, **settings)
    sample(model, steps=6)
    run = only_run(model)
    assert cells(run) == expected([1] * 6, **settings)
    assert run["blocks"] == BLOCKS
    assert run["totals"]["radial_calls"] == summaries[0]["radial_calls"]
    dense = run["totals"]["dense_calls"] | run["totals"]["other_calls"]
    assert dense == summaries[0]["dense_calls"] and dense["cross-attention"] == 6 * BLOCKS


def test_samplers_that_call_the_model_twice_a_step(wan, summaries):
    """Heun's second call is at the noise level of the next step, and counts there."""
    model = patch(wan, **SETTINGS)
    sample(model, steps=6, sampler="heun")
    assert cells(only_run(model)) == expected([1, 2, 2, 2, 2, 2], **SETTINGS)


@pytest.mark.parametrize("sampler", ["dpm_fast", "dpm_adaptive", "uni_pc", "dpm_2", "heun"])
def test_a_sampler_with_steps_of_its_own_skips_none(wan, summaries, sampler):
    """dpm_adaptive jumps over levels of the schedule, or stays at one."""
    model = patch(wan)
    sample(model, steps=6, sampler=sampler, cfg=1.0)
    totals = only_run(model)["totals"]
    assert (totals["skipped_steps"], totals["partly_skipped_steps"]) == ([], [])
    assert "skipped" not in summaries[0]["text"]


def test_a_prediction_without_the_model_is_a_skipped_step(wan, summaries):
    """By a node that answers for the model, whether it comes before ours or after."""

    def answers(model):
        model = model.clone()
        model.add_wrapper_with_key("predict_noise", "test", answer)
        return model

    def answer(executor, x, timestep, *args):
        turn.append(1)
        return 0 * x if len(turn) in (1, 3) else executor(x, timestep, *args)

    for nodes in (lambda: patch(answers(wan)), lambda: answers(patch(wan))):
        turn, model = [], nodes()
        sample(model, steps=4)
        run = only_run(model)
        assert run["totals"]["steps"] == 4 and run["totals"]["skipped_steps"] == [0, 2]
        assert cells(run) == {(s, b): {"radial": 1} for s in (1, 3) for b in range(BLOCKS)}
        assert [step["model_calls"] for step in run["steps"]] == [0, 1, 0, 1]
        assert [step["skipped_calls"] for step in run["steps"]] == [1, 0, 1, 0]
        assert run["steps"][0]["seconds"] is None
    assert [summary["skipped_steps"] for summary in summaries] == [2, 2]


def test_two_passes_a_step(wan, summaries, monkeypatch):
    """As when memory is short: cond, then uncond."""
    monkeypatch.setattr(type(wan), "get_free_memory", lambda *args: 0)
    model = patch(wan, **SETTINGS)
    sample(model, steps=4)
    run = only_run(model)
    assert cells(run) == expected([2] * 4, **SETTINGS)
    assert [step["model_calls"] for step in run["steps"]] == [2] * 4


# Double and single blocks, padded prompts, several calls in a block, blocks without an index.
VIDEO_MODELS = ("hunyuan padded prompts with holes", "wan vace, two contexts", "wan s2v", "mochi")
CASES = [case for case in zoo.CASES if case.name in VIDEO_MODELS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_other_kinds_of_model(case, summaries, any_density):
    if not case.is_there:
        pytest.skip(f"not in this ComfyUI: {case.name}")
    model, passes = patch(case.model(), **SETTINGS), []
    counted = with_wrapper(
        model, lambda run, *given, **named: passes.append(1) or run(*given, **named)
    )
    zoo.sample(counted, case.inputs(), steps=4)
    each_step = [len(passes) // 4] * 4
    assert cells(only_run(model)) == expected(each_step, case.calls, **SETTINGS)


def test_two_samplers_one_after_the_other(wan, summaries):
    model = patch(wan, dense_steps=1, dense_last_steps=1)
    sample(model, steps=5, start_step=0, last_step=2)
    sample(model, steps=5, start_step=2, last_step=5, force_full_denoise=True)
    first, second = runs_of(model)
    assert cells(first) == expected([1, 1], dense_steps=1)  # not the schedule's last step
    assert cells(second) == expected([1, 1, 1], dense_steps=1, dense_last_steps=1)


def test_the_last_runs_are_kept(wan, summaries):
    model = patch(wan)
    for steps in (1, 2, 3, 1, 2):
        sample(model, steps=steps)
    assert [run["totals"]["steps"] for run in runs_of(model)] == [2, 3, 1, 2]


@pytest.mark.parametrize(
    "case, reason",
    [
        ({"frames": 1, "height": 64, "width": 64}, "single frame"),
        ({"frames": 2, "height": 48, "width": 48}, "100% of the blocks would be kept"),
    ],
)
def test_reasons_that_apply_everywhere(wan, case, reason, summaries):
    model = patch(wan)
    sample(model, **case)
    assert cells(only_run(model)) == {(s, b): {reason: 1} for s in range(2) for b in range(BLOCKS)}
    assert reason in summaries[0]["status"]


def test_a_call_that_may_be_self_or_cross_attention(wan, summaries):
    """540 tokens of video and 540 of prompt: both calls of a block are recorded at their block."""
    model = patch(wan)
    sample(model, text_tokens=540, steps=1)
    found = cells(only_run(model))
    assert set(found) == {(0, block) for block in range(BLOCKS)}
    assert all(list(calls.values()) == [2] for calls in found.values())


def test_a_model_of_another_kind(summaries):
    """An image model has no calls of ours, so its steps are dense and its blocks unknown."""
    model, inputs = zoo.hunyuan_image()
    model = patch(model)
    zoo.sample(model, inputs, steps=2)
    run = only_run(model)
    passes = [step["model_calls"] for step in run["steps"]]
    assert cells(run) == {(s, None): {"not a video": n} for s, n in enumerate(passes)}
    assert run["blocks"] == 0 and run["totals"]["attention_seconds"] is None
    assert summaries[0]["status"] == "nothing radial in 2 steps; dense: not a video"


@pytest.mark.parametrize("step, block", [(0, 0), (1, 2), (2, 1)])
def test_a_kernel_that_fails_during_the_run(wan, summaries, monkeypatch, step, block):
    compute, turn = pack_module("nodes.hook.compute"), []
    works = compute.attend

    def breaks(*args, **options):
        turn.append(1)
        if len(turn) == step * BLOCKS + block + 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return works(*args, **options)

    monkeypatch.setattr(compute, "attend", breaks)
    model = patch(wan)
    sample(model, steps=3)
    run = only_run(model)
    assert run["failures"] == ["OutOfMemoryError"]
    assert cells(run) == {
        (s, b): {"radial" if (s, b) < (step, block) else "OutOfMemoryError": 1}
        for s in range(3)
        for b in range(BLOCKS)
    }


def test_a_plan_that_cannot_be_made(wan, summaries, monkeypatch):
    def fails(*args):
        raise RuntimeError("no plan")

    monkeypatch.setattr(pack_module("nodes.hook.decision"), "make_plan", fails)
    model = patch(wan)
    sample(model, steps=2)
    found = cells(only_run(model))
    assert found == {(s, b): {"RuntimeError": 1} for s in range(2) for b in range(BLOCKS)}


def test_under_torch_compile(wan, summaries, monkeypatch):
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)
    torch._dynamo.reset()
    model = patch(wan, **SETTINGS)
    sample(TorchCompileModel.execute(model, "eager").args[0], steps=5)
    run = only_run(model)
    assert cells(run) == expected([1] * 5, **SETTINGS)
    assert all(0 < sum(s["attention_seconds"].values()) < s["seconds"] for s in run["steps"])
    torch._dynamo.reset()


def test_seconds(wan, summaries):
    """Seconds of calls add up to less than those of the model, and those to less than wall time."""

    def slow(func, q, k, *args, **kwargs):  # the dense calls
        if q.shape == k.shape:
            time.sleep(0.02)
        return func(q, k, *args, **kwargs)

    model = patch(with_override(wan, slow), **SETTINGS)
    start = time.perf_counter()
    sample(model, steps=5)
    wall = time.perf_counter() - start
    run = only_run(model)
    totals = run["totals"]
    assert 0 < totals["attention_seconds"] < totals["seconds"] < wall
    for step in run["steps"]:
        kinds = {kind for entry in step["blocks"] for kind in entry["calls"]}
        assert set(step["attention_seconds"]) == kinds
        for kind, seconds in step["attention_seconds"].items():
            dense = BLOCKS if kind == "dense step" else SETTINGS["dense_blocks"]
            assert kind == "radial" or seconds > 0.02 * dense
    assert totals["seconds_of_a_dense_call"] > 0.02
    saved = totals["seconds_of_a_dense_call"] - totals["seconds_of_a_radial_call"]
    assert run["saving"]["how"] == "measured"
    assert run["saving"]["seconds"] == pytest.approx(saved * totals["radial_calls"])


def test_a_pass_within_a_pass_is_timed_once(wan, summaries):
    def wrapper(executor, *args, **kwargs):
        if args[5].get("within"):
            time.sleep(0.05)
            return executor(*args, **kwargs)
        args[5]["within"] = True
        return executor.class_obj.apply_model(*args, **kwargs)

    model = patch(wan)
    start = time.perf_counter()
    sample(with_wrapper(model, wrapper), steps=2)
    totals = only_run(model)["totals"]
    assert 0.1 < totals["seconds"] < time.perf_counter() - start
    assert totals["partly_skipped_steps"] == []  # the blocks ran in the pass within


def test_a_failing_clock_only_costs_the_times(wan, summaries, monkeypatch, caplog):
    stopwatch = pack_module("nodes.run.stopwatch")

    def fails(*args):
        raise RuntimeError("no clock")

    whole = sample(patch(wan, **SETTINGS), steps=4)
    monkeypatch.setattr(stopwatch.Stopwatch, "_stop", fails)
    model = patch(wan, **SETTINGS)
    assert torch.equal(sample(model, steps=4), whole)
    run = only_run(model)
    assert cells(run) == expected([1] * 4, **SETTINGS)
    assert run["totals"]["seconds"] is None and run["saving"] is None
    assert caplog.text.count("No more times of this run") == 1


def test_a_failing_record_only_costs_itself(wan, summaries, monkeypatch, caplog):
    def fails(*args):
        raise RuntimeError("no room")

    def run():
        return sample(lazy_cache(patch(wan, **SETTINGS)), steps=4)

    whole = run()
    for name in ("end_call", "not_called"):
        monkeypatch.setattr(pack_module("nodes.run.record").Record, name, fails)
    assert torch.equal(run(), whole)
    assert caplog.text.count("the record of this run has gaps. no room") == 1
    assert caplog.text.count("the record of this run lacks skipped steps. no room") == 1


@newest_only("it has no clones for other devices")
def test_two_devices_share_one_record(stand_ins, summaries, monkeypatch):
    import comfy.model_management
    import comfy.sd
    from comfy.multigpu import create_multigpu_deepclones

    path = stand_ins / "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"
    wan = comfy.sd.load_diffusion_model(str(path))
    devices = [wan.load_device, torch.device("cpu", 1)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda **_: devices)
    model = patch(wan, **SETTINGS)
    split = create_multigpu_deepclones(model, len(devices))
    threads = defaultdict(int)

    def watch(apply, p):
        threads[threading.get_ident()] += 1
        return apply(p["input"], p["timestep"], **p["c"])

    split.set_model_unet_function_wrapper(watch)
    sample(split, steps=5)
    assert list(threads.values()) == [5, 5]
    run = only_run(model)
    assert cells(run) == expected([2] * 5, **SETTINGS)
    assert all(step["seconds"] for step in run["steps"])
