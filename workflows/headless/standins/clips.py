"""Clips to train on, with captions: 3 of 165 frames, a square that moves over a gradient.

They go into ComfyUI's input folder (see server.py), not into the models' folder.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COUNT, FRAMES, SIDE, FPS = 3, 165, 64, 16


def write(folder: Path):
    folder.mkdir(parents=True)
    for number in range(COUNT):
        with av.open(folder / f"clip_{number}.mp4", "w") as file:
            stream = file.add_stream("libx264", rate=Fraction(FPS))
            stream.width, stream.height, stream.pix_fmt = SIDE * 2, SIDE, "yuv420p"
            for i in range(FRAMES):
                frame = av.VideoFrame.from_ndarray(_picture(number, i / FRAMES), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        (folder / f"clip_{number}.txt").write_text(f"a bright square, way number {number}")


def _picture(number: int, time: float) -> np.ndarray:
    """RGB, (SIDE, 2 SIDE, 3). time: 0..1."""
    y, x = np.mgrid[0:SIDE, 0 : 2 * SIDE]
    picture = np.stack([x * 2, y * 4, x + y + 64 * number], axis=-1).astype(np.uint8)
    angle = 2 * np.pi * (time * (number + 1) + number / COUNT)
    at_x, at_y = SIDE + 40 * np.cos(angle), SIDE / 2 + 16 * np.sin(angle)
    picture[(abs(x - at_x) < 12) & (abs(y - at_y) < 12)] = (255, 220 - 60 * number, 40)
    return picture
