"""Adaptive lists in a sampler run: looked for once, kept, and used in each sparse call after."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch

from ...radial_core import Plan
from ...radial_core.adaptive.lists import AdaptiveLists, look
from ...radial_core.call import SIGNALS
from ..run.run_reporter import RunReporter

# Lists of a run beyond this many bytes are kept in host memory, and brought back for each call.
ON_DEVICE = 2**28
# Beyond this many there, calls without lists are radial.
ON_HOST = 2**33
FULL = f"lists of {ON_HOST >> 30} GiB are kept already"
TRAINING = "the model is in training"
MOVING = "context windows that differ from step to step"

log = logging.getLogger("radial_attention")


@dataclass(frozen=True)
class PassLists:
    """What the sparse calls of a forward pass look for.

    budget: see radial_core/adaptive/choice.py. step: in the record. model: which one it is of
    several in a run. window, branches: see comfyui/branches.py.
    """

    budget: float
    step: int
    model: int
    window: tuple[int, ...] | None
    branches: Sequence[Hashable]


class RunLists:
    """The lists of a run: for each block, branch and window those of its first sparse call.

    Threads of several GPUs use it together; each looks for what is on its own device.
    """

    def __init__(self, reporter: RunReporter):
        self._reporter = reporter
        self._found: dict[Hashable, AdaptiveLists] = {}
        self._bytes = {True: 0, False: 0}  # on a device; in host memory
        self._first_step: int | None = None  # in which lists were looked for
        self._windows: set[tuple[int, ...] | None] = set()  # those of that step
        self._failed = False

    def of_call(self, of_pass: PassLists, block: Hashable) -> "CallLists":
        """block: the transformer block, and which of its calls this is."""
        return CallLists(self, of_pass, block)

    def plan(self, key: Hashable, of_pass: PassLists, q, k, plan: Plan, scale: float | None):
        """The plan of one video, (s, h, d), in the place of a radial one; None if it stays that."""
        found = self._found.get(key)
        if found is None and (self._failed or not self._may_look(of_pass)):
            return None
        try:
            if found is None:
                mark = self._reporter.record.start(q.device)
                found = look(q, k, plan, of_pass.budget, scale)
                found = self._found[key] = self._kept(found)
                self._reporter.record.looked(mark, found.attended, found.bytes)
            return found.plan()
        except SIGNALS:
            raise
        except Exception as error:
            self._fail(error)
            return None

    def _may_look(self, of_pass: PassLists) -> bool:
        """Windows that move are new in each step: to look each time would take longer than it
        saves.
        """
        if self._first_step is None:
            self._first_step = of_pass.step
        if of_pass.step == self._first_step:
            self._windows.add(of_pass.window)
        elif of_pass.window is not None and of_pass.window not in self._windows:
            self._say_radial(MOVING)
            return False
        if self._bytes[False] > ON_HOST:
            self._say_radial(FULL)
            return False
        return True

    def _kept(self, found: AdaptiveLists) -> AdaptiveLists:
        on_device = self._bytes[True] + found.bytes <= ON_DEVICE
        self._bytes[on_device] += found.bytes
        return found if on_device else replace(found, bits=found.bits.cpu())

    def _say_radial(self, why: str) -> None:
        record = self._reporter.record
        record.why_radial = record.why_radial or why
        self._reporter.say_once(why, logging.INFO, "Radial attention: lists are radial: %s", why)

    def _fail(self, error: Exception) -> None:
        """The run goes on with what was found, and radial lists for all else."""
        self._failed = True
        message = "Adaptive lists failed; calls without them are radial in this run. %s"
        self._reporter.say_once("adaptive", logging.WARNING, message, error, exc_info=True)
        self._say_radial(f"{type(error).__name__}")


@dataclass
class CallLists:
    """The lists for one attention call. density: kept share of its blocks, once they are found."""

    run: RunLists
    of_pass: PassLists
    block: Hashable
    density: float | None = None
    adaptive: bool = False

    def plans(self, q: torch.Tensor, k: torch.Tensor, plan: Plan, scale: float | None):
        """A plan for each video of the batch, or one for all. q, k: (b, s, h, d)."""
        branches, of_pass = self.of_pass.branches, self.of_pass
        place = (of_pass.model, of_pass.window, self.block, plan.mask, plan.layout, plan.device)
        self.density = plan.density
        if len(branches) != len(q):
            return [plan]
        found = [
            self.run.plan((*place, branch), of_pass, one_q, one_k, plan, scale)
            for branch, one_q, one_k in zip(branches, q, k, strict=True)
        ]
        if not any(found):
            return [plan]
        plans = [plan if own is None else own for own in found]
        self.density = sum(each.density for each in plans) / len(plans)
        self.adaptive = True
        return plans
