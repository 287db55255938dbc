"""What all pictures share: colours, the font, and the conversion to ComfyUI's IMAGE."""

from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (252, 252, 250), (34, 40, 36), (128, 134, 128)
EDGE = (214, 218, 210)
# The same thing has the same colour in every picture.
NEAR = (27, 94, 52)  # frames next to each other in time
FAR = (139, 195, 150)  # the furthest band; the ones between are blended
SINK = (232, 163, 61)
TEXT = (94, 129, 193)
DROPPED = (240, 241, 237)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font; the size is in pixels."""
    return ImageFont.load_default(size)


def blend(a: tuple, b: tuple, share: float) -> tuple[int, int, int]:
    """The colour at this share of the way from a to b."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def legend(draw: ImageDraw.ImageDraw, at: tuple[int, int], entries, size: int = 16) -> int:
    """Draw a column of colour patches with labels, downwards from `at`; returns the y of its end.

    entries: of (colour, label). A label may have several lines.
    """
    x, y = at
    for colour, label in entries:
        draw.rectangle((x, y + 2, x + size, y + 2 + size), fill=colour, outline=EDGE)
        draw.multiline_text((x + size + 10, y), label, INK, font(size), spacing=3)
        y += round((label.count("\n") + 1) * size * 1.35) + 6
    return y


def as_image(picture: Image.Image) -> torch.Tensor:
    """ComfyUI's IMAGE: float32 (1, height, width, 3) from 0 to 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)[None]
