"""What a model family states about itself. Each family has a file of its own beside this one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...radial_core import VideoLayout
from ...radial_core.estimate import ModelSize


@dataclass(frozen=True)
class Preset:
    """Settings for videos of the length that a model was trained on.

    frames: that length, in latent frames.
    """

    name: str
    frames: int
    decay: float
    dense_blocks: int = 1
    sink_frames: int = 1


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of the self-attention calls of a forward pass.

    grid: frames, height and width of the video in patches. before, after: other tokens in front of
    the video and behind it; None for all the rest, such as text of any length. others: lengths of
    the other sequences that the video attends to. announced: whether every self-attention call over
    the video says its block, in all versions of ComfyUI; then a call that says none is not the
    video's. If False, calls that say no block are counted, which is right as long as no block is
    skipped.
    double_blocks: how many of those come before the single-stream ones. calls_of_block: index ->
    self-attention calls over the video, for blocks that make more than one.

    Raises ValueError if before and after are both None.
    """

    grid: tuple[int, int, int]
    before: int | None = 0
    after: int | None = 0
    others: frozenset[int] = frozenset()
    announced: bool = True
    double_blocks: int = 0
    calls_of_block: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self):
        if self.before is None and self.after is None:
            raise ValueError("before and after can't both be all the rest")

    def layout(self, tokens: int) -> VideoLayout | None:
        """Where the video is in a call of so many tokens; None if it doesn't fit."""
        rest = tokens - math.prod(self.grid)
        before = rest - self.after if self.before is None else self.before
        after = rest - before if self.after is None else self.after
        if before < 0 or after < 0 or before + after != rest:
            return None
        return VideoLayout(*self.grid, before, after)


@dataclass(frozen=True)
class VideoModel:
    """A model that the preview offers by name.

    stride: pixels along a side of a latent pixel. frames: video frames in a latent frame, after the
    first. patch: latent pixels along a side of a token. before, after: tokens of a typical prompt
    in front of the video and behind it. sound: tokens for each latent frame in front of the video.
    latent_frames, video_frames: video frames -> latent frames and back, in place of `frames` where
    latent frames stand for different numbers of video frames.
    """

    preset: Preset
    size: ModelSize
    stride: int = 8
    frames: int = 4
    patch: int = 2
    before: int = 0
    after: int = 0
    sound: float = 0
    latent_frames: Callable[[int], int] | None = None
    video_frames: Callable[[int], int] | None = None

    def latent(self, width: int, height: int, length: int) -> tuple[int, int, int]:
        """Frames, height and width of a video's latent, as ComfyUI's nodes make it."""
        frames = (length - 1) // self.frames + 1
        if self.latent_frames is not None:
            frames = self.latent_frames(length)
        return frames, height // self.stride, width // self.stride

    def length(self, latent_frames: int) -> int:
        """Frames of the video that a latent stands for."""
        if self.video_frames is not None:
            return self.video_frames(latent_frames)
        return (latent_frames - 1) * self.frames + 1

    def tokens_before(self, latent_frames: int) -> int:
        return self.before + round(self.sound * latent_frames)

    def layout(self, latent: tuple[int, int, int]) -> VideoLayout:
        frames, *sides = latent
        before = self.tokens_before(frames)
        return VideoLayout(frames, *(-(-n // self.patch) for n in sides), before, self.after)


@dataclass(frozen=True)
class ModelClass:
    """One of ComfyUI's classes.

    token_layout: (model, x, c_crossattn, conditions) -> TokenLayout. x: the latent
    (b, c, f, h, w); c_crossattn and conditions are those of BaseModel.apply_model.
    preset: model -> Preset. splits: whether several cards can share the tokens of its passes: what
    runs between its blocks works on any tokens.
    """

    token_layout: Callable
    preset: Callable
    splits: bool = False


@dataclass(frozen=True)
class BlockList:
    """A list of transformer blocks with self-attention over the video.

    name: its attribute in the model. block_class: the name of its blocks' class. main: False if
    the blocks run beside the main ones and don't count as blocks of the model. changes_in_place:
    arguments of a block, tokens, that it adds to in place. split: (the block's arguments by name, a
    TokenShare) -> those that differ where a card has only its share of the tokens.
    """

    name: str
    block_class: str
    main: bool = True
    changes_in_place: tuple[str, ...] = ()
    split: Callable | None = None


@dataclass(frozen=True)
class Family:
    """All that this pack knows of a family of models.

    Every family states these:
    name: as texts on nodes have it. classes: "module.Class" of ComfyUI's -> what is true of it.
    presets: every preset that its models can have. head_dim: model -> that of its self-attention.

    What is left out of the following turns the feature that needs it off, with a reason:
    expert_presets: preset -> what takes its place where the sampler runs only part of the noise
    schedule. size: model -> ModelSize, for estimates. catalog: what the preview offers by name.
    block_lists: main ones in the order in which they run. Without them blocks get no hooks: they
    are told apart by what the model announces, or counted. projections: "q", "k", "v" and "o" ->
    the layers of a block that make it in the video's self-attention, for training.
    fused_blocks: the file in nodes/fused_blocks/ with the fused forms of its blocks.
    behind_blocks: a layer whose first argument are the tokens that leave the blocks, (b, s, c) or
    (s, c); several cards put their shares together there. whole_output: (output of the last block,
    a TokenShare, gather) -> the output with the whole video, where that must happen earlier.
    gather: (x, dim, stream) -> the whole stream.
    """

    name: str
    classes: Mapping[str, ModelClass]
    presets: tuple[Preset, ...]
    head_dim: Callable
    expert_presets: Mapping[Preset, Preset] = field(default_factory=dict)
    size: Callable | None = None
    catalog: Mapping[str, VideoModel] = field(default_factory=dict)
    block_lists: tuple[BlockList, ...] = ()
    projections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fused_blocks: str | None = None
    behind_blocks: str | None = None
    whole_output: Callable | None = None


def patches(latent, patch_size) -> tuple[int, ...]:
    """The grid of a latent (..., f, h, w) that is padded to whole patches."""
    sizes = latent.shape[-len(patch_size) :]
    return tuple(-(-n // p) for n, p in zip(sizes, patch_size, strict=True))


def lengths(*sequences) -> frozenset[int]:
    """How many tokens each of the sequences (b, s, c) has. None stands for no sequence."""
    return frozenset(x.shape[-2] for x in sequences if x is not None)


def model_size(blocks: int, heads: int, head_dim: int, weights: int) -> ModelSize:
    """weights: those of one block that a video token passes, which costs 2 FLOP for each.

    Text passes weights of its own in some models. That is little next to the video, and left out.
    """
    return ModelSize(blocks, heads, head_dim, 2.0 * blocks * weights)
