"""The axes of a plot: from numbers to pixels, ticks and titles, lines and marks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from .canvas import EDGE, FAINT, INK, PAPER, font

TEXT_SIZE = 22
STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten
DIGITS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))  # of the ticks on a logarithmic scale
LEFT, TOP, RIGHT, BOTTOM = 84, 40, 24, 62  # margins for numbers and titles


@dataclass(frozen=True)
class Scale:
    """Maps numbers to 0 ... 1, and chooses the ticks.

    log: logarithmic, for numbers above 0. whole: ticks are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def share(self, x: float) -> float:
        low, high = self.low, self.high
        if self.log:
            x, low, high = math.log(max(x, low)), math.log(low), math.log(high)
        return (x - low) / (high - low)

    def ticks(self, most: int = 6) -> list[float]:
        if self.log:
            choices = [[x for x in self._powers(digits) if self._holds(x)] for digits in DIGITS]
            return next((ticks for ticks in choices if len(ticks) <= most), choices[-1])
        steps = (digit * 10.0**power for power in range(-9, 12) for digit in STEPS)
        least = max((self.high - self.low) / most, 1 if self.whole else 0)
        step = next(x for x in steps if x >= least)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _powers(self, digits: Sequence[float]) -> Iterable[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return (digit * 10.0**power for power in powers for digit in digits)

    def _holds(self, x: float) -> bool:
        return self.low * 0.999 <= x <= self.high * 1.001


def around(numbers: Iterable[float], log: bool = False) -> Scale:
    """A scale with some room around the numbers, which are above 0. A linear one starts at 0."""
    numbers = list(numbers)
    if log:
        return Scale(min(numbers) / 1.25, max(numbers) * 1.25, log=True)
    return Scale(0, (max(numbers) or 0.01) * 1.1)


def counted(number: int) -> Scale:
    """A scale of 0 to number - 1."""
    return Scale(-0.5, number - 0.5, whole=True)


def between(numbers: Iterable[float]) -> Scale:
    """A scale from the least to the largest number, with some room."""
    numbers = list(numbers)
    room = max((max(numbers) - min(numbers)) * 0.06, 0.02 * max(numbers))
    return Scale(min(numbers) - room, max(numbers) + room)


@dataclass(frozen=True)
class Axes:
    """A plot in a box (left, top, right, bottom) of pixels, with room for its titles."""

    draw: ImageDraw.ImageDraw
    box: tuple[int, int, int, int]
    x: Scale
    y: Scale
    zoom: int = 1  # pixels of the drawing per pixel of the final picture

    @property
    def inside(self) -> tuple[int, int, int, int]:
        left, top, right, bottom = self.box
        z = self.zoom
        return left + LEFT * z, top + TOP * z, right - RIGHT * z, bottom - BOTTOM * z

    def at(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = self.inside
        return (
            left + self.x.share(x) * (right - left),
            bottom - self.y.share(y) * (bottom - top),
        )

    def frame(self, title: str, x_title: str):
        """Grid, tick labels, the title above and the x axis's title below."""
        left, top, right, bottom = self.inside
        z, type_face = self.zoom, font(TEXT_SIZE * self.zoom)
        for tick in self.y.ticks():
            y = self.at(self.x.low, tick)[1]
            self.draw.line((left, y, right, y), EDGE, z)
            self.draw.text((left - 8 * z, y), f"{tick:g}", FAINT, type_face, anchor="rm")
        for tick in self.x.ticks():
            x = self.at(tick, self.y.low)[0]
            self.draw.line((x, bottom, x, bottom + 5 * z), FAINT, z)
            self.draw.text((x, bottom + 8 * z), f"{tick:g}", FAINT, type_face, anchor="mt")
        self.draw.line((left, bottom, right, bottom), FAINT, 2 * z)
        self.draw.text((self.box[0] + 8 * z, self.box[1] + 4 * z), title, INK, type_face)
        below = (right, self.box[3] - 4 * z)
        self.draw.text(below, x_title, FAINT, type_face, anchor="rb")

    def line(self, points: Sequence[tuple[float, float]], colour, width: int = 3, dots: int = 0):
        """A line through points. dots: radius of a dot on each, 0 for none."""
        places = [self.at(*point) for point in points]
        if len(places) > 1:
            self.draw.line(places, colour, width * self.zoom, joint="curve")
        for place in places if dots else ():
            self.draw.circle(place, dots * self.zoom, colour)

    def band(self, start: float, end: float, colour):
        """A strip of colour from x = start to x = end. Draw it before everything else."""
        _, top, _, bottom = self.inside
        left, right = (self.at(x, self.y.low)[0] for x in (start, end))
        self.draw.rectangle((left, top, right, bottom), fill=colour)

    def dashed(self, start: tuple[float, float], end: tuple[float, float], colour):
        (x0, y0), (x1, y1) = self.at(*start), self.at(*end)
        length = max(math.hypot(x1 - x0, y1 - y0), 1)
        dash = 8 * self.zoom
        for i in range(0, int(length), 2 * dash):
            a, b = i / length, min((i + dash) / length, 1)
            ends = [(x0 + (x1 - x0) * share, y0 + (y1 - y0) * share) for share in (a, b)]
            self.draw.line(ends, colour, 2 * self.zoom)

    def mark(self, x: float, y: float, label: str, colour=INK, below: bool = False):
        """A ring around a point, with a label beside it: above, or below where `below` is set."""
        place, z = self.at(x, y), self.zoom
        self.draw.circle(place, 10 * z, outline=colour, width=3 * z)
        right = self.x.share(x) < 0.7
        beside = (place[0] + (14 if right else -14) * z, place[1] + (12 if below else -12) * z)
        self.text(beside, label, colour, "lr"[not right] + "bt"[below])

    def text(self, place: tuple[float, float], text: str, colour=INK, anchor: str = "lm"):
        """Text at a place in pixels, with a light outline to keep it legible on top of lines."""
        self.draw.text(
            place,
            text,
            colour,
            font(TEXT_SIZE * self.zoom),
            anchor=anchor,
            stroke_width=3 * self.zoom,
            stroke_fill=PAPER,
        )
