"""A brush that paints in fractions of a rectangle, so that figures are written once for every size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw

from captionkit.scenes.world import RGB

Point = tuple[float, float]


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`first` with `share` (0 to 1) of `second` in it."""
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )


def lighter(colour: RGB, share: float = 0.3) -> RGB:
    """`colour` towards a warm white."""
    return mix(colour, (255, 252, 240), share)


def darker(colour: RGB, share: float = 0.25) -> RGB:
    """`colour` towards a deep blue: shadows are cool, never black."""
    return mix(colour, (24, 22, 60), share)


class Brush:
    """Paints on an image in fractions: (0, 0) is its upper left, (1, 1) its lower right corner."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)
        self._width, self._height = image.size

    def _at(self, x: float, y: float) -> Point:
        return x * self._width, y * self._height

    def polygon(self, points: Sequence[Point], colour: RGB) -> None:
        """A filled polygon."""
        self._draw.polygon([self._at(x, y) for x, y in points], fill=colour)

    def cut(self, points: Sequence[Point]) -> None:
        """Cuts a polygon out of a transparent tile."""
        self._draw.polygon([self._at(x, y) for x, y in points], fill=(0, 0, 0, 0))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        """A filled ellipse about (x, y); `rx` is a fraction of the width, `ry` of the height."""
        self._draw.ellipse([self._at(x - rx, y - ry), self._at(x + rx, y + ry)], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: RGB) -> None:
        """A filled circle; the radius is a fraction of the width."""
        self.ellipse(x, y, radius, radius * self._width / self._height, colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: RGB, round_: float = 0.0) -> None:
        """A filled rectangle, its corners rounded by a fraction of the width."""
        corners = [self._at(left, top), self._at(right, bottom)]
        self._draw.rounded_rectangle(corners, radius=round_ * self._width, fill=colour)

    def slice(self, x: float, y: float, rx: float, ry: float, start: float, end: float, colour: RGB) -> None:
        """A filled part of an ellipse, cut by a chord, from `start` to `end` degrees clockwise from the right."""
        self._draw.chord([self._at(x - rx, y - ry), self._at(x + rx, y + ry)], start, end, fill=colour)

    def line(self, points: Sequence[Point], colour: RGB, width: float) -> None:
        """A line through the points, `width` a fraction of the image's width."""
        thick = max(1, round(width * self._width))
        self._draw.line([self._at(x, y) for x, y in points], fill=colour, width=thick, joint="curve")

    def curve(self, points: Sequence[Point], colour: RGB) -> None:
        """A filled smooth closed shape through the points."""
        self.polygon(smooth(points), colour)


def smooth(points: Sequence[Point], steps: int = 6) -> list[Point]:
    """A closed Catmull-Rom curve through `points`, as a polygon."""
    count = len(points)
    result: list[Point] = []
    for index in range(count):
        a, b, c, d = (points[(index + offset) % count] for offset in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            result.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return result


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t**3)


def gradient(width: int, height: int, stops: Sequence[tuple[float, RGB]]) -> Image.Image:
    """A vertical gradient through `stops`: (height from 0 to 1, colour), ascending."""
    return _gradient_column(height, tuple(stops)).resize((width, height), Image.Resampling.NEAREST)


@lru_cache(maxsize=256)  # a few skies and grounds recur in every scene, and computing them took most of its time
def _gradient_column(height: int, stops: tuple[tuple[float, RGB], ...]) -> Image.Image:
    column = Image.new("RGB", (1, height))
    pixels: list[RGB] = []
    index = 0
    for row in range(height):
        y = row / max(1, height - 1)
        while index < len(stops) - 2 and y > stops[index + 1][0]:
            index += 1
        (above, first), (below, second) = stops[index], stops[index + 1]
        pixels.append(mix(first, second, min(1.0, max(0.0, (y - above) / (below - above)))))
    column.putdata(pixels)
    return column


@lru_cache(maxsize=1)
def soft_spot() -> Image.Image:
    """A round soft spot (mode L, 64 × 64), opaque in the middle: glows and shadows are this, resized."""
    side = 64
    values = []
    for y in range(side):
        for x in range(side):
            distance = math.hypot(x - 31.5, y - 31.5) / 31.5
            values.append(round(255 * max(0.0, 1 - distance) ** 1.5))
    spot = Image.new("L", (side, side))
    spot.putdata(values)
    return spot


def paste_glow(image: Image.Image, x: float, y: float, rx: float, ry: float, colour: RGB, strength: float) -> None:
    """Lays a soft spot of light or shadow over the picture, centred on (x, y); `strength` is its opacity (0 to 1)."""
    side_x, side_y = image.size
    width, height = max(2, round(2 * rx * side_x)), max(2, round(2 * ry * side_y))
    mask = soft_spot().resize((width, height), Image.Resampling.BILINEAR).point(lambda value: value * strength)
    corner = (round(x * side_x - width / 2), round(y * side_y - height / 2))
    image.paste(Image.new("RGB", (width, height), colour), corner, mask)
