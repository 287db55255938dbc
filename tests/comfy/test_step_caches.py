"""The patch with step caches before and after it: what is computed, and what the report says."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import comfy.model_management
import pytest
import torch
import zoo
from conftest import EVERYTHING, difference, pack_module, patch
from step_caches import cache_dit, easy_cache, lazy_cache, magcache, teacache, wavespeed
from test_models import oracle
from test_record import cells, expected_kind, only_run, runs_of

pytestmark = [pytest.mark.oldest, pytest.mark.usefixtures("any_density")]

STEPS = 6
ATTENTION = {  # where the calls of a model's blocks are made
    "WanModel": "comfy.ldm.wan.model",
    "VaceWanModel": "comfy.ldm.wan.model",
    "HunyuanVideo": "comfy.ldm.flux.math",
    "MiniMaxH3Model": "comfy.ldm.minimax.model",
}


@dataclass(frozen=True)
class Run:
    """A run with a step cache. cache: MODEL -> MODEL, used on a model of its own each time."""

    name: str
    cache: object
    case: zoo.Case
    videos: int = 1

    def sample(self, nodes, **options):
        inputs = self.case.inputs()
        latent = inputs.latent["samples"]
        if self.videos > 1:
            options["latent"] = {"samples": torch.cat([latent] * self.videos)}
        return zoo.sample(nodes(self.case.model()), inputs, steps=STEPS, **options)


def run(cache, case: str, videos: int = 1, *, slow=False, **settings):
    case = next(each for each in zoo.CASES if each.name == case)
    name = f"{cache.__name__}, {case.name}" + (f", {videos} videos" if videos > 1 else "")
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(Run(name, partial(cache, **settings), case, videos), id=name, marks=marks)


TEXT, TWO, IMAGE = "wan t2v, odd sizes, a pass a prompt", "wan t2v, two videos", "wan i2v"
VACE = "wan vace, two contexts"
HUNYUAN, HUNYUAN_IMAGE, HUNYUAN_15 = "hunyuan t2v", "hunyuan i2v concat", "hunyuan 1.5 t2v"
H3, H3_IMAGE = "minimax h3 t2v, a pass a prompt", "minimax h3 first frame"
RUNS = [
    run(easy_cache, TWO),
    run(easy_cache, IMAGE, slow=True),
    run(easy_cache, HUNYUAN, 2, slow=True),
    run(easy_cache, HUNYUAN_IMAGE),
    run(easy_cache, H3, slow=True, reuse_threshold=0.3),
    run(easy_cache, H3_IMAGE, slow=True, reuse_threshold=0.3),
    run(lazy_cache, TWO, slow=True),
    run(lazy_cache, IMAGE),
    run(lazy_cache, HUNYUAN, 2, slow=True),
    run(lazy_cache, HUNYUAN_IMAGE, slow=True),
    run(lazy_cache, H3, reuse_threshold=0.3),
    run(lazy_cache, H3_IMAGE, slow=True, reuse_threshold=0.3),
    run(teacache, TWO, threshold=1.5),
    run(teacache, IMAGE, slow=True, threshold=1.5),
    run(magcache, TWO, slow=True),
    run(magcache, IMAGE, slow=True),
    run(magcache, VACE),
    run(magcache, HUNYUAN_15),
    run(wavespeed, HUNYUAN, threshold=0.8),
    run(wavespeed, HUNYUAN_15, slow=True, threshold=1.0),
    run(cache_dit, TEXT),
    run(cache_dit, TWO, slow=True),
    run(cache_dit, HUNYUAN, slow=True),
]


def orders(run: Run, **settings):
    """The patch node before the cache, and after it: functions MODEL -> MODEL."""
    return (
        lambda model: run.cache(patch(model, **settings)),
        lambda model: patch(run.cache(model), **settings),
    )


@pytest.fixture(params=RUNS)
def cached(request):
    if not request.param.case.is_there:
        pytest.skip(f"not in this ComfyUI: {request.param.case.name}")
    return request.param


def compute_by_the_oracle(monkeypatch, case):
    """In all calls of self-attention over the video, with transformer_options or without."""
    network = case.model().get_model_object("diffusion_model")
    module = import_module(ATTENTION[type(network).__name__])
    override = partial(oracle(case), module.optimized_attention)
    monkeypatch.setattr(module, "optimized_attention", override)


def test_before_and_after_the_cache(cached, summaries, monkeypatch):
    """Unchanged if the pattern keeps everything, else as if the oracle computed each call."""
    plain = cached.sample(cached.cache)
    for nodes in orders(cached, **EVERYTHING):
        assert difference(cached.sample(nodes), plain) < 1e-4
    outputs = [cached.sample(nodes) for nodes in orders(cached)]
    assert torch.equal(*outputs)
    assert all("skipped" in summary["status"] for summary in summaries)
    compute_by_the_oracle(monkeypatch, cached.case)
    truth = cached.sample(cached.cache)
    assert difference(truth, plain) > 1e-3 and difference(outputs[0], truth) < 1e-4


def put_steps_of_blocks_into(ran: list, model):
    """A model that puts the sampler's step into `ran` each time its second block runs."""
    model, now = model.clone(), []
    network = model.get_model_object("diffusion_model")

    def wrapper(executor, x, t, *args, **named):
        options = next(value for value in args if isinstance(value, dict))
        now[:] = (options["sample_sigmas"] == t[0]).nonzero().flatten().tolist()
        return executor(x, t, *args, **named)

    model.add_wrapper_with_key("apply_model", "test", wrapper)
    blocks = getattr(network, "blocks", None) or network.double_blocks
    blocks[1].register_forward_pre_hook(lambda *_: ran.extend(now))
    return model


@pytest.mark.parametrize("place", [0, 1], ids=["before the cache", "after it"])
def test_the_schedule_counts_the_samplers_steps(cached, summaries, place):
    """Whatever was skipped; and what was skipped is neither dense nor radial."""
    settings, models, ran = {"dense_steps": 3, "dense_last_steps": 1, "dense_blocks": 1}, [], []

    def nodes(model):
        models.append(orders(cached, **settings)[place](put_steps_of_blocks_into(ran, model)))
        return models[0]

    cached.sample(nodes)
    report, found, times = only_run(models[0]), {}, Counter(ran)
    for (step, block), calls in cells(report).items():
        assert list(calls) == [expected_kind(step, block, STEPS, **settings)]
        found.setdefault(step, set()).add(block)
    less = [step for step in range(STEPS) if times[step] < max(times.values())]
    # First Block Cache runs the first block, cache_dit one of the two prompts.
    in_part = [step for step in less if step in times or cached.name.startswith("wavespeed")]
    totals, whole = report["totals"], [step for step in less if step not in in_part]
    assert less and totals["steps"] == STEPS
    assert (totals["skipped_steps"], totals["partly_skipped_steps"]) == (whole, in_part)
    assert sorted(found) == [step for step in range(STEPS) if step not in whole]
    assert all(len(found[step]) == report["blocks"] for step in found if step not in in_part)


def again(run, model, **options):
    """Sample with a model that may have sampled before."""
    return zoo.sample(model, run.case.inputs(), steps=STEPS, **options)


ALONE = [
    run(easy_cache, IMAGE),
    run(lazy_cache, IMAGE),
    run(teacache, TWO, threshold=1.5),
    run(magcache, VACE),
    run(magcache, HUNYUAN_15),
    run(wavespeed, HUNYUAN, slow=True, threshold=0.8),
]


@pytest.mark.parametrize("cached", ALONE)
@pytest.mark.parametrize("place", [0, 1], ids=["before the cache", "after it"])
def test_nothing_is_left_of_a_run_or_of_an_interrupted_one(cached, summaries, place):
    model = orders(cached, dense_steps=2)[place](cached.case.model())
    first = again(cached, model)
    network, turns = model.get_model_object("diffusion_model"), []

    def interrupts(*_):
        turns.append(1)
        if len(turns) == 3:
            comfy.model_management.interrupt_current_processing()

    hook = network.register_forward_pre_hook(interrupts)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        again(cached, model)
    hook.remove()
    assert torch.equal(again(cached, model), first)
    whole, part, last = runs_of(model)
    assert tell(whole) == tell(last) and "skipped" in tell(whole)[0]
    reached = part["totals"]["steps"]
    assert reached < STEPS and all(step < reached for step in part["totals"]["skipped_steps"])
    assert cells(part).items() <= cells(whole).items()


def tell(report):
    """What a report says, without seconds."""
    text = pack_module("nodes.run.summary_text")
    return text.status(report), text.summary(report), cells(report)


@pytest.mark.parametrize("cache", [easy_cache, lazy_cache])
def test_two_experts(summaries, cache):
    """Each has its own cache and its own report, and the same video as without the patch."""
    case = next(case for case in zoo.CASES if case.name == "wan 2.2 i2v a14b")

    def both(nodes):
        high, low, inputs = nodes(case.model()), nodes(case.model(seed=1)), case.inputs()
        started = zoo.sample(high, inputs, steps=10, start_step=0, last_step=5)
        rest = {"start_step": 5, "disable_noise": True, "force_full_denoise": True}
        return high, low, zoo.sample(low, inputs, steps=10, latent={"samples": started}, **rest)

    *_, plain = both(cache)
    *models, kept = both(lambda model: cache(patch(model, **EVERYTHING)))
    assert difference(kept, plain) < 1e-4
    for model in models:
        totals = only_run(model)["totals"]
        assert totals["steps"] == 5 and totals["skipped_steps"][0] == 2


def test_a_first_step_that_is_skipped_is_told(summaries):
    """comfyui-cache-dit goes on counting, so the second run begins with the first one's result."""
    run = Run("", cache_dit, next(case for case in zoo.CASES if case.name == TWO))
    model = patch(cache_dit(run.case.model(), warmup=1, skip_interval=7), dense_steps=1)
    again(run, model)
    again(run, model)
    first, second = runs_of(model)
    assert first["totals"]["skipped_steps"] == []
    assert second["totals"]["skipped_steps"] == [0] and 0 not in {s for s, _ in cells(second)}
    assert second["totals"]["dense_calls"] == {}
