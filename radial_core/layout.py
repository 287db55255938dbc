"""Where the video tokens stand in one attention call."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoLayout:
    """A sequence of `prefix` other tokens, then the video, then `suffix` other tokens.

    The video is `frames` latent frames of `height` x `width` patches, frame after frame, row after
    row. Prefix and suffix hold whatever else is in the call: text, reference or context tokens.

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
