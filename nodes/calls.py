"""What the override knows of a forward pass and of an attention call in it."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..radial_core import RadialPattern, Schedule, VideoLayout
from .models import Sequence

if TYPE_CHECKING:
    from .override import RadialOverride


@dataclass(eq=False)
class Forward:
    """What one forward pass of the model has in common for all its attention calls.

    In training, a call may come again after the pass, for gradients: it must run as it did before.
    """

    override: "RadialOverride"
    previous: Callable | None  # the override that was on the hook
    sequence: Sequence
    pattern: RadialPattern
    schedule: Schedule
    step: int  # in the record of the run
    dense_step: bool
    fast_dense: bool
    blocks: Iterator[int] = field(default_factory=itertools.count)  # for models that don't count
    radial: set[int] = field(default_factory=set)  # blocks that ran radial
    ended: bool = False


@dataclass(frozen=True)
class Dense:
    """A call that stays dense. plain: it is self-attention over the video, and nothing else."""

    reason: str
    plain: bool = False


def block_of(sequence: Sequence, options: dict, counted: Iterator[int]) -> int:
    """The transformer block that a self-attention call is in. counted: if it is silent."""
    if options.get("block_index") is None:
        return next(counted)
    single = options.get("block_type") == "single"
    return options["block_index"] + single * sequence.double_blocks


def why_not_call(layout: VideoLayout, absent: tuple[int, ...] | None, q, k, v) -> str | None:
    """Why a self-attention call over the video can't be radial; None if it can.

    absent: the tokens that its mask takes away, None if it does more than that.
    """
    if absent is None or any(token >= layout.prefix for token in absent):
        return "attention mask"
    if k.shape != q.shape or v.shape != q.shape:
        return "keys have other heads than queries"
    return None
