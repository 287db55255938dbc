"""What becomes of an attention call: sparse, dense or not ours, out of plain values.

Pure functions, which need no ComfyUI. The facts are gathered by forward_wrapper.py and override.py;
compute.py does what was decided.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ...radial_core import Plan, RadialPattern, Schedule, VideoLayout, make_plan
from ...radial_core.adaptive.choice import rows_of
from ...radial_core.plan import MOST_DENSITY
from ..families.base import TokenLayout
from ..run.reasons import NOT_OURS, Reason, Why

# The settings ask for full attention.
WANTED = (Reason.DENSE_STEP, Reason.DENSE_BLOCK)
# A call that is dense for one of these reasons is plain self-attention over the video.
PLAIN = (Reason.SINGLE_FRAME, Reason.DENSE_STEP, Reason.DENSE_BLOCK, Reason.TOO_DENSE)
# Most calls that are not sparse have one of these, so they are made once.
CROSS_ATTENTION = Why(Reason.CROSS_ATTENTION)
OTHER_SEQUENCE = Why(Reason.OTHER_SEQUENCE)
OUTSIDE_BLOCKS = Why(Reason.OUTSIDE_BLOCKS)
DENSE_STEP = Why(Reason.DENSE_STEP)
DENSE_BLOCK = Why(Reason.DENSE_BLOCK)


@dataclass(frozen=True)
class PassFacts:
    """What the calls of a forward pass have in common.

    tokens: where the video stands in them. is_dense_step: see `Schedule`. budget: of adaptive
    lists; None if lists are radial.
    """

    tokens: TokenLayout
    pattern: RadialPattern
    schedule: Schedule
    is_dense_step: bool
    budget: float | None = None


class CallFacts(NamedTuple):  # cheaper than a frozen dataclass: each call makes one
    """What is known of an attention call.

    video: what `find_video` returned; if that is a reason, the other facts don't matter. block: the
    transformer block, from 0; None if it is not known. shapes: of q, k and v. absent: the tokens
    that the mask hides from every query; None if it does more than that. unknown_arguments: names
    of arguments that we don't know. failure: an error in this run after which the call stays dense.
    """

    video: VideoLayout | Why
    block: int | None = None
    device: torch.device | str = "cpu"
    shapes: tuple[tuple[int, ...], ...] = ()
    absent: tuple[int, ...] | None = ()
    unknown_arguments: tuple[str, ...] = ()
    failure: str | None = None


@dataclass(frozen=True)
class Padding:
    """Text tokens that the mask hides from every query: the call is computed without them.

    prefix: tokens in front of the video. absent: which of them are padding.
    """

    prefix: int
    absent: tuple[int, ...]


@dataclass(frozen=True)
class Sparse:
    """The call is computed by this plan, which is made for the tokens without padding."""

    plan: Plan
    padding: Padding | None = None


@dataclass(frozen=True)
class Dense:
    """The call could be sparse, but is not."""

    why: Why
    padding: Padding | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is self-attention over the video, and any exact kernel can compute it."""
        return self.why.reason in PLAIN

    @property
    def is_wanted(self) -> bool:
        """Whether the settings ask for full attention here."""
        return self.why.reason in WANTED


@dataclass(frozen=True)
class NotOurs:
    """The call is no self-attention over the video."""

    why: Why


def why_pass_is_dense(
    model_class: str,
    is_known: bool,
    latent_dims: int,
    has_cached_frames: bool,
    reordered_by: str | None,
) -> Why | None:
    """Why no call of a forward pass can be sparse; None if some can.

    is_known: whether the model's class belongs to a family. latent_dims: 5 for a video.
    has_cached_frames: the video is made some frames at a time, by a cache of keys. reordered_by:
    what makes its tokens pass the blocks in another order than frame by frame, row by row.
    """
    if not is_known:
        return Why(Reason.UNKNOWN_MODEL, model_class)
    if latent_dims != 5:
        return Why(Reason.NOT_A_VIDEO)
    if has_cached_frames:
        return Why(Reason.CACHED_FRAMES)
    if reordered_by is not None:
        return Why(Reason.REORDERED, reordered_by)
    return None


def find_video(
    tokens: TokenLayout,
    is_in_block: bool,
    query_tokens: int,
    key_tokens: int,
    all_hooked: bool = False,
) -> VideoLayout | Why:
    """Where the video stands in a call, or why the call is not self-attention over it.

    is_in_block: whether the call says, or a hook knows, which transformer block it is in.
    all_hooked: whether all blocks have hooks.
    """
    if tokens.announced and not is_in_block:
        return OUTSIDE_BLOCKS  # HunyuanVideo's text refiner
    layout = tokens.layout(key_tokens)
    # Wan's cross-attention comes with the same options: the video asks, the text answers.
    if query_tokens != key_tokens:
        is_part = layout is not None and query_tokens == layout.video_tokens
        return Why(Reason.IN_PARTS) if is_part else CROSS_ATTENTION
    if all_hooked and not is_in_block and (layout is None or key_tokens in tokens.others):
        return OUTSIDE_BLOCKS  # MiniMax H3's
    if key_tokens in tokens.others:
        return OTHER_SEQUENCE if layout is None else Why(Reason.SAME_LENGTHS, key_tokens)
    if layout is None:
        return Why(Reason.OTHER_LENGTH, query_tokens, "x".join(map(str, tokens.grid)))
    return layout


def why_never_sparse(call: CallFacts) -> Why | None:
    """Why a call over a video can't be sparse, whatever the settings; None if it can."""
    if call.unknown_arguments:
        return Why(Reason.ARGUMENTS, ", ".join(call.unknown_arguments))
    if call.absent is None or any(token >= call.video.prefix for token in call.absent):
        return Why(Reason.MASK)
    q, k, v = call.shapes
    if k != q or v != q:
        return Why(Reason.OTHER_HEADS)
    if call.video.frames == 1:
        return Why(Reason.SINGLE_FRAME)
    return None


def layout_without_padding(video: VideoLayout, absent: tuple[int, ...]) -> VideoLayout:
    """The layout of the call's other tokens."""
    return replace(video, prefix=video.prefix - len(absent)) if absent else video


def decide(facts: PassFacts, call: CallFacts) -> Sparse | Dense | NotOurs:
    """What becomes of a call of a forward pass."""
    if isinstance(call.video, Why):
        return NotOurs(call.video) if call.video.reason in NOT_OURS else Dense(call.video)
    why = why_never_sparse(call)
    if why is not None and why.reason not in PLAIN:
        return Dense(why)
    if call.failure is not None:
        return Dense(Why(Reason.FAILED, call.failure))
    padding = Padding(call.video.prefix, call.absent) if call.absent else None
    if why is not None:
        return Dense(why, padding)
    if facts.is_dense_step:
        return Dense(DENSE_STEP, padding)
    if facts.schedule.is_dense_block(call.block):
        return Dense(DENSE_BLOCK, padding)
    plan = make_plan(facts.pattern, layout_without_padding(call.video, call.absent), call.device)
    density = plan.density if facts.budget is None else rows_of(plan, facts.budget).density
    if density > MOST_DENSITY:
        return Dense(Why(Reason.TOO_DENSE, f"{density:.0%}"), padding)
    return Sparse(plan, padding)
