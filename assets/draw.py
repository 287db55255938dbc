"""Draws the registry's pictures of the pack: icon.png, a block map, and banner.png, 21 : 9."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "nodes")]  # `nodes` itself needs ComfyUI

from drawing.canvas import DROPPED, FAINT, FAR, INK, NEAR, PAPER, SINK, blend, font  # noqa: E402

from radial_core import RadialPattern, VideoLayout, make_plan  # noqa: E402

# Few frames, so that it can be read at the size of a thumb.
LAYOUT, PATTERN = VideoLayout(8, 32, 32), RadialPattern(decay=0.5, sink_frames=1, block_size=64)
ICON, BANNER = (400, 400), (1260, 540)
FINER = 4  # times the final size, for smooth corners and type
TITLE = "Radial Attention"
WORDS = "Long videos, faster, in ComfyUI\nWan, HunyuanVideo, Mochi"


def block_map(size: int) -> Image.Image:
    """The map as a tile with round corners: near frames dark, far ones light, the sink orange."""
    plan = make_plan(PATTERN, LAYOUT)
    frame = LAYOUT.tokens_per_frame // PATTERN.block_size  # in blocks
    image = Image.new("RGB", (plan.blocks, plan.blocks), DROPPED)
    for row, column in plan.block_mask().nonzero().tolist():
        distance = abs(row // frame - column // frame)
        near_to_far = blend(NEAR, FAR, (distance or 1).bit_length() / 3 - 1 / 3)
        image.putpixel((column, row), SINK if column < frame else near_to_far)
    image = image.resize((size, size), Image.Resampling.NEAREST)
    corners = Image.new("L", image.size)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, size - 1, size - 1), size // 10, fill=255)
    image.putalpha(corners)
    return image


def icon() -> Image.Image:
    return block_map(ICON[0] * FINER).resize(ICON, Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    width, height = (n * FINER for n in BANNER)
    image = Image.new("RGB", (width, height), PAPER)
    margin = height // 9
    tile = block_map(height - 2 * margin)
    image.paste(tile, (margin, margin), tile)
    draw = ImageDraw.Draw(image)
    x = height + margin // 4
    draw.text((x, height * 0.47), TITLE, INK, font(height // 7), anchor="ls")
    draw.multiline_text((x, height * 0.54), WORDS, FAINT, font(height // 14), spacing=height // 30)
    return image.resize(BANNER, Image.Resampling.LANCZOS).quantize(128)


if __name__ == "__main__":
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().save(FOLDER / "banner.png", optimize=True)
