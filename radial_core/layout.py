"""Where the video tokens lie in the sequence of one attention call."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class VideoLayout:
    """A sequence of `prefix` other tokens, then the video, then `suffix` other tokens.

    The video is `frames` latent frames of `height` x `width` patches, frame after frame, row after
    row. Prefix and suffix are the text, reference or context tokens of the call.

    Raises ValueError if a size is not a whole number, or is too small.
    """

    frames: int
    height: int
    width: int
    prefix: int = 0
    suffix: int = 0

    def __post_init__(self):
        for name in ("frames", "height", "width", "prefix", "suffix"):
            value, least = getattr(self, name), 0 if name in ("prefix", "suffix") else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} up, got {value!r}")

    @property
    def tokens_per_frame(self) -> int:
        return self.height * self.width

    @property
    def video_tokens(self) -> int:
        return self.frames * self.tokens_per_frame

    @property
    def tokens(self) -> int:
        return self.prefix + self.video_tokens + self.suffix

    def blocks(self, block_size: int) -> int:
        """Blocks along the whole sequence; the last one may be partly filled."""
        return -(-self.tokens // block_size)

    def blocks_without_text(self, block_size: int) -> tuple[int, int]:
        """The first block, and the end, of those that have tokens of the video alone.

        Equal if there are none. A last block that the video fills partly is one of them.
        """
        blocks = self.blocks(block_size)
        begin = min(-(-self.prefix // block_size), blocks)
        end = (self.prefix + self.video_tokens) // block_size if self.suffix else blocks
        return begin, max(begin, end)

    def frames_of_blocks(
        self, rows: torch.Tensor, block_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First and last frame that each of these blocks has tokens of, like `rows` (rows,).

        The last one is below the first where a block has none.
        """
        start = rows * block_size - self.prefix
        first = start.clamp(min=0) // self.tokens_per_frame
        last = ((start + block_size).clamp(max=self.video_tokens) - 1) // self.tokens_per_frame
        return first, last
