"""What was measured in a run of a model, and the error of any setting that follows from it."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby

from .estimate import ModelSize
from .layout import VideoLayout
from .masks.radial import RadialPattern
from .measure import CallMeasurement

DIGITS = 4  # of a measured number in a file


@dataclass(frozen=True)
class MeasuredCall:
    """One measured call: its step and transformer block, and what was measured."""

    step: int
    block: int
    reading: CallMeasurement


@dataclass(frozen=True)
class Measurements:
    """The measured calls of one run; at least one.

    steps: of the sampler. patterns: the masks that each call was measured for; densities: the share
    of the block map that each keeps. current, dense_blocks: the settings that the run had, the
    first as an index into `patterns`. settings_of: where they come from, for a person to read.

    budgets: of the adaptive lists that were measured, in the place of the current pattern, none in
    measurements of older versions. They come after the patterns wherever there is a number for each
    pattern. budget: that of the run; None if its lists were radial. why_not_adaptive: why no
    adaptive lists were measured.
    """

    size: ModelSize
    layout: VideoLayout
    steps: int
    patterns: tuple[RadialPattern, ...]
    densities: tuple[float, ...]
    current: int
    dense_blocks: int
    settings_of: str
    calls: tuple[MeasuredCall, ...]
    budgets: tuple[float, ...] = ()
    budget: float | None = None
    why_not_adaptive: str = ""

    @property
    def now(self) -> int:
        """The index of the run's own lists; of its pattern if adaptive ones were not measured."""
        return self.adaptive(self.budget) if self.budget in self.budgets else self.current

    def adaptive(self, budget: float) -> int:
        """The index of adaptive lists at a measured budget."""
        return len(self.patterns) + self.budgets.index(budget)

    def pattern(self, lists: int) -> RadialPattern:
        """A measured pattern, or that in whose place adaptive lists are."""
        return self.patterns[lists if lists < len(self.patterns) else self.current]

    def budget_of(self, lists: int) -> float | None:
        """None for a pattern."""
        place = lists - len(self.patterns)
        return None if place < 0 else self.budgets[place]

    @cached_property
    def measured_steps(self) -> tuple[int, ...]:
        return tuple(sorted({call.step for call in self.calls}))

    @cached_property
    def sinks(self) -> tuple[int, ...]:
        return tuple(sorted({pattern.sink_frames for pattern in self.patterns}))

    @cached_property
    def decays(self) -> tuple[float, ...]:
        return tuple(sorted({pattern.decay for pattern in self.patterns}))

    def index(self, decay: float, sink_frames: int) -> int | None:
        """The index of the pattern with these settings; None if it was not measured."""
        block_size = self.patterns[self.current].block_size
        pattern = RadialPattern(decay, sink_frames, block_size)
        return self.patterns.index(pattern) if pattern in self.patterns else None

    def error(self, lists: int, dense_blocks: int) -> float:
        """Relative RMS error of the output of self-attention, over all blocks and measured steps.

        Dense blocks have no error. That of an unmeasured block is interpolated.
        """
        squares = self._squares[lists][dense_blocks:]
        return (sum(squares) / self.size.blocks) ** 0.5

    def coverage(self, lists: int) -> float:
        """The mean share of the attention mass that is kept, over all measured calls."""
        return _mean([call.reading.coverage[lists] for call in self.calls])

    def by_block(self, lists: int) -> dict[int, float]:
        """Relative RMS error of each measured block, over all measured steps."""
        return _rms_by(self.calls, lists, lambda call: call.block)

    def by_step(self, lists: int) -> dict[int, float]:
        """Relative RMS error of each measured step, over its measured blocks."""
        return _rms_by(self.calls, lists, lambda call: call.step)

    def by_distance(self) -> list[float]:
        """The share of the attention mass that one frame gets, by its distance in time."""
        readings = (call.reading.by_distance for call in self.calls)
        return [_mean(each) for each in zip(*readings, strict=True)]

    @cached_property
    def _squares(self) -> list[list[float]]:
        """The squared error of each block, for each pattern and each budget."""
        return [
            _interpolated({block: e * e for block, e in self.by_block(i).items()}, self.size.blocks)
            for i in range(len(self.patterns) + len(self.budgets))
        ]

    def as_json(self) -> str:
        """Everything, as the text of a file."""
        return json.dumps(_rounded(asdict(self)))


def _rms_by(calls: Sequence[MeasuredCall], lists: int, key) -> dict[int, float]:
    groups = groupby(sorted(calls, key=key), key)
    return {
        name: _mean([call.reading.error[lists] ** 2 for call in group]) ** 0.5
        for name, group in groups
    }


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _interpolated(known: dict[int, float], number: int) -> list[float]:
    """Values at 0 ... number - 1: linear between the known ones, constant beyond them."""
    places = sorted(known)
    values = []
    for i in range(number):
        after = bisect_left(places, i)
        left, right = places[max(after - 1, 0)], places[min(after, len(places) - 1)]
        share = 0 if left == right else (i - left) / (right - left)
        values.append(known[left] + share * (known[right] - known[left]))
    return values


def _rounded(x):
    if isinstance(x, float):
        return float(f"{x:.{DIGITS}g}")
    if isinstance(x, dict):
        return {name: _rounded(value) for name, value in x.items()}
    return [_rounded(each) for each in x] if isinstance(x, list | tuple) else x
