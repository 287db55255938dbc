"""Procedural video: textured shapes that move, turn, deform and cover each other, and a camera.

A clip follows from a few dozen random numbers and the frame's index, so that a model with 84 M
parameters can learn it in minutes. Camera and shapes swing back and forth: what leaves the picture
or is covered by a shape or the pillar comes back, and only distant frames show how it looked.
Nothing depends on the number of frames of a clip.

Lengths are in picture heights, times in frames, angles in turns.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import torch

SHAPES = 2
WAVES = 3  # the background's texture is their sum
NUMBERS = 96  # random numbers a clip, a few more than it needs
SHAPE_COLOURS = (
    (0.90, 0.22, 0.20),
    (0.98, 0.75, 0.18),
    (0.20, 0.62, 0.32),
    (0.16, 0.44, 0.85),
    (0.93, 0.93, 0.90),
    (0.62, 0.28, 0.70),
)
BACKGROUND_COLOURS = (
    (0.16, 0.18, 0.26),
    (0.38, 0.30, 0.24),
    (0.22, 0.36, 0.36),
    (0.48, 0.50, 0.54),
)


def clips(
    seed: int,
    count: int,
    frames: int,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """(count, frames, height, width, 3) in 0..1, float32; height and width in pixels.

    The random numbers are drawn on the CPU, so a seed gives the same clips on every device.
    """
    return _picture(_layers(seed, count, frames, height, width, device))


@dataclass(frozen=True, eq=False)
class Tracked:
    """Clips, and where each of their shapes is to be seen. The shapes are numbered back to front.

    clips: (n, f, h, w, 3). without: (shapes, n, f, h, w, 3), the clips without that shape.
    visible: (shapes, n, f, h, w) in 0..1, how much of a pixel shows that shape; the shapes and the
    pillar in front of it hide it.
    """

    clips: torch.Tensor
    without: torch.Tensor
    visible: torch.Tensor


def tracked_clips(
    seed: int,
    count: int,
    frames: int,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
) -> Tracked:
    """The clips that `clips` returns, with what tells whether a shape is still in them."""
    layers = list(_layers(seed, count, frames, height, width, device))
    without, visible = [], []
    for number in range(1, 1 + SHAPES):
        behind, (inside, _), front = layers[:number], layers[number], layers[number + 1 :]
        without.append(_picture(behind + front))
        for hides, _ in front:
            inside = inside * (1 - hides)
        visible.append(inside)
    return Tracked(_picture(layers), torch.stack(without), torch.stack(visible))


Layer = tuple[torch.Tensor, torch.Tensor]  # how much of each pixel it covers, and its colours


def _layers(
    seed: int, count: int, frames: int, height: int, width: int, device: torch.device | str
) -> Iterator[Layer]:
    """The background, the shapes and the pillar: (n, f, h, w) in 0..1 and (n, f, h, w, 3)."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.rand((count, NUMBERS), generator=random).to(device, non_blocking=True)
    draw = _Draw(numbers, torch.arange(frames, device=device, dtype=torch.float32))
    x, y = _camera_view(draw, height, width)
    aspect, pixel = width / height, 1 / height
    yield torch.ones_like(x), draw.coloured(_background(draw, x, y), BACKGROUND_COLOURS)
    for _ in range(SHAPES):
        inside, texture = _shape(draw, x, y, aspect, pixel)
        yield inside, draw.coloured(texture, SHAPE_COLOURS)
    inside, texture = _pillar(draw, x, y, aspect, pixel)
    yield inside, draw.coloured(texture, BACKGROUND_COLOURS)


def _picture(layers: Iterable[Layer]) -> torch.Tensor:
    """Layers, each painted over those before it; the first one covers everything."""
    layers = iter(layers)
    _, picture = next(layers)
    for inside, colours in layers:
        picture = picture.lerp(colours, inside[..., None])
    return picture


class _Draw:
    """Hands out the random numbers of all clips, one after the other: each (count, 1, 1, 1)."""

    def __init__(self, numbers: torch.Tensor, time: torch.Tensor):
        self.columns = iter(numbers.t()[..., None, None, None])
        self.time = time[:, None, None]  # (f, 1, 1)

    def between(self, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * next(self.columns)

    def swing(self, amplitude: tuple[float, float], period: tuple[float, float]) -> torch.Tensor:
        """A swing back and forth over time: (count, frames, 1, 1)."""
        turns = self.time / self.between(*period) + next(self.columns)
        return self.between(*amplitude) * _sin(turns)

    def coloured(self, texture: torch.Tensor, palette: tuple) -> torch.Tensor:
        """A texture in 0..1 between two different colours of a palette: (..., 3)."""
        table, last = _on(texture.device, palette), len(palette) - 1
        first = (self.between(0, len(palette))).long().clamp(max=last)
        step = 1 + self.between(0, last).long().clamp(max=last - 1)
        one, other = table[first], table[(first + step) % len(palette)]
        return one.lerp(other, texture[..., None])


@cache
def _on(device: torch.device, palette: tuple) -> torch.Tensor:
    """Cached, because a copy to a GPU would wait for its pending work."""
    return torch.tensor(palette, device=device)


def _sin(turns: torch.Tensor) -> torch.Tensor:
    return (2 * math.pi * turns).sin()


def _edge(distance: torch.Tensor, pixel: float) -> torch.Tensor:
    """1 inside, where the distance is positive, 0 outside, with an edge one pixel wide."""
    return (distance / (0.5 * pixel)).sigmoid()


def _camera_view(draw: _Draw, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The place in the scene of each pixel: x and y, each (count, frames, height, width)."""
    device = draw.time.device
    y = (torch.arange(height, device=device) + 0.5) / height - 0.5
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / height
    zoom = 1 + draw.swing((0.0, 0.12), (16, 40))
    pan_x, pan_y = draw.swing((0.1, 0.35), (14, 32)), draw.swing((0.0, 0.12), (14, 32))
    x, y = torch.broadcast_tensors(zoom * x + pan_x, zoom * y[:, None] + pan_y)
    return x, y


def _background(draw: _Draw, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    waves = torch.zeros_like(x)
    for _ in range(WAVES):
        turn, length = draw.between(0, 1), draw.between(0.4, 0.8)
        along = x * _sin(turn + 0.25) + y * _sin(turn)
        waves = waves + _sin(along / length + draw.between(0, 1))
    return (2 * waves).sigmoid()


def _shape(
    draw: _Draw, x: torch.Tensor, y: torch.Tensor, aspect: float, pixel: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much of each pixel a shape covers, and its texture there: (count, f, h, w) in 0..1."""
    x = x - draw.between(-0.4, 0.4) * aspect - draw.swing((0.1, 0.5), (14, 40))
    y = y - draw.between(-0.35, 0.35) - draw.swing((0.05, 0.25), (14, 40))
    turn = draw.between(0, 1) + draw.swing((0.0, 0.3), (16, 40))
    cos, sin = _sin(turn + 0.25), _sin(turn)
    x, y = cos * x + sin * y, cos * y - sin * x

    petals = draw.between(2, 6).floor()
    depth = draw.between(0.0, 0.2) + draw.swing((0.0, 0.08), (10, 24))
    radius = draw.between(0.16, 0.27) * (1 + depth * torch.cos(petals * torch.atan2(y, x)))
    inside = _edge(radius - (x.square() + y.square()).sqrt(), pixel)

    length = draw.between(0.13, 0.22)
    across = torch.where(draw.between(0, 1) < 0.5, _sin(y / length), 1.0)  # checks or stripes
    return inside, (5 * _sin(x / length) * across).sigmoid()


def _pillar(
    draw: _Draw, x: torch.Tensor, y: torch.Tensor, aspect: float, pixel: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `_shape`, but fixed in the scene, from top to bottom, in front of everything."""
    x = x - draw.between(-0.3, 0.3) * aspect
    inside = _edge(draw.between(0.07, 0.13) - x.abs(), pixel)
    return inside, (5 * _sin(y / draw.between(0.2, 0.4))).sigmoid()
