"""Adaptive lists where something is missing, fails or ends early; training; bad inputs."""

import gc
import logging
import weakref
from dataclasses import replace

import comfy.model_management
import pytest
import torch
import zoo
from adaptive import SETTINGS, oracle, records, times_looked
from conftest import difference, pack_module, patch, prompt
from eight_bit import forget, register_backend
from trainer import gradients, layers, train, wan_model
from zoo.wan import video, wan

import nodes

pytestmark = pytest.mark.usefixtures("any_density", "summaries")

BLOCKS, BRANCHES = 2, 2
LOOKS = BLOCKS * BRANCHES


@pytest.fixture(scope="module")
def model():
    return wan()


@pytest.fixture(scope="module")
def inputs():
    return replace(video(height=8, width=16), cfg=3.0)  # 4.5 blocks


@pytest.fixture
def sample(inputs):
    return lambda model, **options: zoo.sample(model, inputs, 3, **options)


@pytest.fixture
def adaptive():
    return pack_module("nodes.hook.adaptive")


@pytest.fixture
def looks(adaptive, monkeypatch):
    """Weak references to what was found, in order. fails: the numbers of looks that raise error."""

    class Looks(list):
        fails, error, number = (), None, 0

        def __call__(self, *args):
            self.number += 1
            if self.number in self.fails:
                raise self.error
            found = look(*args)
            self.append(weakref.ref(found))
            return found

    look, looks = adaptive.look, Looks()
    monkeypatch.setattr(adaptive, "look", looks)
    return looks


def alive(looks) -> int:
    gc.collect()
    return sum(each() is not None for each in looks)


ERRORS = RuntimeError("no such kernel"), torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_look_that_fails_leaves_the_run_radial(model, sample, looks, caplog, error):
    looks.fails, looks.error = range(100), error
    ours = patch(model, **SETTINGS)
    radial = sample(patch(model, dense_steps=1))
    for _ in range(2):  # each run tries again
        assert torch.equal(sample(ours), radial)
    assert looks.number == 2
    for record in records(ours):
        assert record.why_radial == type(error).__name__
        assert not record.failures and record.density < 1
    assert times_looked(ours) == [0, 0]
    said = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(said) == 1 and str(error) in said[0].getMessage()
    looks.fails = ()
    assert difference(sample(ours), radial) > 1e-3
    assert records(ours)[-1].why_radial is None


def test_what_was_found_before_a_failure_is_kept(model, sample, looks):
    looks.fails, looks.error = (2,), ERRORS[0]
    ours = patch(model, **SETTINGS)
    out = sample(ours)
    assert looks.number == 2 and times_looked(ours) == [1]
    assert difference(out, sample(patch(model, dense_steps=1))) > 1e-3


def test_the_first_lists_are_kept_if_the_second_look_fails(model, inputs, looks):
    truth, _ = oracle(model)
    expected = zoo.sample(truth, inputs, 8)
    looks.fails, looks.error = range(looks.number + LOOKS + 1, 100), ERRORS[1]
    ours = patch(model, **SETTINGS)
    assert difference(zoo.sample(ours, inputs, 8), expected) < 1e-4
    assert times_looked(ours) == [LOOKS]


def test_lists_that_cannot_be_unpacked_leave_the_run_radial(model, sample, adaptive, monkeypatch):
    def fails(_):
        raise ERRORS[1]

    monkeypatch.setattr(adaptive.AdaptiveLists, "plan", fails)
    ours = patch(model, **SETTINGS)
    assert torch.equal(sample(ours), sample(patch(model, dense_steps=1)))
    (record,) = records(ours)
    assert record.why_radial == "OutOfMemoryError" and not record.failures


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_repair_that_fails_leaves_the_lists(model, sample, adaptive, monkeypatch, caplog, error):
    repair, calls = adaptive.repair, []

    def fails(*given):
        calls.append(given)
        if len(calls) == 3:
            raise error
        repair(*given)

    ours = patch(model, **SETTINGS)
    whole = sample(ours)
    monkeypatch.setattr(adaptive, "repair", lambda *given: None)
    lists_alone = sample(ours)
    monkeypatch.setattr(adaptive, "repair", fails)
    some = sample(ours)
    assert len(calls) == 3  # in the rest of the run it isn't tried again
    calls.clear()
    assert torch.equal(sample(ours), some) and len(calls) == 3  # the next one tries
    found = [each.read()["adaptive"]["not_repaired"] for each in records(ours)]
    assert found == [None, None, *2 * [type(error).__name__]]
    for other in (whole, lists_alone):
        assert 1e-4 < difference(some, other) < 0.5
    said = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(said) == 1 and str(error) in said[0].getMessage()
    assert not records(ours)[-1].failures and records(ours)[-1].why_radial is None
    monkeypatch.setattr(adaptive, "repair", repair)
    assert torch.equal(sample(ours), whole)


@pytest.mark.parametrize("on_device, on_host, found", [(0, 2**30, LOOKS), (2, 0, 3), (0, 1, 2)])
def test_limits(model, sample, adaptive, looks, monkeypatch, caplog, on_device, on_host, found):
    """on_device, on_host: the lists that may be there. One more may be in host memory."""
    caplog.set_level(logging.INFO)
    expected = sample(patch(model, **SETTINGS))
    looks.clear()
    size = 2 * 5  # bytes: two heads with 5 rows of a byte
    monkeypatch.setattr(adaptive, "ON_DEVICE", size * on_device)
    monkeypatch.setattr(adaptive, "ON_HOST", size * on_host)
    moved = []
    monkeypatch.setattr(adaptive, "replace", lambda *a, **k: moved.append(k) or replace(*a, **k))
    ours = patch(model, **SETTINGS)
    for _ in range(2):
        out = sample(ours)
    assert len(looks) == 2 * found and len(moved) == 2 * (found - on_device)
    whole = found == LOOKS
    assert (difference(out, expected) < 1e-6) == whole
    assert records(ours)[0].why_radial == (None if whole else adaptive.FULL)
    said = caplog.messages.count(f"Radial attention: lists are radial: {adaptive.FULL}")
    assert said == (0 if whole else 1)


@pytest.mark.oldest
def test_nothing_is_left_of_a_run_or_of_an_interrupted_one(model, sample, inputs, looks):
    ours = patch(model, **SETTINGS)
    first = sample(ours)
    assert len(looks) == LOOKS and alive(looks) == 0

    def interrupts(*_):
        if len(looks) == LOOKS + BRANCHES:  # after the first block of the first sparse step
            assert alive(looks) == BRANCHES
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()

    network = model.get_model_object("diffusion_model")
    hooks = [block.register_forward_hook(interrupts) for block in network.blocks]
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(ours)
    for hook in hooks:
        hook.remove()
    assert alive(looks) == 0
    swapped = replace(inputs, positive=inputs.negative, negative=inputs.positive)
    truth, _ = oracle(model)
    assert difference(zoo.sample(ours, swapped, 3), zoo.sample(truth, swapped, 3)) < 1e-4
    assert torch.equal(sample(ours), first)


def test_lists_are_freed_with_the_model(sample, looks):
    """Where a run ends without its callback."""
    ours = patch(wan(), **SETTINGS)
    ours.callbacks = {}
    sample(ours)
    assert alive(looks) == LOOKS
    del ours
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models()
    assert alive(looks) == 0


@pytest.mark.parametrize(
    "values", [{}, {"gradient_checkpointing": True, "checkpoint_depth": 2}], ids=["", "checkpoints"]
)
def test_training_is_radial(stand_ins, looks, adaptive, values):
    found = []
    for settings in ({}, {"lists": "adaptive", "budget": 0.5}, SETTINGS):
        ours = layers(patch(wan_model(stand_ins), **settings))
        found.append(gradients(train(ours, prompt(), **values)[0]))
        if settings:
            assert records(ours)[-1].why_radial == adaptive.TRAINING
    assert found[0].any() and all(torch.equal(each, found[0]) for each in found[1:])
    assert looks.number == 0


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_named_backends(model, sample, backend):
    truth, _ = oracle(model)
    ours = patch(model, backend=backend, **SETTINGS)
    assert difference(sample(ours), sample(truth)) < 1e-4
    assert records(ours)[0].backend == backend


def test_a_backend_without_lists_per_head_is_refused(model):
    with pytest.raises(ValueError, match="flashinfer has one list of blocks for all heads"):
        patch(model, backend="flashinfer", **SETTINGS)
    for settings in ({}, {"budget": 0.5}):
        with pytest.raises(ValueError, match="flashinfer needs"):
            patch(model, backend="flashinfer", **settings)


def test_8_bit_kernels_get_the_lists(model, sample, monkeypatch):
    module, seen = register_backend(monkeypatch), []
    try:
        run = module.run
        module.run = lambda q, k, v, plan, *rest: seen.append(plan) or run(q, k, v, plan, *rest)
        ours = patch(model, precision="8 bit", dense_attention="comfyui", **SETTINGS)
        out = sample(ours)
    finally:
        forget()
    exact = sample(patch(model, **SETTINGS))
    assert 1e-5 < difference(out, exact) < 0.05
    assert records(ours)[0].backend == "rounded"
    of_model = [plan for plan in seen if plan.tokens == 9 * 4 * 8]
    assert len(of_model) == 2 * LOOKS and all(plan.per_head for plan in of_model)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lists": "x"}, "lists must be one of radial, adaptive, got 'x'"),
        ({"lists": None}, "lists must be one of radial, adaptive, got None"),
        ({"lists": torch.ones(2)}, "lists must be one of radial, adaptive, got tensor"),
        ({"budget": 0}, "budget must be a number from 0.1 to 10.0, got 0"),
        ({"budget": float("nan")}, "budget must be a number .* got nan"),
        ({"budget": "1"}, "budget must be a number .* got '1'"),
        ({"budget": True}, "budget must be a number .* got True"),
        ({"budget": torch.ones(2)}, "budget must be a number .* got tensor"),
        ({"budget": 1.0, "lists": []}, r"lists must be one of radial, adaptive, got \[\]"),
    ],
)
def test_impossible_inputs_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        patch(model, **{"lists": "adaptive", **settings})


@pytest.mark.oldest
def test_older_graphs_have_neither_input(model, sample):
    """tests/saved has the graphs; a whole number may be linked to budget."""
    inputs = nodes.NODE_CLASS_MAPPINGS["RadialAttentionPatch"].INPUT_TYPES()
    assert list(inputs["optional"])[2:4] == ["lists", "budget"]
    assert not {"lists", "budget"} & inputs["required"].keys()
    radial = sample(patch(model, dense_steps=1))
    assert torch.equal(sample(patch(model, dense_steps=1, lists="radial", budget=3)), radial)
    assert torch.equal(
        sample(patch(model, budget=1, **SETTINGS)), sample(patch(model, budget=1.0, **SETTINGS))
    )


def test_calls_for_a_part_of_the_batch_stay_radial(model, inputs):
    """As of a pack that runs attention for one video after the other."""

    def one_by_one(executor, *args, **kwargs):
        *args, options = args
        ours = options["optimized_attention_override"]

        def override(func, q, k, v, *args, **kwargs):
            each = (ours(func, *(x[i : i + 1] for x in (q, k, v)), *args, **kwargs) for i in (0, 1))
            return torch.cat(list(each))

        return executor(*args, options | {"optimized_attention_override": override}, **kwargs)

    def run(model):
        model = model.clone()
        model.add_wrapper_with_key("diffusion_model", "test", one_by_one)
        return zoo.sample(model, inputs, 3)

    ours = patch(model, **SETTINGS)
    assert difference(run(ours), run(patch(model, dense_steps=1))) < 1e-5
    found = records(ours)[-1].read()["adaptive"]
    assert found["looks"] == 0 and "which block or video" in found["why_radial"]
