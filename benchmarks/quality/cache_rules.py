"""Step caches: steps of the sampler in which the model is not run, and which steps those were.

EasyCache is ComfyUI's own node. TeaCache (arXiv 2411.19108) is its rule, on a Wan model with a
batch of one condition: the change of the timestep's modulation from step to step, put through a
polynomial that was fitted to the model, adds up until it reaches a threshold; below it, a step adds
to the tokens what the blocks added to them in the last step that ran.
"""

from collections.abc import Sequence
from contextlib import contextmanager

import numpy
from masked import step_of_call

DEGREE = 4  # of TeaCache's polynomial, as published
START, END = 0.15, 0.95  # of the schedule, EasyCache's defaults


def easycache_node():
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode


def easycache(model, threshold: float):
    """A MODEL with ComfyUI's node EasyCache.

    In float32 the node (of ComfyUI 0.30.0) adds what it keeps to the sampler's own latent, in
    place. So it gets a copy, as it does in any other dtype.
    """
    from comfy.patcher_extension import WrappersMP

    def with_copy(executor, x, *given, **more):
        return executor(x.clone(), *given, **more)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "copy", with_copy)
    return easycache_node().execute(model, threshold, START, END, verbose=False).args[0]


class TeaCache:
    """What one run of a model keeps from step to step.

    changes: pairs of the relative change of the input and that of the output, one for each step
    that ran right after one that ran, of all runs.
    """

    def __init__(self, threshold: float, polynomial: Sequence[float], blocks: int):
        self.threshold, self.polynomial, self.last = threshold, polynomial, blocks - 1
        self.changes = []
        self.forget()

    def forget(self):
        self.total, self.skips = 0.0, False
        self.modulation = self.tokens = self.added = self.out = None

    def first_block(self, given: dict, more: dict) -> dict:
        if step_of_call(given["transformer_options"])[1] == 0:
            self.forget()
        self.input_change = _change(given["vec"], self.modulation)
        self.modulation = given["vec"]
        if self.input_change is not None:
            self.total += float(numpy.polyval(self.polynomial, self.input_change))
        self.skips = self.input_change is not None and self.total < self.threshold
        if self.skips:
            self.out = None
            return {"img": given["img"] + self.added}
        self.total = 0.0
        self.tokens = given["img"]
        return self.block(given, more)

    def block(self, given: dict, more: dict) -> dict:
        return {"img": given["img"]} if self.skips else more["original_block"](given)

    def last_block(self, given: dict, more: dict) -> dict:
        done = self.block(given, more)
        if not self.skips:
            self.added = done["img"] - self.tokens
            if self.out is not None:
                self.changes.append((self.input_change, _change(done["img"], self.out)))
            self.out = done["img"]
        return done


def teacache(model, threshold: float, polynomial: Sequence[float] = (1.0, 0.0)):
    """A MODEL with TeaCache, and its state. polynomial: coefficients, highest power first."""
    blocks = len(model.model.diffusion_model.blocks)
    cache, model = TeaCache(threshold, polynomial, blocks), model.clone()
    model.set_model_patch_replace(cache.first_block, "dit", "double_block", 0)
    for block in range(1, cache.last):
        model.set_model_patch_replace(cache.block, "dit", "double_block", block)
    model.set_model_patch_replace(cache.last_block, "dit", "double_block", cache.last)
    return model, cache


def fitted(changes: Sequence[tuple[float, float]]) -> list[float]:
    """TeaCache's polynomial: from the change of the input to that of the output."""
    inputs, outputs = zip(*changes, strict=True)
    return numpy.polyfit(inputs, outputs, DEGREE).tolist()


@contextmanager
def computed_steps(model):
    """Inside, the list fills with the steps in which the first transformer block runs."""
    steps = []

    def note(block, args, given):
        steps.append(step_of_call(given["transformer_options"])[1])

    hook = model.model.diffusion_model.blocks[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield steps
    finally:
        hook.remove()


def _change(new, old) -> float | None:
    """The mean absolute change, relative to the old mean; None without an old one."""
    if old is None:
        return None
    return ((new - old).float().abs().mean() / old.float().abs().mean()).item()
