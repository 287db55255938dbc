"""What the override knows of a forward pass and of an attention call in it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...radial_core import RadialPattern, Schedule, VideoLayout
from ..comfyui.option_keys import BLOCK, KEY, PREVIOUS, SLOT
from ..families.base import TokenLayout

if TYPE_CHECKING:
    from .override import RadialOverride


@dataclass(eq=False)
class Forward:
    """What one forward pass of the model has in common for all its attention calls.

    In training, a call may come again after the pass, for gradients: it must run as it did before.
    """

    override: "RadialOverride"
    previous: Callable | None  # the override that was on the hook
    sequence: TokenLayout
    pattern: RadialPattern
    schedule: Schedule
    step: int  # in the record of the run
    dense_step: bool
    fast_dense: bool
    radial: set[int] = field(default_factory=set)  # blocks that ran radial
    ended: bool = False
    training: bool = False
    self_attention_calls: int = 0  # over the video, so far
    block: int | None = None  # the main one that runs now, or ran last
    numbers: "BlockNumbers" = field(init=False)

    def __post_init__(self):
        self.numbers = BlockNumbers(self.sequence)


@dataclass(frozen=True)
class Dense:
    """A call that stays dense. plain: it is self-attention over the video, and nothing else."""

    reason: str
    plain: bool = False


def hook_before_ours(options: dict) -> Callable | None:
    """The override that a call with these transformer_options would meet without ours."""
    ours = options.get(KEY)
    if ours is not None and options.get(SLOT) is ours.override:
        return options.get(PREVIOUS, ours.previous)
    return options.get(SLOT)


class BlockNumbers:
    """Tells from its calls which block a pass is in, where no hook on the block says so."""

    def __init__(self, sequence: TokenLayout):
        self._sequence = sequence
        self._counted = itertools.count()
        self._last = {}  # block_type -> block_index as announced, and as it is; calls of that block

    def of_call(self, options: dict, as_said: bool = False) -> int:
        """The block of a self-attention call over the video.

        options: its transformer_options. as_said: in training, where blocks run again for their
        gradients, a block that says it is the last one again may well be that one.
        """
        if options.get(BLOCK) is not None:
            return options[BLOCK]
        index, kind = options.get("block_index"), options.get("block_type")
        if index is None:
            return next(self._counted)
        return self.place_of(kind, index if as_said else self.announced(kind, index))

    def announced(self, kind: str | None, index: int) -> int:
        """The block_index of a call that says `index`.

        A block that says it is the last one again, and has had its calls, is the one behind it: so
        it is where blocks are run from a wrapper, or share a graph of torch.compile.
        """
        said, is_index, calls = self._last.get(kind, (None, None, 0))
        if index != said:
            is_index, calls = index, 0
        elif calls >= self._sequence.calls_of_block.get(is_index, 1):
            is_index, calls = is_index + 1, 0
        self._last[kind] = index, is_index, calls + 1
        return is_index

    def place_of(self, kind: str | None, index: int) -> int:
        """The place in the model of a block of a kind."""
        return index + (kind == "single") * self._sequence.double_blocks


# Arguments of a call on the hook: what radial attention does as they say.
DONE = {
    "mask",
    "skip_reshape",
    "skip_output_reshape",
    "scale",
    "transformer_options",
    "_inside_attn_wrapper",
}


def _neutral(name: str) -> float | None:
    """The number by which an argument asks for nothing."""
    return 0.0 if name in ("dropout_p", "softcap") else None


def why_not_arguments(kwargs: dict) -> str | None:
    """Why a call's arguments keep it dense; None if what they ask for is done, or is nothing."""
    unknown = sorted(
        name
        for name, x in kwargs.items()
        if name not in DONE and x is not None and x is not False and _neutral(name) != x
    )
    if unknown:
        return f"attention with {', '.join(unknown)}"
    return None


def why_not_call(layout: VideoLayout, absent: tuple[int, ...] | None, q, k, v) -> str | None:
    """Why a self-attention call over the video can't be radial; None if it can.

    absent: the tokens that its mask takes away, None if it does more than that.
    """
    if absent is None or any(token >= layout.prefix for token in absent):
        return "attention mask"
    if k.shape != q.shape or v.shape != q.shape:
        return "keys have other heads than queries"
    return None
