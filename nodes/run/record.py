"""What one sampler run did, step by step and block by block."""

import threading
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch

from ...radial_core import RadialPattern, Schedule
from ...radial_core.devices import device_name
from ..comfyui.features import missing
from .looks import Looks
from .reasons import NOT_OURS, Why
from .saving import saving, typical
from .skipped import skipped_calls, skipped_steps
from .stopwatch import Mark, Stopwatch

RADIAL = "radial"
PASS = "pass"
LOOK = "look"
MOST_STEPS = 2000  # later steps, as of a long training run, share one entry


@dataclass
class CallEntry:
    """A call of the model, or an attention call in it, as the record takes it.

    mark: its start, if it is timed. step, block: where it is, if known. dense: why it is dense;
    None if it is sparse. backend: the kernel; None for ComfyUI's dense attention. shape: batch,
    tokens and numbers in q of self-attention over the video. density: kept share of its blocks.
    fused: for a pass, why blocks were not fused (None: they were) -> blocks; None if none could be.
    precision: of what computed it, "exact" or "8 bit"; None if that can't be told. blocks: for a
    pass that may be radial, how many blocks ran in it. adaptive: a sparse call had adaptive lists.
    """

    mark: Mark | None = None
    step: int | None = None
    block: int | None = None
    dense: Why | None = None
    backend: str | None = None
    shape: tuple[int, ...] = ()
    density: float | None = None
    fused: Counter | None = None
    precision: str | None = None
    blocks: int | None = None
    adaptive: bool = False

    def failed(self, why: Why) -> None:
        """Something of ours failed: the call goes on dense."""
        self.dense, self.backend, self.precision, self.density = why, None, None, None
        self.adaptive = False


class Record:
    """Counts and times of a run, by step. A call ran as "radial", or has a reason to be dense.

    Several threads may write: a model on several GPUs has one for each.
    """

    def __init__(self):
        self.latent = None  # shape of what the model got
        self.devices = {}  # an ordered set
        self.model_calls = 0
        self.steps = Counter()  # step -> calls of the model, 0 if the sampler asked in vain
        self._not_called = Counter()  # step -> how often the sampler asked in vain
        self._passes = Counter()  # (step, how many blocks ran) -> calls of the model
        self.dense_calls = Counter()  # reason -> calls
        self.dense_backends = Counter()  # kernel, if not ComfyUI's own -> calls
        self.radial_calls = 0  # all sparse ones, whatever their lists
        self.adaptive_calls = 0  # those of them with adaptive lists
        self._densities = 0.0  # their sum over the radial calls
        self.backend = None
        self.precisions = Counter()  # of the radial calls -> calls
        self.dense_precisions = Counter()  # of dense self-attention, where it is known -> calls
        self.why_exact = None  # why radial calls are exact where 8 bit was wanted
        self.why_radial = None  # why lists are radial where adaptive ones were wanted
        self.gpus = None  # what Radial Multi-GPU says of the run: see cards/figures.py
        self.not_repaired = None  # why outputs of adaptive lists are not repaired
        self._wants_adaptive, self._looks = False, Looks()
        self.settings = {}
        self.settings_of = None  # the name of the model's own, if any of them is one
        self._fused = Counter()  # why a block was not fused, None if it was -> calls
        self.compiled = False  # whether any part of the model is compiled
        self.failures = set()  # names of errors
        self.passed_by = {}  # an ordered set: whose sparse attention was on the hook, and not used
        self._blocks = Counter()  # (step, block or None, what it ran as) -> calls
        self._seconds = defaultdict(float)  # (step, what it ran as, or PASS for all) -> seconds
        self._call_seconds = defaultdict(lambda: array("f"))  # as `saving` takes them
        self._stopwatch = Stopwatch(self._timed)
        self._lock = threading.Lock()

    @property
    def density(self) -> float | None:
        """Kept share of the blocks, the mean over the radial calls."""
        return self._densities / self.radial_calls if self.radial_calls else None

    @property
    def has_looked(self) -> bool:
        """Whether any lists of this run were looked for."""
        return self._looks.number > 0

    def use(
        self,
        pattern: RadialPattern,
        schedule: Schedule,
        settings_of: str | None,
        budget: float | None = None,
        early_budget: float | None = None,
        preset: str | None = None,
    ):
        """The settings of a pass. settings_of: the name of the model's own, if any of them is one.
        budget: of adaptive lists; None if lists are to be radial. early_budget: of those found
        before the video is settled, if it is another. preset: the name of the node's, if any.
        """
        settings = {} if preset is None else {"preset": preset}
        settings |= {**asdict(schedule), "sink_frames": pattern.sink_frames}
        settings |= {"decay": pattern.decay, "block_size": pattern.block_size}
        if budget is None:
            self.settings = settings | {"lists": "radial"}
        else:
            early = {} if early_budget is None else {"early_budget": early_budget}
            self.settings = settings | {"lists": "adaptive", **early, "budget": budget}
            self._wants_adaptive = True
        self.settings_of = settings_of

    def forward(self, step: int | None, x: torch.Tensor) -> int:
        """A call of the model; returns the step to count it in. x: the latent."""
        self._stopwatch.collect()
        with self._lock:
            self.latent = self.latent or tuple(x.shape)
            self.devices[x.device] = None
            self.model_calls += 1
            step = self.model_calls if step is None else step
            self.steps[step] += 1
            return min(step, MOST_STEPS)

    def not_called(self, step: int) -> None:
        """The sampler asked for the model's output in this step, and the model was not called."""
        with self._lock:
            self.steps[step] += 0
            self._not_called[min(step, MOST_STEPS)] += 1

    def start(self, device: torch.device) -> Mark | None:
        """The start of a call of the model, or of attention."""
        return self._stopwatch.start(device)

    def end_forward(self, entry: CallEntry) -> None:
        """A call of the model is over."""
        if entry.step is not None:
            self._stopwatch.stop(entry.mark, (entry.step, PASS, None))
        if entry.dense is not None:
            self.end_call(replace(entry, mark=None))
        with self._lock:
            self._fused.update(entry.fused or {})
            if entry.step is not None and entry.blocks is not None:
                self._passes[entry.step, entry.blocks] += 1

    def looked(self, mark: Mark | None, attended: torch.Tensor, size: int) -> None:
        """A look for adaptive lists is over. It is a part of the call that this thread ends next.

        mark: its start, if it is timed. attended: float32 (2,), the share of all attention that the
        kept blocks have, and that radial ones would have. It is read with the record: nothing waits
        for its device before. size: bytes of the lists.
        """
        self._stopwatch.stop(mark, (None, LOOK, self._looks.of_call()))
        with self._lock:
            self._looks.add(attended, size)

    def end_call(self, entry: CallEntry) -> None:
        """A call of attention is over."""
        ran = RADIAL if entry.dense is None else entry.dense
        call = (*entry.shape, entry.density), self._looks.end_call()
        self._stopwatch.stop(entry.mark, (entry.step, ran, call))
        with self._lock:
            if entry.dense is None:
                self.radial_calls += 1
                self.adaptive_calls += entry.adaptive
                self._densities += entry.density
                self.backend = entry.backend
                self.precisions[entry.precision] += 1
            else:
                self.dense_calls[ran] += 1
                if entry.backend is not None:
                    self.dense_backends[entry.backend] += 1
            is_ours = entry.dense is None or entry.dense.reason not in NOT_OURS
            if is_ours and entry.dense is not None and entry.precision is not None:
                self.dense_precisions[entry.precision] += 1
            if is_ours and entry.step is not None:
                self._blocks[entry.step, entry.block, ran] += 1

    def _timed(self, key: tuple, seconds: float) -> None:
        step, ran, call = key
        with self._lock:
            if ran == LOOK:  # known before its call is, which ends later
                self._looks.took(seconds, call)
                return
            self._seconds[step, ran] += seconds
            if call is not None:
                size, looks = call
                self._call_seconds[size].append(seconds - (looks.seconds if looks else 0.0))

    def read(self, wait: bool = True) -> dict:
        """All of it as plain values, for JSON. Steps and blocks count from 0.

        Seconds are None where nothing could be timed. wait: for the device to finish; else the last
        calls may be missing from the seconds, and the looks from what they found.
        """
        self._stopwatch.collect(wait)
        with self._lock:
            return self._read(wait)

    def _read(self, wait: bool) -> dict:
        dense = self.dense_calls
        not_fused = {why: n for why, n in self._fused.most_common() if why is not None}
        steps, adaptive = self._read_steps(), None
        if self._wants_adaptive:
            adaptive = {"calls": self.adaptive_calls, **self._looks.read(wait)}
            adaptive["why_radial"] = self.why_radial
            adaptive["not_repaired"] = self.not_repaired
        seconds = _sum(s for (_, ran), s in self._seconds.items() if ran == PASS)
        return {
            "latent": list(self.latent or ()),
            "devices": [device_name(device) for device in self.devices],
            "settings": self.settings,
            "settings_of": self.settings_of,
            "density": self.density,
            "backend": self.backend,
            "dense_backends": dict(self.dense_backends),
            "precisions": dict(self.precisions),
            "dense_precisions": dict(self.dense_precisions),
            "why_exact": self.why_exact,
            "adaptive": adaptive,
            "fused_blocks": self._fused[None],
            "blocks_not_fused": sum(not_fused.values()),
            "why_not_fused": not_fused,
            "compiled": self.compiled,
            "passed_by": list(self.passed_by),
            "missing_features": missing(),
            "failures": sorted(self.failures),
            "blocks": 1 + max((b for _, b, _ in self._blocks if b is not None), default=-1),
            "totals": {
                "steps": len(self.steps),
                **skipped_steps(steps),
                "model_calls": self.model_calls,
                "radial_calls": self.radial_calls,
                "adaptive_calls": self.adaptive_calls,
                "gpus": self.gpus,
                "dense_calls": {why: n for why, n in dense.items() if why.reason not in NOT_OURS},
                "other_calls": {why: n for why, n in dense.items() if why.reason in NOT_OURS},
                "seconds": seconds,
                "attention_seconds": _sum(
                    s for (_, ran), s in self._seconds.items() if ran != PASS
                ),
                "seconds_of_a_radial_call": typical(self._call_seconds, dense=False),
                "seconds_of_a_dense_call": typical(self._call_seconds, dense=True),
            },
            "saving": saving(self._call_seconds, seconds, self._looks.seconds) if seconds else None,
            "steps": steps,
        }

    def _read_steps(self) -> list[dict]:
        calls, blocks, seconds = Counter(), defaultdict(dict), defaultdict(dict)
        skipped = skipped_calls(self._not_called, self._passes)
        for step, number in self.steps.items():
            calls[min(step, MOST_STEPS)] += number
        for (step, block, ran), number in self._blocks.items():
            blocks[step].setdefault(block, {})[ran] = number
        for (step, ran), time in self._seconds.items():
            seconds[step][ran] = time
        return [
            {
                "step": step,
                "model_calls": calls[step],
                "skipped_calls": skipped[step],
                "seconds": seconds[step].pop(PASS, None),
                "attention_seconds": seconds[step],
                "blocks": _alike(blocks[step]),
            }
            for step in sorted(calls)
        ]


def _alike(blocks: dict[int | None, dict[str, int]]) -> list[dict]:
    """Entries for runs of blocks with the same calls. first and last are None outside blocks."""
    entries = []
    for block in sorted(blocks, key=lambda block: -1 if block is None else block):
        calls, before = blocks[block], entries[-1] if entries else None
        if before and before["calls"] == calls and block and before["last"] == block - 1:
            before["last"] = block
        else:
            entries.append({"first": block, "last": block, "calls": calls})
    return entries


def _sum(seconds: Iterable[float]) -> float | None:
    seconds = list(seconds)
    return sum(seconds) if seconds else None
