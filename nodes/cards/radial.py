"""Radial attention on the other cards: each pass is as ComfyUI's process decided it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from ..comfyui.option_keys import KEY, SLOT
from ..hook.adaptive import PassLists
from ..hook.block_hooks import hooked_blocks
from ..hook.current_pass import in_pass
from ..hook.decision import PassFacts
from ..hook.forward_pass import ForwardPass
from ..hook.forward_wrapper import fused, preferred
from ..hook.override import RadialOverride
from ..inputs.settings import Settings


@dataclass(frozen=True)
class RadialPass:
    """A pass that Radial Attention Patch takes part in.

    run: the sampler run that it belongs to. settings, backend, dense_choice, precision: those of
    the node. The rest is what a ForwardPass says.
    """

    run: int
    settings: Settings
    backend: str
    dense_choice: str
    precision: str
    facts: PassFacts
    step: int
    lists: PassLists | None


def radial_pass(forward: ForwardPass | None, run: int) -> RadialPass | None:
    """What the other cards need to know of a pass. forward: ComfyUI's process has it."""
    if forward is None:
        return None
    ours = forward.override
    node = ours.settings, ours.backend, ours.dense_choice, ours.precision
    return RadialPass(run, *node, forward.facts, forward.step, forward.lists)


class RadialRuns:
    """The sampler runs that a process of another card takes part in."""

    def __init__(self):
        self._overrides: dict[int, RadialOverride] = {}

    @contextmanager
    def in_pass(
        self, radial: RadialPass | None, model: torch.nn.Module, options: dict
    ) -> Iterator[dict]:
        """A pass as hook/forward_wrapper.py has it. Yields the options of the pass."""
        if radial is None:
            yield options
            return
        override = self._overrides.get(radial.run)
        if override is None:
            self._overrides.clear()  # an end that was not told
            node = radial.settings, radial.backend, radial.dense_choice, radial.precision
            override = self._overrides[radial.run] = RadialOverride(*node)
        of_model = override.run.preferred.get(model)
        if of_model is None:
            of_model = override.run.preferred[model] = preferred(model)
        forward = ForwardPass(
            override=override,
            previous=None,
            facts=radial.facts,
            step=radial.step,
            preferred=of_model,
            lists=radial.lists,
        )
        options = {**options, KEY: forward, SLOT: override}
        device = next(model.parameters()).device
        with ExitStack() as stack:
            stack.enter_context(in_pass(forward, options))
            stack.enter_context(hooked_blocks(forward, model))
            stack.enter_context(fused(model, device))
            yield options

    def end(self, run: int) -> dict | None:
        """What the record of a run has; None if it had no radial passes."""
        override = self._overrides.pop(run, None)
        if override is None:
            return None
        read = override.reporter.record.read()
        override.end_run(None)
        return read
