"""Draws the picture of Radial Multi-GPU's help page: who computes what on two GPUs.

    python benchmarks/draw_multi_gpu.py --comfyui FOLDER

Needs the Python of your ComfyUI.
"""

import argparse
import sys
from pathlib import Path

from draw_mask import DOCS, the_pack
from end_to_end_models import radial_node, start_comfyui
from PIL import Image, ImageDraw

SIZE = 880, 250
TOKENS, HEADS, CELL = 12, 8, 16
TOP, SECOND, FONT = 62, 560, 17


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    beside = Path(sys.prefix).parent / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=beside, help="ComfyUI's folder")
    start_comfyui(parser.parse_args().comfyui.resolve())
    radial_node()  # loads the pack
    picture().quantize(32).save(DOCS / "radial_multi_gpu.png", optimize=True)


def picture() -> Image.Image:
    canvas = the_pack("nodes.drawing.canvas")
    image = Image.new("RGB", SIZE, canvas.PAPER)
    draw, font = ImageDraw.Draw(image), canvas.font(FONT)
    first, second = canvas.NEAR, canvas.SINK

    def grid(left: int, title: str, colour):
        draw.text((left, 14), title, canvas.INK, font)
        for token in range(TOKENS):
            for head in range(HEADS):
                x, y = left + token * CELL, TOP + head * CELL
                square = (x, y, x + CELL - 2, y + CELL - 2)
                draw.rectangle(square, fill=colour(token, head))
        draw.text((left, TOP + HEADS * CELL + 2), "tokens, from left to right", canvas.FAINT, font)

    grid(30, "Norms and linear layers", lambda t, _: first if t < TOKENS / 2 else second)
    grid(SECOND, "Attention", lambda _, h: first if h < HEADS / 2 else second)
    draw.text((SECOND + TOKENS * CELL + 12, TOP), "heads,\ndownwards", canvas.FAINT, font)
    left, right, middle = 250, SECOND - 30, TOP + HEADS * CELL // 2
    draw.text(
        (left + 22, middle - 50), "q, k, v: each GPU sends\nhalf of what it has", canvas.INK, font
    )
    draw.text((left + 22, middle + 14), "the output, on its way back", canvas.INK, font)
    for y, tip, end in ((middle - 3, right, left), (middle + 7, left, right)):
        draw.line((end, y, tip, y), canvas.INK, 2)
        back = -9 if tip > end else 9
        draw.polygon([(tip, y), (tip + back, y - 5), (tip + back, y + 5)], canvas.INK)
    canvas.legend(draw, (30, SIZE[1] - 34), [(first, "GPU 1")], FONT)
    canvas.legend(draw, (130, SIZE[1] - 34), [(second, "GPU 2")], FONT)
    return image


if __name__ == "__main__":
    main()
