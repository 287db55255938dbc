"""What the override knows of a forward pass and of an attention call in it."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..radial_core import RadialPattern, Schedule
from .models import Sequence

if TYPE_CHECKING:
    from .override import RadialOverride


@dataclass(frozen=True, eq=False)
class Forward:
    """What one forward pass of the model has in common for all its attention calls."""

    override: "RadialOverride"
    previous: Callable | None  # the override that was on the hook
    sequence: Sequence
    pattern: RadialPattern
    schedule: Schedule
    step: int  # in the record of the run
    dense_step: bool
    fast_dense: bool
    blocks: Iterator[int] = field(default_factory=itertools.count)  # for models that don't count


@dataclass(frozen=True)
class Dense:
    """A call that stays dense. plain: it is self-attention over the video, and nothing else."""

    reason: str
    plain: bool = False
