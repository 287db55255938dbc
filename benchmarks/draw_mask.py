"""Draws the pictures of masks for the README, the preview node's help page and the templates.

Needs the Python of your ComfyUI:

    python benchmarks/draw_mask.py --comfyui FOLDER
"""

import argparse
import importlib
import sys
from pathlib import Path

import record
from end_to_end_models import PACK, radial_node, start_comfyui
from PIL import Image, ImageDraw

DOCS, WORKFLOWS = record.ROOT / "nodes/web/docs", record.ROOT / "workflows"
THUMBNAIL, STRIP = 512, 92  # pixels: a square, with text at the bottom
WHITE, PALE, GREEN = (255, 255, 255), (196, 222, 203), (16, 58, 33)
# For each template: title, model, width, height, length.
TEMPLATES = {
    "wan21_t2v": ("Wan 2.1", "Wan 2.1 1.3B", 832, 480, 81),
    "wan21_long": ("Wan 2.1, long video", "Wan 2.1 1.3B", 832, 480, 161),
    "wan21_fusionx": ("Wan 2.1 FusionX, 8 steps", "Wan 2.1 14B", 832, 480, 81),
    "wan22_t2v": ("Wan 2.2 text to video", "Wan 2.2 A14B", 832, 480, 81),
    "wan22_i2v": ("Wan 2.2 image to video", "Wan 2.2 A14B", 832, 480, 81),
    "wan22_5b": ("Wan 2.2 5B", "Wan 2.2 5B", 1280, 704, 121),
    "hunyuan_t2v": ("HunyuanVideo", "HunyuanVideo", 1280, 768, 117),
    "hunyuan_long": ("HunyuanVideo, long video", "HunyuanVideo", 1280, 720, 509),
    "hunyuan15_t2v": ("HunyuanVideo 1.5", "HunyuanVideo 1.5", 1280, 720, 121),
    "mochi_t2v": ("Mochi", "Mochi", 848, 480, 163),
    "dense_vs_radial": ("Dense against radial", "Wan 2.1 1.3B", 832, 480, 81),
    "settings_search": ("Find your settings", "Wan 2.1 1.3B", 832, 480, 81),
    "train_length_lora": ("Train for longer videos", "Wan 2.1 1.3B", 832, 480, 161),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    beside = Path(sys.prefix).parent / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=beside, help="ComfyUI's folder")
    start_comfyui(parser.parse_args().comfyui.resolve())
    radial_node()  # loads the pack
    plain(the_pack("radial_core"), 768).save(DOCS / "radial_mask.png", optimize=True)
    example, texts = forecast("Mochi", 848, 480, 163), the_pack("nodes.forecast.forecast")
    texts.picture(example).quantize(64).save(DOCS / "radial_preview.png", optimize=True)
    for name, (title, *size) in TEMPLATES.items():
        video = forecast(*size)
        picture = block_map(video.rows, video.pattern, video.layout, THUMBNAIL)
        if name == "dense_vs_radial":
            draw_half_dense(picture)
        below = f"{texts.video(video)}: {texts.percent(video.rows.density)} kept"
        card = thumbnail(picture, title, below)
        card.save(WORKFLOWS / f"{name}.jpg", quality=85, optimize=True)


def the_pack(module: str):
    return importlib.import_module(f"{PACK}.{module}")


def forecast(model: str, width: int, height: int, length: int):
    """The forecast with the model's own values."""
    entry = the_pack("nodes.families.catalog").VIDEO_MODELS[model]
    settings = the_pack("nodes.inputs.settings").Settings(None, 0, None, None, None, 128)
    latent = entry.latent(width, height, length)
    return the_pack("nodes.forecast.forecast").forecast(
        model, entry, latent, entry.layout(latent), settings
    )


def plain(core, side: int) -> Image.Image:
    """Only the map: Wan 2.1 at 81 frames of 832 x 480 and decay 1."""
    pattern, layout = core.RadialPattern(1.0, 1), core.VideoLayout(21, 30, 52)
    rows = the_pack("radial_core.mask_sample").sample(pattern, layout)
    print(f"{rows.density:.1%} of the blocks kept")
    picture = the_pack("nodes.drawing.mask").block_map(rows, pattern, layout, side)
    return picture.quantize(64)


def block_map(*arguments) -> Image.Image:
    return the_pack("nodes.drawing.mask").block_map(*arguments)


def draw_half_dense(picture: Image.Image):
    """Draw the left half as dense attention."""
    draw, middle = ImageDraw.Draw(picture), THUMBNAIL // 2
    near = the_pack("nodes.drawing.canvas").NEAR
    draw.rectangle((0, 0, middle - 1, THUMBNAIL), fill=near)
    draw.line((middle, 0, middle, THUMBNAIL), WHITE, 4)


def thumbnail(picture: Image.Image, title: str, below: str) -> Image.Image:
    """A picture with two lines of text over its lower end."""
    font, top = the_pack("nodes.drawing.canvas").font, THUMBNAIL - STRIP
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, top, THUMBNAIL, THUMBNAIL), fill=GREEN)
    draw.text((22, top + 12), title, WHITE, font(33))
    draw.text((22, top + 55), below, PALE, font(21))
    return picture


if __name__ == "__main__":
    main()
