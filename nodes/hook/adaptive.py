"""Adaptive lists in a sampler run: looked for, kept, and used in each sparse call after."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ...radial_core import Plan
from ...radial_core.adaptive.lists import AdaptiveLists, look
from ...radial_core.adaptive.repair import repair, repaired
from ...radial_core.call import SIGNALS
from ..run.run_reporter import RunReporter

# Lists of a run beyond this many bytes are kept in host memory, and brought back for each call.
ON_DEVICE = 2**28
# Beyond this many there, calls without lists are radial.
ON_HOST = 2**33
FULL = f"lists of {ON_HOST >> 30} GiB are kept already"
TRAINING = "the model is in training"
MOVING = "context windows that differ from step to step"
UNSURE = "nothing tells which block or video some calls are for"

log = logging.getLogger("radial_attention")


@dataclass(frozen=True)
class PassLists:
    """What the sparse calls of a forward pass look for.

    budget: see radial_core/adaptive/choice.py. early: that before `settled`; None for the same.
    step: in the record. settled: the step from which on lists stay; those of an earlier one are
    looked for again. model: which one it is of several in a run. window, branches: see
    comfyui/branches.py.
    """

    budget: float
    early: float | None
    step: int
    settled: int
    model: int
    window: tuple[int, ...] | None
    branches: Sequence[Hashable]

    @property
    def budget_now(self) -> float:
        """The budget of lists that are found in this pass."""
        return self.budget if self.early is None or self.step >= self.settled else self.early


class Found(NamedTuple):
    """Lists, and the step whose attention they follow."""

    lists: AdaptiveLists
    step: int


class RunLists:
    """The lists of a run: for each block, branch and window those of its first sparse call.

    Early steps, with little but noise, say less of where a head looks later. So lists that were
    found before the video is settled are found again then.

    Threads of several GPUs use it together; each looks for what is on its own device.
    """

    def __init__(self, reporter: RunReporter):
        self._reporter = reporter
        self._found: dict[Hashable, Found] = {}
        self._bytes = {True: 0, False: 0}  # on a device; in host memory
        self._first_step: int | None = None  # in which lists were looked for
        self._windows: set[tuple[int, ...] | None] = set()  # those of that step
        self._failed = False

    def of_call(self, of_pass: PassLists, block: int | None, number: int) -> "CallLists":
        """block: the transformer block, None if it is not known; number: which of its calls."""
        return CallLists(self, of_pass, None if block is None else (block, number))

    def plan(self, key: Hashable, of_pass: PassLists, q, k, plan: Plan, scale: float | None):
        """The plan of one video, (s, h, d), in the place of a radial one; None if it stays that."""
        try:
            lists = self._find(key, of_pass, q, k, plan, scale)
            return lists and lists.plan()
        except SIGNALS:
            raise
        except Exception as error:  # of too little memory to unpack them, if any
            self._fail(error)
            return None

    def repair(self, q, k, v, out, video: slice, scale: float | None) -> None:
        """Add to an output, in place, what its lists lack: see radial_core/adaptive/repair.py."""
        if self._reporter.record.not_repaired is not None:
            return
        try:
            repair(q, k, v, out, video, scale)
        except SIGNALS:
            raise
        except Exception as error:
            self._reporter.record.not_repaired = type(error).__name__
            message = "The output of adaptive lists is not repaired from here on in this run. %s"
            self._reporter.say_once("repair", logging.WARNING, message, error, exc_info=True)

    def _find(
        self, key: Hashable, of_pass: PassLists, q, k, plan: Plan, scale: float | None
    ) -> AdaptiveLists | None:
        before = self._found.get(key)
        if self._failed or not self._looks(of_pass, before):
            return before and before.lists
        try:
            mark = self._reporter.record.start(q.device)
            lists = self._kept(look(q, k, plan, of_pass.budget_now, scale), before)
            self._found[key] = Found(lists, of_pass.step)
            more_bytes = lists.bytes - (before.lists.bytes if before else 0)
            self._reporter.record.looked(mark, lists.attended, more_bytes)
        except SIGNALS:
            raise
        except Exception as error:
            self._fail(error)
            return before and before.lists
        return lists

    def _looks(self, of_pass: PassLists, before: Found | None) -> bool:
        """Whether a call looks. before: what was found for it already.

        Windows that move are new in each step: to look each time would take longer than it saves.
        """
        if before is not None:
            return before.step < of_pass.settled <= of_pass.step
        if self._first_step is None:
            self._first_step = of_pass.step
        if of_pass.step == self._first_step:
            self._windows.add(of_pass.window)
        elif of_pass.window is not None and of_pass.window not in self._windows:
            self.stay_radial(MOVING)
            return False
        if self._bytes[False] > ON_HOST:
            self.stay_radial(FULL)
            return False
        return True

    def _kept(self, lists: AdaptiveLists, before: Found | None) -> AdaptiveLists:
        """The lists as they are kept, in the place of those from before."""
        if before is not None:
            self._bytes[before.lists.on_device] -= before.lists.bytes
        on_device = self._bytes[True] + lists.bytes <= ON_DEVICE
        self._bytes[on_device] += lists.bytes
        return lists if on_device else replace(lists, bits=lists.bits.cpu())

    def stay_radial(self, why: str) -> None:
        """Say why some calls have no adaptive lists."""
        record = self._reporter.record
        record.why_radial = record.why_radial or why
        self._reporter.say_once(why, logging.INFO, "Radial attention: lists are radial: %s", why)

    def _fail(self, error: Exception) -> None:
        """The run goes on with what was found, and radial lists for all else."""
        self._failed = True
        message = "Adaptive lists failed; calls without them are radial in this run. %s"
        self._reporter.say_once("adaptive", logging.WARNING, message, error, exc_info=True)
        self.stay_radial(type(error).__name__)


@dataclass
class CallLists:
    """The lists for one attention call.

    density: kept share of its blocks, once they are found. own: which videos of the batch have
    lists of their own.
    """

    run: RunLists
    of_pass: PassLists
    block: tuple[int, int] | None
    density: float | None = None
    own: Sequence[bool] = ()

    @property
    def adaptive(self) -> bool:
        return any(self.own)

    def plans(self, q: torch.Tensor, k: torch.Tensor, plan: Plan, scale: float | None):
        """A plan for each video of the batch, or one for all. q, k: (b, s, h, d)."""
        branches, of_pass = self.of_pass.branches, self.of_pass
        place = (of_pass.model, of_pass.window, self.block, plan.mask, plan.layout, plan.device)
        self.density = plan.density
        if self.block is None or len(branches) != len(q):
            self.run.stay_radial(UNSURE)
            return [plan]
        found = [
            self.run.plan((*place, branch), of_pass, one_q, one_k, plan, scale)
            for branch, one_q, one_k in zip(branches, q, k, strict=True)
        ]
        self.own = [each is not None for each in found]
        if not self.adaptive:
            return [plan]
        plans = [plan if own is None else own for own in found]
        self.density = sum(each.density for each in plans) / len(plans)
        return plans

    def repair(self, q, k, v, out: torch.Tensor, plan: Plan, scale: float | None) -> None:
        """Of the videos with lists of their own, in place. q, k, v, out: (b, s, h, d)."""
        video = repaired(plan.layout, plan.block_size)
        for i, own in enumerate(self.own):
            if own:
                self.run.repair(*(x[i : i + 1] for x in (q, k, v, out)), video, scale)
