"""Radial Multi-GPU where others do what they rarely do, with real processes on the CPU."""

import gc
import logging
import os
import sys
import threading
import weakref

import comfy.sample
import comfy.samplers
import pytest
import torch
from conftest import difference, newest_only, pack_module
from multi_gpu import (
    cards,  # noqa: F401  (a fixture)
    said,
    sample,
    split,
    split_passes,
    wide,
)
from multi_gpu_faults import Calls, is_gone, never_longer, pids, wait_until
from zoo.wan import video, wan

process = pack_module("nodes.cards.process")
replicas = pack_module("nodes.cards.replicas")
split_pass = pack_module("nodes.cards.split_pass")
team = pack_module("nodes.cards.team")
why_not = pack_module("nodes.cards.why_not")
wrapper = pack_module("nodes.cards.wrapper")


@pytest.fixture(scope="module")
def model():
    return wide()


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "radial_attention")
    with never_longer():
        yield caplog


def merged(model):
    """Another model's weights on top."""
    model, other = model.clone(), wide(seed=5)
    weights = other.model.diffusion_model.state_dict()
    chosen = {name: x for name, x in weights.items() if "self_attn.q.weight" in name}
    model.add_patches({f"diffusion_model.{name}": (x,) for name, x in chosen.items()}, 0.5)
    return model


def test_a_run_whose_end_is_not_told(model, monkeypatch):
    """And the next one, with other weights."""
    calls, expected = Calls(monkeypatch), sample(merged(model))
    monkeypatch.setattr(wrapper.SplitWrapper, "end_run", lambda *_: None)
    both = split(model)
    assert difference(sample(both), expected) > 1e-3
    assert difference(sample(merged(both)), expected) < 1e-5
    assert calls.number == 2 * 2 * 2  # runs, passes, blocks


def by_two_models(positive, negative):
    """A run in which the negative prompt has its own model."""
    from comfy_extras.nodes_custom_sampler import Guider_DualModel

    inputs, guider = video(frames=3), Guider_DualModel(positive, negative)
    guider.set_conds(inputs.positive, inputs.negative)
    guider.set_cfg(3.0)
    latent, sigmas = inputs.latent["samples"], torch.tensor([1.0, 0.5, 0.0])
    noise = comfy.sample.prepare_noise(latent, 1)
    return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, seed=1)


@newest_only("no guider with two models")
@pytest.mark.parametrize("fit", [True, False], ids=["both fit", "one fits"])
def test_two_models_in_each_step(log, monkeypatch, fit):
    model, other = wide(seed=1), wide(seed=2)
    expected = by_two_models(model, other)
    sample(split(model))
    first = pids()
    room, sizes = replicas.Room, []
    if not fit:  # as a worker answers that dropped all it had, to make room
        ask = team.Team.ask

        def full(self, message):
            if not isinstance(message, room):
                return ask(self, message)
            sizes.append(message.bytes)
            ask(self, message._replace(bytes=2**60))
            return [(2**60, [])]

        monkeypatch.setattr(team.Team, "ask", full)
    assert difference(by_two_models(split(model), other), expected) < 1e-5
    assert split_passes(log) == 4 and pids() == first
    assert fit or len(sizes) >= 3  # they took turns


def test_all_cards_say_that_it_cannot_be_split(model, log, monkeypatch):
    """Whoever says it first, it is known from then on, and no process is lost by it again."""
    one_head = wan(dim=128, num_heads=1, num_layers=2)
    expected, both = sample(one_head), split(one_head)
    monkeypatch.setattr(why_not, "heads_of", lambda _: 9)
    attention = split_pass.SplitPass._attention

    def late(self, *args, **kwargs):
        wait_until(lambda: not pids())
        return attention(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(split_pass.SplitPass, "_attention", late)
        assert difference(sample(both), expected) < 1e-5
    assert "NotSplit: 1 heads for 2 cards" in said(log)[-1]
    assert difference(sample(both), expected) < 1e-5
    assert said(log)[-1] == "1 GPU: 1 heads for 2 cards" and not pids()


def test_a_second_try_has_the_memory_of_the_first(model, monkeypatch):
    calls, held, alive = Calls(monkeypatch), [], []

    class Activations:
        pass

    def fail():
        of_the_pass = Activations()
        held.append(weakref.ref(of_the_pass))
        try:
            raise ValueError
        except ValueError:
            raise torch.OutOfMemoryError("too little") from None

    def around(executor, *args, **kwargs):
        alive.append([each() is not None for each in held])
        return executor(*args, **kwargs)

    both = split(model)
    both.add_wrapper_with_key("apply_model", "test", around)
    calls.at = {3: fail}
    gc.disable()
    try:
        assert difference(sample(both), sample(model)) < 1e-5
    finally:
        gc.enable()
    assert alive == [[], [], [False]]


def test_interrupts_at_any_time(model):
    """None costs the team, its memory or a file."""
    import comfy.model_management as management

    sample(split(model))
    (first,) = pids()
    (found,) = team._teams.values()
    calls = Calls(monkeypatch := pytest.MonkeyPatch())

    def interrupt():
        management.interrupt_current_processing()
        management.throw_exception_if_processing_interrupted()

    counts = []
    for number in range(12):
        calls.at = {calls.number + 1 + number % 4: interrupt}
        with pytest.raises(management.InterruptProcessingException):
            sample(split(model))
        if number in (3, 11):
            sample(split(model))
            gc.collect()
            counts.append([len(os.listdir(f"/proc/{pid}/fd")) for pid in ("self", first)])
    monkeypatch.undo()
    early, late = counts
    assert all(b < a + 5 for a, b in zip(early, late, strict=True)) and pids() == [first]
    assert len(list(found._folder.iterdir())) < 4  # of 13 groups


def test_two_threads_at_once(model):
    """Their passes take turns."""
    models = [model, wide(seed=1)]
    expected, found = [sample(each) for each in models], {0: [], 1: []}

    @torch.inference_mode()
    def runs(number):
        both = split(models[number])
        for _ in range(3):
            found[number].append(difference(sample(both), expected[number]))

    threads = [threading.Thread(target=runs, args=(number,), daemon=True) for number in found]
    first = pids()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [max(each) < 1e-5 for each in found.values() if len(each) == 3] == [True, True]
    assert pids() == first


def test_python_is_a_script(model, log, tmp_path, monkeypatch):
    """Which runs it as a process of its own."""
    team.end_all()
    script = tmp_path / "my python"
    script.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    sample(split(model))
    assert split_passes(log) == 2
    (shell,) = pids()
    with open(f"/proc/{shell}/task/{shell}/children") as file:
        numbers = [int(number) for number in file.read().split()]
    team.end_all()
    assert len(numbers) == 1 and wait_until(lambda: all(map(is_gone, [shell, *numbers])))


def test_python_is_nowhere(model, log, monkeypatch):
    team.end_all()
    monkeypatch.setattr(sys, "executable", None)
    sample(split(model))
    assert said(log)[-1].endswith(
        "no process can start: sys.executable doesn't say where Python is"
    )
