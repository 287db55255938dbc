"""What all pictures share: colours, type, and the way into ComfyUI's IMAGE."""

from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (252, 252, 250), (34, 40, 36), (128, 134, 128)
EDGE = (214, 218, 210)
# The same thing has the same colour in every picture.
NEAR = (27, 94, 52)  # frames next to each other in time
FAR = (139, 195, 150)  # the furthest band; those between lie between
SINK = (232, 163, 61)
TEXT = (94, 129, 193)
DROPPED = (240, 241, 237)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, in pixels."""
    return ImageFont.load_default(size)


def blend(a: tuple, b: tuple, share: float) -> tuple[int, int, int]:
    """A colour so far on the way from a to b."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def legend(draw: ImageDraw.ImageDraw, at: tuple[int, int], entries, size: int = 16) -> int:
    """A column of colour patches with what they stand for, from `at` down; returns its end.

    entries: of (colour, words); words may have several lines.
    """
    x, y = at
    for colour, words in entries:
        draw.rectangle((x, y + 2, x + size, y + 2 + size), fill=colour, outline=EDGE)
        draw.multiline_text((x + size + 10, y), words, INK, font(size), spacing=3)
        y += round((words.count("\n") + 1) * size * 1.35) + 6
    return y


def as_image(picture: Image.Image) -> torch.Tensor:
    """ComfyUI's IMAGE: float32 (1, height, width, 3) from 0 to 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)[None]
