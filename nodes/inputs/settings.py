"""What the node's inputs make of a model's preset: the settings of a forward pass.

The presets are in nodes/families/. The rules for longer videos and for dense steps are those of the
paper (arXiv 2506.19852, tables 1 to 3 and appendix) and of the scripts of its released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...radial_core import RadialPattern, Schedule
from ...radial_core.schedule import ends_clean
from ..families.base import Preset
from .checks import check_plain, read_block_size

# A video this much longer than those the model was trained on is a long one. A reference frame or
# two in front of the video make none.
LONGER = 1.25
LONG_DENSE_STEPS, LONG_DENSE_BLOCKS, LONG_SINK_FRAMES, LONG_DECAY = 2, 2, 1, 1.0
# At the trained length a quarter of the steps is dense. A sampler that runs a part of the schedule
# has those of them that lie in it.
QUARTER = 0.25
NEAR = 0.1  # of a step: schedulers round
ROUNDING = 0.005  # of a noise level, by which a sampler that starts at the quarter is above it
# What stands for the preset's value on the node.
AUTOMATIC = {"dense_steps": -1, "dense_blocks": -1, "sink_frames": -1, "decay": 0}
MOST = 10_000  # of what a node counts: steps, blocks, frames


@dataclass(frozen=True)
class Settings:
    """The node's inputs; None stands for the preset's value.

    Raises ValueError if one is impossible.
    """

    dense_steps: int | None
    dense_last_steps: int
    dense_blocks: int | None
    sink_frames: int | None
    decay: float | None
    block_size: int

    def __post_init__(self):
        values = (self.decay, self.sink_frames, self.dense_steps, self.dense_blocks)
        decay, sink_frames, *dense = (1 if value is None else value for value in values)
        try:
            RadialPattern(decay, sink_frames, self.block_size)
            Schedule(dense[0], self.dense_last_steps, dense[1])
        except ValueError as error:
            stands_for_none = AUTOMATIC.get(str(error).split()[0])
            if stands_for_none is None:
                raise
            raise ValueError(f"{error}, or {stands_for_none}, the preset") from None

    @classmethod
    def read(cls, block_size, dense_last_steps, **chosen) -> "Settings":
        """From a node's inputs. chosen: those in AUTOMATIC; what is left out is the preset's."""
        chosen = {**AUTOMATIC, **chosen}
        check_plain(**chosen, dense_last_steps=dense_last_steps, block_size=block_size)
        return cls(
            **{name: None if x == AUTOMATIC[name] else x for name, x in chosen.items()},
            dense_last_steps=dense_last_steps,
            block_size=read_block_size(block_size),
        )

    @property
    def automatic(self) -> bool:
        """Whether any value is the preset's."""
        return None in (self.dense_steps, self.dense_blocks, self.sink_frames, self.decay)

    def of(
        self, authors: Preset, frames: int, sigmas: Sequence[float] | None, quarter: float
    ) -> tuple[RadialPattern, Schedule]:
        """The settings of a forward pass over so many latent frames.

        sigmas: the noise levels of this sampler. quarter: the level a quarter down the whole
        schedule of the model.
        """
        whole = runs_all(sigmas, quarter)
        steps = (len(sigmas or (0,)) - 1) // 4 if whole else _steps_above(quarter, sigmas)
        long = frames > LONGER * authors.frames
        blocks = LONG_DENSE_BLOCKS if long else authors.dense_blocks
        sink = LONG_SINK_FRAMES if long else authors.sink_frames
        decay = LONG_DECAY if long else authors.decay
        steps = min(steps, LONG_DENSE_STEPS) if long else steps
        return (
            RadialPattern(_or(self.decay, decay), _or(self.sink_frames, sink), self.block_size),
            Schedule(
                _or(self.dense_steps, steps), self.dense_last_steps, _or(self.dense_blocks, blocks)
            ),
        )


def runs_all(sigmas: Sequence[float] | None, quarter: float) -> bool:
    """Whether a sampler runs the whole schedule, or all but its start, and not one model's share.

    It starts in the first quarter and ends at the clean video.
    """
    if not sigmas or len(sigmas) < 2:
        return True
    return sigmas[0] > quarter * (1 + ROUNDING) and ends_clean(sigmas)


def _or(value, authors):
    return authors if value is None else value


def _steps_above(quarter: float, sigmas: Sequence[float]) -> int:
    """How many steps of a sampler are over when a quarter of the schedule is.

    It is 0 for one that goes on where another stopped, as the low-noise expert of Wan 2.2 does:
    what happens in the video is settled there.
    """
    steps = 0
    for level, next_level in pairwise(sigmas):
        if next_level < quarter - NEAR * (level - next_level):
            break
        steps += 1
    return steps
