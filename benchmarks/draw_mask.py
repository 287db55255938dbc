"""Draws the block map of a plan: the picture in the README, the help page and the template."""

import record
from PIL import Image

from radial_core import RadialPattern, VideoLayout, make_plan

LAYOUT = VideoLayout(frames=21, height=30, width=52)  # Wan 2.1, 81 frames of 832 x 480
PATTERN = RadialPattern(decay=1.0, sink_frames=1)
KEPT, SINK, DROPPED = (46, 125, 80), (232, 163, 61), (246, 247, 244)
EDGE = (214, 218, 210)
SCALE = 3


def draw() -> Image.Image:
    plan = make_plan(PATTERN, LAYOUT)
    mask = plan.block_mask()
    sink_blocks = -(-PATTERN.sink_frames * LAYOUT.tokens_per_frame // PATTERN.block_size)
    image = Image.new("RGB", mask.shape, DROPPED)
    frame = [p * PATTERN.block_size // LAYOUT.tokens_per_frame % 2 == 0 for p in range(plan.blocks)]
    for p in range(plan.blocks):
        for q in range(plan.blocks):
            if mask[p, q]:
                image.putpixel((q, p), SINK if q < sink_blocks else KEPT)
            elif frame[p] != frame[q]:
                image.putpixel((q, p), EDGE)
    print(f"{plan.density:.1%} of the blocks kept")
    return image.resize([SCALE * n for n in image.size], Image.Resampling.NEAREST)


if __name__ == "__main__":
    picture = draw()
    picture.save(record.ROOT / "nodes/web/docs/radial_mask.png", optimize=True)
    picture.resize((512, 512)).save(record.ROOT / "workflows/wan21_t2v.jpg", quality=88)
