"""The block map of a pattern: queries down, keys across, with its bands, sink and text marked.

Meant for a node 400 to 500 pixels wide, which shows it at less than half its size.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ...radial_core import RadialPattern, VideoLayout
from ...radial_core.mask_sample import Sample
from .canvas import DROPPED, EDGE, FAINT, FAR, INK, NEAR, PAPER, SINK, TEXT, blend, font, legend

WIDTH, HEIGHT, MARGIN = 1024, 940, 28
SIDE, LEFT, TOP = 648, 108, 184  # of the map
COLUMN = 784  # where the figures and the legend begin
HUGE, LARGE, MIDDLE, SMALL = 58, 40, 26, 22
LEAST = 3  # pixels: text and sink are at least this wide, however small their share
CHECKED = 6  # from this many pixels a frame, the background is a checkerboard of frames
SHADE = (231, 234, 228)
TONE = 0.4  # below 1, so that a thin band in a long video stays visible
TICKS = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]  # frames between them
TICK_ROOM = 64  # pixels


def draw(
    rows: Sample,
    pattern: RadialPattern,
    layout: VideoLayout,
    title: str,
    lines: tuple[str, str, str],
    figures: Sequence[tuple[str, str]],
) -> Image.Image:
    """The map with axes, legend and figures.

    lines: one below the title, two below the map. figures: large numbers, each with its caption.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 22), title, INK, font(LARGE))
    draw.text((MARGIN, 74), lines[0], FAINT, font(MIDDLE))
    draw.text((MARGIN, HEIGHT - 86), lines[1], INK, font(MIDDLE))
    draw.text((MARGIN, HEIGHT - 48), lines[2], FAINT, font(SMALL))
    picture.paste(block_map(rows, pattern, layout, SIDE), (LEFT, TOP))
    draw.rectangle((LEFT - 1, TOP - 1, LEFT + SIDE, TOP + SIDE), outline=EDGE)
    _axes(picture, draw, layout, SIDE / (rows.blocks * pattern.block_size))
    y = TOP - 16
    for figure, caption in figures:
        draw.text((COLUMN, y), figure, INK, font(HUGE))
        draw.text((COLUMN, y + 66), caption, FAINT, font(SMALL))
        y += 112
    legend(draw, (COLUMN, y + 16), _entries(pattern, layout), SMALL)
    return picture


def block_map(rows: Sample, pattern: RadialPattern, layout: VideoLayout, side: int) -> Image.Image:
    """The map alone. A pixel's colour says what it shows; the less of it is kept, the paler."""
    frame, text, sink = _along_a_side(rows.blocks, pattern, layout, side)
    kept = rows.coverage(side).numpy() ** TONE
    kept[text] = kept[:, text | sink] = 1
    distance = np.abs(frame[:, None] - frame)
    colour = np.array(_bands(layout.frames), np.float32)[_octaves(layout.frames)[distance]]
    colour[:, sink] = SINK
    colour[text] = colour[:, text] = TEXT
    background = np.full_like(colour, DROPPED)
    if layout.tokens_per_frame * side >= CHECKED * rows.blocks * pattern.block_size:
        background[frame[:, None] % 2 != frame % 2] = SHADE
    mixed = background + (colour - background) * kept[..., None]
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _along_a_side(blocks: int, pattern: RadialPattern, layout: VideoLayout, side: int):
    """For each pixel along a side: its frame, whether it is text, and whether it is in the sink."""
    size = pattern.block_size
    block = ((np.arange(side) + 0.5) * (blocks / side)).astype(np.int64)
    start = block * size - layout.prefix
    frame = np.clip(start // layout.tokens_per_frame, 0, layout.frames - 1)
    text = start < 0
    text[: LEAST * (layout.prefix > 0)] = True
    if layout.suffix:
        text |= start + size > layout.video_tokens
        text[-LEAST:] = True
    sink = ~text & (frame < pattern.sink_frames)
    if pattern.sink_frames:
        first = int(text.argmin())  # the first one after the prefix
        sink[first : first + LEAST] = True
    return frame, text, sink


def _octaves(frames: int) -> np.ndarray:
    """For each distance between two frames: 0 for 0 and 1, then 1 more for each doubling."""
    return np.maximum(np.frexp(np.arange(frames))[1] - 1, 0)


def _bands(frames: int) -> list[tuple[int, int, int]]:
    """The colours of the octaves."""
    last = max(int(_octaves(frames)[-1]), 1)
    return [blend(NEAR, FAR, octave / last) for octave in range(last + 1)]


def _entries(pattern: RadialPattern, layout: VideoLayout) -> list[tuple[tuple, str]]:
    """The legend."""
    bands, last = _bands(layout.frames), layout.frames - 1
    entries = [(NEAR, "same or next frame")]
    if last >= 2:
        entries.append((bands[1], "2 frames away"))
    if last >= 4:
        entries.append((FAR, f"{last:,} frames away"))
    if pattern.sink_frames:
        entries.append((SINK, "sink: always kept"))
    if layout.prefix or layout.suffix:
        entries.append((TEXT, "text: always kept"))
    return [*entries, (DROPPED, "skipped")]


def _axes(picture: Image.Image, draw: ImageDraw.ImageDraw, layout: VideoLayout, scale: float):
    """Frame numbers on both sides. scale: pixels a token."""
    frame = layout.tokens_per_frame * scale
    step = next((n for n in TICKS if n * frame >= TICK_ROOM), layout.frames)
    for number in range(0, layout.frames, step):
        at = (layout.prefix + number * layout.tokens_per_frame) * scale
        x, y = LEFT + at, TOP + at
        draw.line((x, TOP - 8, x, TOP - 2), FAINT)
        label = f"{number // 1000} k" if step >= 1000 and number else f"{number:,}"
        draw.text((x, TOP - 12), label, FAINT, font(SMALL), anchor="ms")
        draw.line((LEFT - 8, y, LEFT - 2, y), FAINT)
        draw.text((LEFT - 12, y), label, FAINT, font(SMALL), anchor="rm")
    across, down = "keys (latent frames)", "queries (latent frames)"
    draw.text((LEFT, TOP - 40), across, INK, font(SMALL), anchor="ls")
    width, height = font(SMALL).getbbox(down)[2:]
    upright = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(upright).text((0, 0), down, INK, font(SMALL))
    picture.paste(upright.transpose(Image.Transpose.ROTATE_90), (MARGIN - 6, TOP + SIDE - width))
