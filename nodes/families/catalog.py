"""The video models by name, for those who want to know of one before they load it."""

import math
from dataclasses import dataclass, replace

import torch

from ...radial_core import VideoLayout
from ...radial_core.estimate import ModelSize
from ..inputs.settings import (
    HUNYUAN_VIDEO,
    HUNYUAN_VIDEO_15,
    MOCHI,
    WAN_21,
    WAN_22,
    WAN_22_5B,
    Preset,
)
from .registry import authors_of, sequence_of, size_of


@dataclass(frozen=True)
class VideoModel:
    """A kind of video model.

    stride: pixels to a side of a latent pixel. frames: video frames to a latent frame, after the
    first. patch: latent pixels to a side of a token. before, after: tokens of a typical prompt in
    front of the video and behind it.
    """

    authors: Preset
    size: ModelSize
    stride: int = 8
    frames: int = 4
    patch: int = 2
    before: int = 0
    after: int = 0

    def latent(self, width: int, height: int, length: int) -> tuple[int, int, int]:
        """Frames, height and width of a video's latent, as ComfyUI's nodes make it."""
        return (length - 1) // self.frames + 1, height // self.stride, width // self.stride

    def layout(self, latent: tuple[int, int, int]) -> VideoLayout:
        frames, *sides = latent
        return VideoLayout(frames, *(-(-n // self.patch) for n in sides), self.before, self.after)


def _size(blocks: int, width: int, weights: int) -> ModelSize:
    """weights: of a block, those that a video token passes."""
    return ModelSize(blocks, width // 128, 128, 2.0 * blocks * weights)


def _wan(blocks: int, width: int, feed_forward: int) -> ModelSize:
    return _size(blocks, width, 6 * width**2 + 2 * width * feed_forward)


# Sizes as `size_of` finds them in the real models; strides and patches as in ComfyUI's VAEs and its
# nodes for empty latents. Text is that of a long prompt: 256 tokens, and in HunyuanVideo 1.5 some
# more for words in quotes. Wan's is in its cross-attention.
VIDEO_MODELS = {
    "Wan 2.1 14B": VideoModel(WAN_21, _wan(40, 5120, 13824)),
    "Wan 2.1 1.3B": VideoModel(WAN_21, _wan(30, 1536, 8960)),
    "Wan 2.2 A14B": VideoModel(WAN_22, _wan(40, 5120, 13824)),
    "Wan 2.2 5B": VideoModel(WAN_22_5B, _wan(30, 3072, 14336), stride=16),
    "HunyuanVideo": VideoModel(HUNYUAN_VIDEO, _size(60, 3072, 12 * 3072**2), before=256),
    "HunyuanVideo 1.5": VideoModel(
        HUNYUAN_VIDEO_15, _size(54, 2048, 12 * 2048**2), stride=16, patch=1, before=320
    ),
    "Mochi": VideoModel(MOCHI, _size(48, 3072, 4 * 3072**2 + 3 * 3072 * 8192), frames=6, after=256),
}


def catalog_entry(diffusion_model, chosen: VideoModel) -> VideoModel:
    """The kind of a model that this pack knows, with its own size.

    chosen: settles what the model can't tell: Wan 2.1 and the experts of 2.2 are one architecture.
    """
    authors = authors_of(diffusion_model, runs_all=chosen.authors is not WAN_22)
    alike = (kind for kind in (chosen, *VIDEO_MODELS.values()) if kind.authors is authors)
    kind = next(alike, VIDEO_MODELS["Wan 2.1 14B"])  # HuMo is a Wan
    return replace(kind, authors=authors, size=size_of(diffusion_model))


def layout_of(diffusion_model, kind: VideoModel, latent: tuple[int, int, int]) -> VideoLayout:
    """Where a video of the kind's model stands in its sequence, with a typical prompt."""
    x = torch.empty(0, 0, *latent, device="meta")
    sequence = sequence_of(diffusion_model, x, None, {})
    return sequence.layout(math.prod(sequence.grid) + kind.before + kind.after)
