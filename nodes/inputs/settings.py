"""What the node's inputs make of a model's own values: the settings of a forward pass.

The models' values are in nodes/families/, the node's presets in presets.py. The rules for longer
videos, and for dense steps where no preset has others, are those of the paper (arXiv 2506.19852,
tables 1 to 3 and appendix) and of the scripts of its released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...radial_core import RadialPattern, Schedule
from ...radial_core.masks.radial import MAX_DECAY
from ...radial_core.noise_levels import is_whole
from ..families.base import Preset
from .checks import check_choice, check_number, check_plain, read_block_size

# A video this much longer than those the model was trained on is a long one. A reference frame or
# two in front of the video do not make it one.
LONGER = 1.25
LONG_DENSE_STEPS, LONG_DENSE_BLOCKS, LONG_SINK_FRAMES, LONG_DECAY = 2, 2, 1, 1.0
# At the trained length the first quarter of the steps is dense, unless a preset says otherwise. By
# then the video is settled.
QUARTER = 0.25
LEAST_EARLY = 2  # sparse steps that have a preset's early lists, if any have
NEAR = 0.1  # of a step: schedulers round
ROUNDING = 1e-9  # of a share times a number of steps
# What stands for the model's own value on the node.
AUTOMATIC = {"dense_steps": -1, "dense_blocks": -1, "sink_frames": -1, "decay": 0}
MOST = 10_000  # steps, blocks or frames in a node's input
# The lists of key blocks: the mask's, or each head's own (radial_core/adaptive).
LISTS = RADIAL, ADAPTIVE = "radial", "adaptive"
LEAST_BUDGET, MOST_BUDGET = 0.1, 10.0  # blocks in adaptive lists, as a share of radial ones
# Why lists are radial where adaptive ones were asked for.
NO_SCHEDULE = "no sampler with a schedule runs the model"
NO_DENSE_STEP = "no dense step comes before the sparse ones"


@dataclass(frozen=True)
class Settings:
    """What a node was set to; None stands for the model's own value, which depends on the length.

    preset: the name of the node's preset; None where its inputs decide. dense: the share of the
    steps that are dense, where dense_steps doesn't say how many; long_dense_steps: at most so many
    in long videos, None for no limit. early: the budget of adaptive lists that are found before the
    share `until` of the steps, and found again then; None for the same.
    """

    dense_steps: int | None
    dense_last_steps: int
    dense_blocks: int | None
    sink_frames: int | None
    decay: float | None
    block_size: int
    lists: str = RADIAL
    budget: float = 1.0
    preset: str | None = None
    dense: float = QUARTER
    long_dense_steps: int | None = LONG_DENSE_STEPS
    early: float | None = None
    until: float = QUARTER

    @property
    def adaptive_budget(self) -> float | None:
        """The budget of adaptive lists; None if lists are radial."""
        return self.budget if self.lists == ADAPTIVE else None

    @property
    def automatic(self) -> bool:
        """Whether any value is the model's own."""
        return None in (self.dense_steps, self.dense_blocks, self.sink_frames, self.decay)

    def resolve(
        self, preset: Preset, frames: int, levels: Sequence[float] | None
    ) -> tuple[RadialPattern, Schedule]:
        """The values for a video of so many latent frames.

        levels: the sampler's, without a jump, see radial_core/noise_levels.py.
        """
        steps = self._first_steps(levels)
        if frames > LONGER * preset.frames:
            if self.long_dense_steps is not None:
                steps = min(steps, self.long_dense_steps)
            blocks, sink_frames, decay = LONG_DENSE_BLOCKS, LONG_SINK_FRAMES, LONG_DECAY
        else:
            blocks, sink_frames, decay = preset.dense_blocks, preset.sink_frames, preset.decay
        pattern = RadialPattern(
            decay=decay if self.decay is None else self.decay,
            sink_frames=sink_frames if self.sink_frames is None else self.sink_frames,
            block_size=self.block_size,
        )
        schedule = Schedule(
            dense_steps=steps if self.dense_steps is None else self.dense_steps,
            dense_last_steps=self.dense_last_steps,
            dense_blocks=blocks if self.dense_blocks is None else self.dense_blocks,
        )
        return pattern, schedule

    def _first_steps(self, levels: Sequence[float] | None) -> int:
        """How many of a sampler's steps lie in the dense share of the schedule.

        A preset has at least one in noise: its lists are chosen after it, however few steps follow.
        """
        steps = first_steps(levels, self.dense)
        return steps if self.preset is None or starts_settled(levels) else max(steps, 1)

    def early_lists(
        self, schedule: Schedule, levels: Sequence[float] | None
    ) -> tuple[int, float | None]:
        """The step from which on adaptive lists stay, and the budget of those found before it.

        None for the same budget. A preset's early lists are for a few steps, or not at all: to look
        takes longer than they would save in one.
        """
        settled = first_steps(levels, self.until)
        if self.early is not None and settled - schedule.dense_steps < LEAST_EARLY:
            return min(settled, schedule.dense_steps), None
        return settled, self.early

    def why_radial(self, schedule: Schedule, levels: Sequence[float] | None) -> str | None:
        """Why no call of a sampler can have adaptive lists; None if some can.

        Where a head looks in pure noise says little of where it looks later. So they are chosen
        after the dense steps, or by a sampler that begins where another has settled the video.
        """
        if levels is None:
            return NO_SCHEDULE
        return None if schedule.dense_steps or starts_settled(levels) else NO_DENSE_STEP


def read_settings(
    *,
    decay,
    sink_frames,
    dense_blocks,
    block_size,
    dense_steps=AUTOMATIC["dense_steps"],
    dense_last_steps=0,
    lists=RADIAL,
    budget=1.0,
) -> Settings:
    """From a node's inputs. Raises ValueError if one is impossible."""
    check_choice("lists", lists, LISTS)
    check_number("budget", budget, LEAST_BUDGET, MOST_BUDGET)
    return Settings(
        dense_steps=_read_count("dense_steps", dense_steps),
        dense_last_steps=_read_count("dense_last_steps", dense_last_steps),
        dense_blocks=_read_count("dense_blocks", dense_blocks),
        sink_frames=_read_count("sink_frames", sink_frames),
        decay=_read_decay(decay),
        block_size=read_block_size(block_size),
        lists=lists,
        budget=budget,
    )


def _read_decay(value) -> float | None:
    """None for the model's own value."""
    check_plain(decay=value)
    if value == AUTOMATIC["decay"]:
        return None
    if not isinstance(value, int | float) or not 0 < value <= MAX_DECAY:
        expected = f"in (0, {MAX_DECAY:g}]{_or_automatic('decay')}"
        raise ValueError(f"decay must be {expected}, got {value!r}")
    return value


def _read_count(name: str, value) -> int | None:
    """A number of steps, blocks or frames; None for the model's own value."""
    check_plain(**{name: value})
    if name in AUTOMATIC and value == AUTOMATIC[name]:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = f"{name} must be a whole number from 0 up{_or_automatic(name)}, got {value!r}"
        raise ValueError(message)
    return value


def _or_automatic(name: str) -> str:
    return f", or {AUTOMATIC[name]} for the model's value" if name in AUTOMATIC else ""


def starts_settled(levels: Sequence[float] | None) -> bool:
    """Whether a sampler begins after the first quarter of the schedule, or has no schedule.

    One that goes on where another stopped does, as the low-noise expert of Wan 2.2. What happens in
    the video is settled by then.
    """
    return levels is None or levels[0] <= 1 - QUARTER


def first_steps(levels: Sequence[float] | None, share: float = QUARTER) -> int:
    """How many steps of a sampler lie in the first share of the schedule."""
    if levels is None:
        return 0
    if is_whole(levels):
        return int(share * (len(levels) - 1) + ROUNDING)
    steps = 0
    for level, next_level in pairwise(levels):
        if next_level < 1 - share - NEAR * (level - next_level):
            break
        steps += 1
    return steps
