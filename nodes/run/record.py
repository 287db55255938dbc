"""What one sampler run did, step by step and block by block."""

import threading
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch

from ...radial_core import RadialPattern, Schedule
from ..comfyui.features import missing
from .reasons import NOT_OURS, Why
from .saving import saving, typical
from .stopwatch import Mark, Stopwatch

RADIAL = "radial"
PASS = "pass"
MOST_STEPS = 2000  # a training run goes on: steps after that are told apart no more


@dataclass
class Span:
    """A call of the model, or of attention in it.

    mark: its start, if it is timed. step, block: where it is, as far as that is known. dense: why
    it is; None if it is radial. backend: what runs it; None for ComfyUI's dense attention. shape:
    batch and tokens of a call of self-attention over the video. density: kept share of its blocks.
    fused: a pass's blocks, by why they were not fused, None if they were; None if nobody tried.
    """

    mark: Mark | None = None
    step: int | None = None
    block: int | None = None
    dense: Why | None = None
    backend: str | None = None
    shape: tuple[int, ...] = ()
    density: float | None = None
    fused: Counter | None = None

    def failed(self, why: Why) -> None:
        """Something of ours failed: the call goes on dense."""
        self.dense, self.backend, self.density = why, None, None


class Record:
    """Counts and times of a run, by step. What a call ran as is "radial", or why it was dense.

    Several threads may write: a model on several GPUs has one for each.
    """

    def __init__(self):
        self.latent = None  # its shape, as the model got it
        self.devices = {}  # an ordered set
        self.model_calls = 0
        self.steps = Counter()  # step -> calls of the model
        self.dense_calls = Counter()  # reason -> calls
        self.dense_backends = Counter()  # kernel, if not ComfyUI's own -> calls
        self.radial_calls = 0
        self._densities = 0.0  # their sum over the radial calls
        self.backend = None
        self.settings = {}
        self.authors = None
        self._fused = Counter()  # why a block had no fused norms, None if it had -> calls of it
        self.compiled = False  # whether torch.compile has any part of the model
        self.failures = set()  # the reasons that are one
        self._blocks = Counter()  # (step, block or None, what it ran as) -> calls
        self._seconds = defaultdict(float)  # (step, what it ran as, or PASS for all) -> seconds
        self._call_seconds = defaultdict(lambda: array("f"))  # as `saving` takes them
        self._stopwatch = Stopwatch(self._timed)
        self._lock = threading.Lock()

    @property
    def density(self) -> float | None:
        """Kept share of the blocks, the mean over the radial calls."""
        return self._densities / self.radial_calls if self.radial_calls else None

    def use(self, pattern: RadialPattern, schedule: Schedule, authors: str | None):
        """The settings of a pass. authors: whose, if any of them is not the user's own."""
        settings = {**asdict(schedule), "sink_frames": pattern.sink_frames}
        self.settings = settings | {"decay": pattern.decay, "block_size": pattern.block_size}
        self.authors = authors

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

    def start(self, device: torch.device) -> Mark | None:
        """The start of a call of the model, or of attention."""
        return self._stopwatch.start(device)

    def end_forward(self, span: Span) -> None:
        """A call of the model is over."""
        if span.step is not None:
            self._stopwatch.stop(span.mark, (span.step, PASS, None))
        if span.dense is not None:
            self.end_call(replace(span, mark=None))
        with self._lock:
            self._fused.update(span.fused or {})

    def end_call(self, span: Span) -> None:
        """A call of attention is over."""
        ran = RADIAL if span.dense is None else span.dense
        self._stopwatch.stop(span.mark, (span.step, ran, (*span.shape, span.density)))
        with self._lock:
            if span.dense is None:
                self.radial_calls += 1
                self._densities += span.density
                self.backend = span.backend
            else:
                self.dense_calls[ran] += 1
                if span.backend is not None:
                    self.dense_backends[span.backend] += 1
            if span.step is not None and (span.dense is None or span.dense.reason not in NOT_OURS):
                self._blocks[span.step, span.block, ran] += 1

    def _timed(self, key: tuple, seconds: float) -> None:
        step, ran, call = key
        with self._lock:
            self._seconds[step, ran] += seconds
            if call is not None:
                self._call_seconds[call].append(seconds)

    def read(self, wait: bool = True) -> dict:
        """All of it as plain values, for JSON. Steps and blocks count from 0.

        Seconds are None where nothing could be timed. wait: until the device has done what it was
        asked; else the last of the seconds may be missing.
        """
        self._stopwatch.collect(wait)
        with self._lock:
            return self._read()

    def _read(self) -> dict:
        dense = self.dense_calls
        not_fused = {why: n for why, n in self._fused.most_common() if why is not None}
        seconds = _sum(s for (_, ran), s in self._seconds.items() if ran == PASS)
        return {
            "latent": list(self.latent or ()),
            "devices": [_name(device) for device in self.devices],
            "settings": self.settings,
            "settings_of": self.authors,
            "density": self.density,
            "backend": self.backend,
            "dense_backends": dict(self.dense_backends),
            "fused_blocks": self._fused[None],
            "blocks_not_fused": sum(not_fused.values()),
            "why_not_fused": not_fused,
            "compiled": self.compiled,
            "missing_features": missing(),
            "failures": sorted(self.failures),
            "blocks": 1 + max((b for _, b, _ in self._blocks if b is not None), default=-1),
            "totals": {
                "steps": len(self.steps),
                "model_calls": self.model_calls,
                "radial_calls": self.radial_calls,
                "dense_calls": {why: n for why, n in dense.items() if why.reason not in NOT_OURS},
                "other_calls": {why: n for why, n in dense.items() if why.reason in NOT_OURS},
                "seconds": seconds,
                "attention_seconds": _sum(
                    s for (_, ran), s in self._seconds.items() if ran != PASS
                ),
                "seconds_of_a_radial_call": typical(self._call_seconds, dense=False),
                "seconds_of_a_dense_call": typical(self._call_seconds, dense=True),
            },
            "saving": saving(self._call_seconds, seconds) if seconds else None,
            "steps": self._read_steps(),
        }

    def _read_steps(self) -> list[dict]:
        calls, blocks, seconds = Counter(), defaultdict(dict), defaultdict(dict)
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
                "seconds": seconds[step].pop(PASS, None),
                "attention_seconds": seconds[step],
                "blocks": _alike(blocks[step]),
            }
            for step in sorted(calls)
        ]


def _alike(blocks: dict[int | None, dict[str, int]]) -> list[dict]:
    """Neighbouring blocks with the same calls in one entry; first, last are None outside blocks."""
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


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
