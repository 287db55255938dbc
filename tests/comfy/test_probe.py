"""The probe in real runs: it changes nothing, and its readings equal the oracle's."""

import math
from types import SimpleNamespace

import pytest
import torch
import zoo
from comfy_api.torch_helpers import set_torch_compile_wrapper
from conftest import (
    BLOCKS,
    SLOT,
    pack_module,
    patch,
    sample,
    with_blocks,
    with_override,
    with_wrapper,
)
from probing import by_halves, measured, places, probe, run_of

choice = pack_module("nodes.probing.choice")
CASES = {
    case.name: case
    for case in zoo.CASES
    if case.typical
    or case.name
    in (
        "hunyuan t2v with a negative prompt",
        "hunyuan padded prompts with holes",
        "mochi, both prompts in one pass",
        "wan t2v, odd sizes, a pass a prompt",
    )
}


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def case(request):
    return request.param


def recording(model, case, calls):
    """A model with an override before ours that records each self-attention call over the video:
    its prompts, the text tokens before and after the video, and q, k, v (b, s, h, d) without
    padding."""

    def override(func, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        tokens = q.shape[2] if skip_reshape else q.shape[1]
        around = [a for a in case.around if sum(a) + math.prod(case.grid) == tokens]
        if around and k.shape == q.shape:
            shaped = [
                x.transpose(1, 2) if skip_reshape else x.unflatten(2, (heads, -1))
                for x in (q, k, v)
            ]
            unmasked = torch.ones(tokens) > 0 if mask is None else mask.flatten() == 0
            before = around[0][0] - int((~unmasked).sum())
            prompts = kwargs["transformer_options"]["cond_or_uncond"]
            calls.append((prompts, before, around[0][1], *(x[:, unmasked].clone() for x in shaped)))
        return func(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **kwargs)

    return with_override(model, override)


def truth(case, before, after, q, k, v, pattern, budget=None):
    """The oracle's error and coverage over the video of a pattern, or of repaired adaptive
    lists in its place. q, k, v: (1, s, h, d)."""
    core, reference = pack_module("radial_core"), pack_module("radial_core.reference")
    layout = core.VideoLayout(*case.grid, before, after)
    video = slice(before, before + math.prod(case.grid))
    plan = core.make_plan(pattern, layout)
    if budget is not None:
        plan = pack_module("radial_core.adaptive.lists").look(q[0], k[0], plan, budget).plan()
    everything = core.make_plan(core.RadialPattern(4.0, 1000, pattern.block_size), layout)
    ours, dense = (reference.reference_attention(q, k, v, p)[:, video] for p in (plan, everything))
    if budget is not None:
        ours = by_halves(ours, dense)
    block = torch.arange(layout.tokens) // pattern.block_size
    keep = plan.block_mask()[..., block[video, None], block]
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) * q.shape[-1] ** -0.5
    coverage = (scores.softmax(-1)[:, :, video] * keep).sum(-1).mean()
    return ((ours - dense).norm() / dense.norm()).item(), coverage.item()


def test_readings_equal_the_oracles_and_the_video_is_unchanged(case):
    model, inputs, calls = case.model(), case.inputs(), []
    plain = zoo.sample(model, inputs)
    # Blocks of 64, so that even a small video has blocks to drop.
    probed = probe(patch(recording(model, case, calls), dense_steps=99, decay=0.3), "1")
    assert torch.equal(zoo.sample(probed, inputs), plain)
    assert places(probed) == [(1, block) for block in range(len(case.calls))]

    result, positive = measured(probed), pack_module("nodes.probing.hook").POSITIVE
    of_step = calls[len(calls) // 2 :]
    of_positive = [call for call in of_step if positive in call[0]]
    assert len(of_positive) == len(case.calls)
    assert result.size.blocks == len(case.calls)
    for (prompts, before, after, *qkv), call in zip(of_positive, result.calls, strict=True):
        place = prompts.index(positive)
        one = [x.chunk(len(prompts))[place] for x in qkv]
        for i in (0, result.current, len(result.patterns) - 1):
            error, coverage = truth(case, before, after, *one, result.patterns[i])
            assert call.reading.error[i] == pytest.approx(error, rel=1e-4, abs=1e-6)
            assert call.reading.coverage[i] == pytest.approx(coverage, rel=1e-5)
        error, _ = truth(case, before, after, *one, result.patterns[result.current], 0.5)
        place = result.adaptive(0.5)
        assert call.reading.error[place] == pytest.approx(error, rel=1e-4, abs=1e-6)
    assert 0.01 < result.error(0, 0)
    assert result.layout.prefix == of_positive[0][1]


@pytest.mark.parametrize("memory", ["enough", "little"])
def test_the_prompt_and_the_first_video_of_a_batch(wan, memory, monkeypatch):
    """With little memory the negative prompt has its own pass, which comes first."""
    if memory == "little":
        monkeypatch.setattr(type(wan), "get_free_memory", lambda *args: 0)
    calls = []
    case = zoo.Case("wan", "WAN21_T2V", None, None, (9, 6, 10))
    probed = probe(patch(recording(wan, case, calls), dense_steps=99))
    out = sample(probed, batch=2, steps=1)
    assert torch.equal(out, sample(wan, batch=2, steps=1))
    assert [call[0] for call in calls[::BLOCKS]] == ([[1, 0]] if memory == "enough" else [[1], [0]])
    prompts, _, _, *qkv = calls[-1]  # of the last block: prompts don't matter in the first
    one = [x[2 * prompts.index(0) :][:1] for x in qkv]
    result = measured(probed)
    error, _ = truth(case, 0, 0, *one, result.patterns[0])
    assert result.calls[-1].reading.error[0] == pytest.approx(error, rel=1e-4)


def test_before_and_after_radial_attention_patch(wan, summaries, any_density):
    settings = {"decay": 0.25, "sink_frames": 3, "dense_blocks": 1}
    before = patch(probe(wan, "0, last"), **settings)
    after = probe(patch(wan, **settings), "0, last")
    plain = sample(patch(wan, **settings))
    for model in (before, after):
        assert torch.equal(sample(model), plain)
        assert places(model) == [(step, block) for step in (0, 1) for block in range(BLOCKS)]
    assert measured(before) == measured(after)
    result = measured(before)
    now = result.patterns[result.current]
    assert (now.decay, now.sink_frames, now.block_size) == (0.25, 3, 64)
    assert result.dense_blocks == 1 and result.settings_of == "Radial Attention Patch"
    assert result.sinks == (0, 1, 2, 3) and 0.25 in result.decays
    assert [s["radial_calls"] for s in summaries] == [2 * (BLOCKS - 1)] * 3


def test_the_budget_of_the_run_is_measured(wan):
    def wrapper(executor, *args, **kwargs):
        args[5]["radial_attention"].lists = SimpleNamespace(budget=0.8)
        return executor(*args, **kwargs)

    model = with_wrapper(probe(patch(wan, dense_steps=99)), wrapper)
    sample(model)
    result = measured(model)
    assert result.budgets == (1.0, 0.8, 0.67, 0.5, 0.33)
    assert result.budget == result.budget_of(result.now) == 0.8


@pytest.mark.oldest
def test_without_the_patch_the_settings_are_the_preset(wan):
    model = probe(wan)
    sample(model)
    result = measured(model)
    now = result.patterns[result.current]
    assert (now.decay, now.sink_frames, now.block_size) == (0.2, 1, 128)
    assert (result.dense_blocks, result.settings_of) == (1, "Wan 2.1")
    assert result.steps == 2 and result.size.blocks == BLOCKS
    assert result.budgets == (1.0, 0.67, 0.5, 0.33) and result.budget is None


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_one_pass_of_each_chosen_step(wan, sampler):
    model = probe(wan, "0, 50%, last, 99", blocks="0, 2")
    sample(model, steps=6, sampler=sampler)
    assert places(model) == [(step, block) for step in (0, 3, 5) for block in (0, 2)]


def test_the_latest_run_counts(wan):
    model = probe(wan, "0")
    sample(model)
    first = measured(model)
    sample(model, seed=2)
    assert measured(model).calls[0].reading != first.calls[0].reading
    sample(model, seed=1)
    assert measured(model) == first


def test_does_not_change_its_input_model(wan):
    model = probe(wan)
    assert not wan.get_wrappers("apply_model", "radial_attention_probe")
    again = probe(model, "last")
    sample(again)
    assert places(again)[0] == (1, 0)
    assert run_of(model) is None


def test_a_pass_within_a_pass(wan):
    """A wrapper runs the model again with the same options."""

    def wrapper(executor, *args, **kwargs):
        if args[5].get("within"):
            return executor(*args, **kwargs)
        args[5]["within"] = True
        return executor.class_obj.apply_model(*args, **kwargs)

    plain = sample(patch(wan, dense_blocks=1))
    for model in (probe(patch(wan, dense_blocks=1)), patch(probe(wan), dense_blocks=1)):
        nested = with_wrapper(model, wrapper)
        assert torch.equal(sample(nested), plain)
        assert places(nested) == [(0, block) for block in range(BLOCKS)]


def test_another_override_gets_every_call(wan):
    calls = []

    def override(func, q, k, v, heads, *args, **kwargs):
        calls.append(q.shape[1] == k.shape[1])
        return func(q, k, v, heads, *args, **kwargs)

    for model in (probe(with_override(wan, override)), with_override(probe(wan), override)):
        calls.clear()
        assert torch.equal(sample(model), sample(wan))
        assert (calls.count(True), calls.count(False)) == (2 * BLOCKS, 2 * BLOCKS)
        assert len(places(model)) == BLOCKS


def test_an_override_before_it_that_calls_the_hook_again(wan):
    """As Radial Attention Patch does in a nested pass that has this hook."""

    def override(func, *args, **kwargs):
        hook = kwargs["transformer_options"][SLOT]
        return func(*args, **kwargs) if hook is override else hook(func, *args, **kwargs)

    model = probe(with_override(wan, override))
    assert torch.equal(sample(model), sample(wan))
    assert len(places(model)) == BLOCKS


def why_not(model):
    assert run_of(model).measurements() is None
    return dict(run_of(model).reasons)


def test_a_single_frame_is_not_measured(wan):
    model = probe(wan)
    sample(model, frames=1, height=64, width=64)
    assert why_not(model) == {"single frame": BLOCKS}


def test_under_torch_compile_nothing_is_measured(wan_weights):
    wan = with_blocks(1, *wan_weights)
    for compiled_first in (True, False):
        model = wan.clone() if compiled_first else probe(wan)
        set_torch_compile_wrapper(model, backend="eager")
        model = probe(model) if compiled_first else model
        sample(model)
        ((reason, passes),) = why_not(model).items()
        assert "torch.compile" in reason and passes == 1


def test_unknown_models_are_not_measured():
    model, inputs = zoo.hunyuan_image()
    probed = probe(model)
    assert torch.equal(zoo.sample(probed, inputs), zoo.sample(model, inputs))
    assert why_not(probed) == {"not a video": 1}


def test_a_masked_call_is_not_measured(wan):
    """With a mask that is more than padding."""
    mask = torch.zeros(1, 540)
    mask[:, 300:] = -1.0

    def wrapper(executor, *args, **kwargs):
        options = kwargs.get("transformer_options") or args[-1]
        ours = options[SLOT]

        def masked(func, q, k, v, heads, **kwargs):
            more = {"mask": mask} if q.shape == k.shape else {}
            return ours(func, q, k, v, heads, **{**kwargs, **more})

        options[SLOT] = masked
        return executor(*args, **kwargs)

    model = probe(wan)
    model.add_wrapper_with_key("diffusion_model", "test", wrapper)
    sample(model, steps=1)
    assert why_not(model) == {"attention mask": BLOCKS}


def test_a_failure_does_not_spoil_the_render(wan, monkeypatch, caplog):
    def out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pack_module("nodes.probing.call_reader"), "measure", out_of_memory)
    model = probe(wan, "0, 1")
    assert torch.equal(sample(model), sample(wan))
    assert why_not(model) == {"OutOfMemoryError: CUDA out of memory": 1}
    assert len([r for r in caplog.records if "Radial probe failed" in r.getMessage()]) == 1


def test_adaptive_lists_that_fail_do_not_spoil_the_other_measurements(wan, monkeypatch, caplog):
    sample(plain := probe(wan, "0, 1"))
    sample_class, calls = pack_module("radial_core.adaptive.sample").ListSample, []
    kept = sample_class.kept

    def fails_later(*args):
        calls.append(args)
        if len(calls) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return kept(*args)

    monkeypatch.setattr(sample_class, "kept", fails_later)
    model = probe(wan, "0, 1")
    assert torch.equal(sample(model), sample(wan))
    ours, expected = measured(model), measured(plain)
    assert places(model) == places(plain)
    assert all(ours.error(i, 0) == expected.error(i, 0) for i in range(len(ours.patterns)))
    assert expected.budgets and not expected.why_not_adaptive
    assert ours.budgets == () and "CUDA out of memory" in ours.why_not_adaptive
    assert len([r for r in caplog.records if "adaptive lists failed" in r.getMessage()]) == 1


def test_options_it_cannot_read_do_not_spoil_the_render(wan):
    def wrapper(executor, *args, **kwargs):
        args[5]["sample_sigmas"] = "not a tensor"
        return executor(*args, **kwargs)

    model = probe(with_wrapper(wan, wrapper))
    assert torch.equal(sample(model), sample(wan))
    assert run_of(model).measurements() is None


@pytest.mark.parametrize(
    "text, steps, chosen",
    [
        ("0", 8, {0}),
        ("25%, 50%, 75%", 8, {2, 4, 6}),
        ("25%, 50%, 75%", 50, {12, 25, 37}),
        (" 1 ,LAST,  100 %, 0%,", 4, {0, 1, 3}),
        ("50%", 1, {0}),
        ("12", 8, set()),
    ],
)
def test_steps_as_text(text, steps, chosen):
    chosen_steps = choice.Choice(choice.read_steps(text), None, 128)
    assert {i for i in range(steps) if chosen_steps.has_step(i, steps)} == chosen


@pytest.mark.parametrize(
    "text, chosen",
    [("all", set(range(20))), ("0-3, 10", {0, 1, 2, 3, 10}), ("7", {7}), (" 2 - 2 ,", {2})],
)
def test_blocks_as_text(text, chosen):
    blocks = choice.Choice((0,), choice.read_blocks(text), 128)
    assert {i for i in range(20) if blocks.has_block(i)} == chosen


@pytest.mark.parametrize(
    "given, message",
    [
        ({"steps": ""}, "steps must be like 0, 12, 25%, last, got ''"),
        ({"steps": "1, two"}, "steps must be like 0, 12, 25%, last, got 'two'"),
        ({"steps": "-1"}, "got '-1'"),
        ({"steps": "101%"}, "got '101%'"),
        ({"steps": "1.5"}, "got '1.5'"),
        ({"steps": "9" * 400}, "steps must be like"),
        ({"steps": "²"}, "got '²'"),
        ({"steps": None}, "steps must be like"),
        ({"blocks": " , "}, "blocks must be all, or like 0-3, 10, got ' , '"),
        ({"blocks": "3-1"}, "blocks must be all, or like 0-3, 10, got '3-1'"),
        ({"blocks": "all, 3"}, "got 'all'"),
        ({"blocks": "0-99999999999"}, "blocks must be all"),
        ({"tokens": 15}, "tokens must be a whole number from 16 to 1024, got 15"),
        ({"tokens": 1e3}, "tokens must be a whole number"),
        ({"model": "wan"}, "model must come from a model loader, got 'wan'"),
    ],
)
def test_unreadable_inputs_are_refused(wan, given, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        probe(**{"model": wan, **given})
