"""The things themselves: one painter for each kind, on a transparent tile that the thing fills edge to edge.

A painter gets a brush on the tile, the thing's colour, whether it is night, and a `Random` for small differences.
The light comes from the upper left, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from random import Random

from PIL import Image, ImageChops

from captionkit.scenes.brush import Brush, darker, lighter, mix
from captionkit.scenes.world import COLOURS, RGB

Painter = Callable[[Brush, RGB, bool, Random], None]

_INK: RGB = (44, 42, 62)
_CREAM: RGB = (255, 246, 226)
_WOOD: RGB = (136, 92, 62)
_GLASS: RGB = (190, 226, 244)
_LAMP: RGB = (255, 224, 120)


def figure(kind: str, colour: str, size: tuple[int, int], night: bool, random: Random) -> Image.Image:
    """One thing on a transparent tile (RGBA) of that many pixels, shaded."""
    tile = Image.new("RGBA", size)
    PAINTERS[kind](Brush(tile), COLOURS[colour], night, random)
    alpha = tile.getchannel("A")
    shade = ImageChops.multiply(alpha, _slope().resize(size, Image.Resampling.BILINEAR))
    tile.paste((26, 20, 70, 255), mask=shade)
    if night:
        tile.paste((20, 26, 74, 255), mask=alpha.point(lambda value: value * 0.14))
    return tile


@lru_cache(maxsize=1)
def _slope() -> Image.Image:
    """A gentle diagonal slope (mode L) from no shadow in the upper left to some in the lower right."""
    side = 32
    slope = Image.new("L", (side, side))
    slope.putdata([round(62 * ((x + 1.6 * y) / (2.6 * side)) ** 1.6) for y in range(side) for x in range(side)])
    return slope


def _balloon(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    bag = [
        (0.5, 0.0),
        (0.86, 0.1),
        (1.0, 0.33),
        (0.86, 0.56),
        (0.62, 0.76),
        (0.38, 0.76),
        (0.14, 0.56),
        (0.0, 0.33),
        (0.14, 0.1),
    ]
    brush.line([(0.4, 0.74), (0.43, 0.88)], _INK, 0.018)
    brush.line([(0.6, 0.74), (0.57, 0.88)], _INK, 0.018)
    brush.curve(bag, colour)
    for half, tone in ((0.33, lighter(colour, 0.22)), (0.13, lighter(colour, 0.45))):
        brush.curve([(0.5 + (x - 0.5) * half * 2, y) for x, y in bag], tone)
    brush.rectangle(0.37, 0.86, 0.63, 1.0, _WOOD, 0.04)
    brush.rectangle(0.35, 0.85, 0.65, 0.895, darker(_WOOD), 0.02)


def _kite(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    tail = [(0.5, 0.6), (0.44, 0.72), (0.57, 0.81), (0.45, 0.9), (0.5, 1.0)]
    brush.line(tail, darker(colour, 0.35), 0.03)
    for x, y in tail[1:4]:
        brush.polygon([(x - 0.12, y - 0.04), (x, y), (x - 0.12, y + 0.04)], colour)
        brush.polygon([(x + 0.12, y - 0.04), (x, y), (x + 0.12, y + 0.04)], colour)
    top, left, right, low = (0.5, 0.0), (0.0, 0.26), (1.0, 0.26), (0.5, 0.68)
    middle = (0.5, 0.26)
    brush.polygon([top, left, middle], lighter(colour, 0.3))
    brush.polygon([top, right, middle], colour)
    brush.polygon([left, low, middle], colour)
    brush.polygon([right, low, middle], darker(colour, 0.22))
    brush.line([top, low], darker(colour, 0.4), 0.02)
    brush.line([left, right], darker(colour, 0.4), 0.02)


def _bird(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.polygon([(0.0, 0.46), (0.3, 0.56), (0.26, 0.76), (0.04, 0.7)], darker(colour, 0.25))
    brush.curve([(0.14, 0.62), (0.36, 0.46), (0.66, 0.44), (0.84, 0.56), (0.7, 0.86), (0.42, 0.94)], colour)
    brush.curve([(0.36, 0.8), (0.56, 0.74), (0.74, 0.76), (0.62, 0.9), (0.46, 0.93)], lighter(colour, 0.5))
    brush.polygon([(0.88, 0.46), (1.0, 0.55), (0.87, 0.62)], (250, 170, 50))
    brush.ellipse(0.77, 0.5, 0.15, 0.2, colour)
    brush.curve([(0.66, 0.58), (0.5, 0.24), (0.26, 0.0), (0.24, 0.28), (0.36, 0.6), (0.5, 0.7)], darker(colour, 0.28))
    brush.curve(
        [(0.62, 0.56), (0.5, 0.34), (0.32, 0.12), (0.32, 0.32), (0.42, 0.56), (0.52, 0.64)], lighter(colour, 0.16)
    )
    brush.ellipse(0.81, 0.45, 0.032, 0.046, _CREAM if colour == COLOURS["black"] else _INK)


def _plane(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.polygon([(0.02, 0.06), (0.14, 0.06), (0.3, 0.42), (0.12, 0.5)], darker(colour, 0.22))
    brush.polygon([(0.42, 0.4), (0.5, 0.4), (0.44, 0.04), (0.37, 0.04)], darker(colour, 0.35))
    body = [(0.06, 0.4), (0.5, 0.28), (0.84, 0.3), (1.0, 0.5), (0.84, 0.66), (0.4, 0.68), (0.12, 0.54)]
    brush.curve(body, colour)
    brush.curve([(0.14, 0.52), (0.5, 0.57), (0.96, 0.54), (0.84, 0.65), (0.4, 0.67)], lighter(colour, 0.6))
    brush.polygon([(0.8, 0.34), (0.88, 0.35), (0.95, 0.46), (0.81, 0.46)], _LAMP if night else _GLASS)
    for x in (0.36, 0.47, 0.58, 0.69):
        brush.ellipse(x, 0.43, 0.028, 0.052, _LAMP if night else _GLASS)
    brush.polygon([(0.42, 0.56), (0.6, 0.56), (0.36, 1.0), (0.24, 1.0)], darker(colour, 0.25))


def _tree(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.polygon([(0.44, 0.5), (0.56, 0.5), (0.6, 1.0), (0.4, 1.0)], _WOOD)
    brush.line([(0.5, 0.74), (0.68, 0.54)], _WOOD, 0.05)
    for x, y, radius, tone in (
        (0.27, 0.48, 0.27, darker(colour, 0.16)),
        (0.73, 0.48, 0.27, darker(colour, 0.24)),
        (0.5, 0.27, 0.36, colour),
        (0.5, 0.52, 0.28, darker(colour, 0.08)),
        (0.4, 0.22, 0.2, lighter(colour, 0.2)),
        (0.24, 0.42, 0.13, lighter(colour, 0.14)),
    ):
        brush.disc(x, y, radius, tone)


def _house(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    pane = _LAMP if night else _GLASS
    roof = (98, 74, 82)
    brush.rectangle(0.68, 0.06, 0.8, 0.36, darker(roof, 0.2))
    brush.rectangle(0.08, 0.4, 0.92, 1.0, colour)
    brush.rectangle(0.08, 0.4, 0.92, 0.46, darker(colour, 0.25))
    brush.polygon([(0.5, 0.0), (1.0, 0.42), (0.0, 0.42)], roof)
    brush.polygon([(0.5, 0.0), (0.5, 0.42), (0.0, 0.42)], lighter(roof, 0.16))
    brush.rectangle(0.4, 0.6, 0.6, 1.0, darker(_WOOD, 0.2), 0.02)
    brush.disc(0.56, 0.81, 0.018, _LAMP)
    for left in (0.15, 0.66):
        brush.rectangle(left, 0.57, left + 0.19, 0.78, _CREAM, 0.02)
        brush.rectangle(left + 0.025, 0.595, left + 0.165, 0.755, pane)
        brush.line([(left + 0.095, 0.58), (left + 0.095, 0.77)], _CREAM, 0.022)
    brush.disc(0.5, 0.25, 0.07, _CREAM)
    brush.disc(0.5, 0.25, 0.05, pane)


def _car(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.curve(
        [(0.16, 0.44), (0.3, 0.04), (0.44, 0.0), (0.62, 0.0), (0.74, 0.08), (0.88, 0.44), (0.5, 0.52)],
        darker(colour, 0.12),
    )
    glass = _LAMP if night else _GLASS
    brush.polygon([(0.25, 0.4), (0.34, 0.11), (0.49, 0.09), (0.49, 0.4)], glass)
    brush.polygon([(0.54, 0.4), (0.54, 0.09), (0.67, 0.12), (0.77, 0.4)], glass)
    brush.rectangle(0.0, 0.38, 1.0, 0.82, colour, 0.09)
    brush.rectangle(0.04, 0.42, 0.96, 0.49, lighter(colour, 0.35), 0.03)
    brush.rectangle(0.0, 0.7, 1.0, 0.82, darker(colour, 0.25), 0.05)
    brush.ellipse(0.96, 0.56, 0.035, 0.08, _LAMP)
    brush.ellipse(0.03, 0.56, 0.025, 0.07, (230, 70, 60))
    for x in (0.24, 0.77):
        brush.disc(x, 0.79, 0.113, (40, 38, 52))
        brush.disc(x, 0.79, 0.055, (206, 210, 218))


def _cat(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    eyes: RGB = (250, 214, 80) if colour == COLOURS["black"] else _INK
    brush.line([(0.66, 0.93), (0.9, 0.9), (0.94, 0.72), (0.86, 0.6)], darker(colour, 0.15), 0.11)
    brush.disc(0.865, 0.6, 0.055, darker(colour, 0.15))
    brush.curve([(0.22, 0.98), (0.2, 0.74), (0.34, 0.5), (0.58, 0.5), (0.76, 0.76), (0.76, 0.98)], colour)
    brush.ellipse(0.46, 0.8, 0.14, 0.15, lighter(colour, 0.45))
    for x in (0.36, 0.56):
        brush.ellipse(x, 0.96, 0.09, 0.04, lighter(colour, 0.25))
    for tip, inner, outer in ((0.16, 0.42, 0.12), (0.78, 0.5, 0.82)):
        brush.polygon([(tip, 0.0), (inner, 0.14), (outer, 0.3)], colour)
        brush.polygon(
            [(tip * 0.9 + 0.05, 0.055), (inner * 0.9 + 0.04, 0.15), (outer * 0.9 + 0.05, 0.25)], (244, 160, 170)
        )
    brush.ellipse(0.47, 0.31, 0.37, 0.21, colour)
    for x in (0.33, 0.61):
        brush.ellipse(x, 0.29, 0.05, 0.045, eyes)
    brush.ellipse(0.47, 0.4, 0.14, 0.075, lighter(colour, 0.5))
    brush.polygon([(0.43, 0.365), (0.51, 0.365), (0.47, 0.4)], (236, 120, 140))


def _flower(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    green: RGB = (66, 148, 74)
    brush.line([(0.5, 0.4), (0.48, 0.7), (0.5, 1.0)], green, 0.07)
    brush.curve([(0.49, 0.92), (0.3, 0.84), (0.12, 0.66), (0.36, 0.7)], green)
    brush.curve([(0.5, 0.86), (0.7, 0.8), (0.88, 0.6), (0.64, 0.66)], lighter(green, 0.15))
    for x, y in ((0.5, 0.115), (0.79, 0.245), (0.69, 0.45), (0.31, 0.45), (0.21, 0.245)):
        brush.disc(x, y, 0.205, darker(colour, 0.12))
        brush.disc(x, y - 0.01, 0.175, colour)
    brush.disc(0.5, 0.3, 0.16, (150, 92, 50) if colour in (COLOURS["yellow"], COLOURS["orange"]) else (255, 206, 74))


def _ball(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.disc(0.5, 0.5, 0.5, colour)
    brush.curve([(0.04, 0.34), (0.5, 0.42), (0.96, 0.34), (0.99, 0.54), (0.5, 0.66), (0.01, 0.54)], _CREAM)
    brush.slice(0.5, 0.5, 0.5, 0.5, 35, 145, darker(colour, 0.2))
    brush.disc(0.34, 0.22, 0.09, lighter(colour, 0.6))


def _umbrella(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.line([(0.5, 0.05), (0.5, 1.0)], _WOOD, 0.05)
    brush.rectangle(0.475, 0.0, 0.525, 0.1, _WOOD)
    brush.slice(0.5, 0.54, 0.5, 0.49, 180, 360, colour)
    brush.slice(0.5, 0.54, 0.31, 0.49, 180, 360, _CREAM)
    brush.slice(0.5, 0.54, 0.12, 0.49, 180, 360, colour)
    for index in range(6):
        tone = _CREAM if index in (1, 4) else colour
        brush.slice(0.083 + index / 6, 0.535, 0.084, 0.06, 0, 180, darker(tone, 0.12))


def _mushroom(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.curve([(0.37, 0.5), (0.63, 0.5), (0.66, 0.9), (0.6, 1.0), (0.4, 1.0), (0.34, 0.9)], (250, 236, 210))
    brush.ellipse(0.5, 0.55, 0.32, 0.07, (226, 200, 170))
    brush.slice(0.5, 0.56, 0.5, 0.56, 180, 360, colour)
    brush.ellipse(0.5, 0.555, 0.5, 0.07, darker(colour, 0.15))
    brush.ellipse(0.5, 0.595, 0.3, 0.04, (236, 214, 186))
    for x, y, radius in (
        (0.5, 0.17, 0.085),
        (0.25, 0.34, 0.075),
        (0.74, 0.32, 0.08),
        (0.49, 0.42, 0.06),
        (0.1, 0.5, 0.04),
        (0.9, 0.5, 0.04),
    ):
        brush.disc(x, y, radius, (255, 250, 240))


def _boat(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.line([(0.5, 0.02), (0.5, 0.74)], darker(_WOOD), 0.035)
    brush.curve([(0.53, 0.05), (0.8, 0.3), (0.93, 0.62), (0.72, 0.66), (0.53, 0.66)], _CREAM)
    brush.curve([(0.46, 0.13), (0.3, 0.36), (0.14, 0.62), (0.3, 0.65), (0.46, 0.65)], mix(_CREAM, (220, 206, 190), 0.6))
    brush.polygon([(0.5, 0.0), (0.72, 0.05), (0.5, 0.1)], colour)
    brush.curve([(0.53, 0.36), (0.7, 0.38), (0.845, 0.38), (0.9, 0.51), (0.7, 0.52), (0.53, 0.5)], colour)
    brush.polygon([(0.0, 0.7), (1.0, 0.7), (0.9, 0.9), (0.8, 1.0), (0.2, 1.0), (0.08, 0.88)], colour)
    brush.polygon([(0.0, 0.7), (1.0, 0.7), (0.97, 0.77), (0.02, 0.77)], lighter(colour, 0.4))
    brush.polygon([(0.07, 0.9), (0.9, 0.9), (0.8, 1.0), (0.2, 1.0)], darker(colour, 0.3))


def _duck(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.polygon([(0.86, 0.36), (1.0, 0.41), (0.86, 0.47)], (246, 132, 40))
    brush.polygon([(0.0, 0.42), (0.3, 0.6), (0.12, 0.8)], darker(colour, 0.15))
    brush.curve(
        [(0.04, 0.56), (0.3, 0.58), (0.54, 0.5), (0.84, 0.56), (0.9, 0.78), (0.7, 1.0), (0.3, 1.0), (0.1, 0.84)], colour
    )
    brush.curve([(0.5, 0.3), (0.84, 0.3), (0.86, 0.7), (0.56, 0.7)], colour)
    brush.disc(0.71, 0.24, 0.19, colour)
    brush.curve([(0.22, 0.68), (0.44, 0.62), (0.62, 0.7), (0.5, 0.86), (0.32, 0.84)], darker(colour, 0.18))
    brush.disc(0.77, 0.2, 0.035, _CREAM if colour == COLOURS["black"] else _INK)
    brush.slice(0.5, 0.92, 0.5, 0.08, 0, 180, (222, 240, 250))


def _fish(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    brush.polygon([(0.0, 0.12), (0.12, 0.12), (0.32, 0.5), (0.12, 0.9), (0.0, 0.9), (0.08, 0.5)], darker(colour, 0.2))
    brush.curve([(0.4, 0.2), (0.46, 0.0), (0.66, 0.02), (0.74, 0.2)], darker(colour, 0.2))
    brush.polygon([(0.5, 0.8), (0.66, 0.8), (0.52, 1.0)], darker(colour, 0.2))
    brush.curve(
        [(0.2, 0.5), (0.4, 0.18), (0.7, 0.13), (0.92, 0.34), (1.0, 0.52), (0.88, 0.74), (0.66, 0.88), (0.4, 0.82)],
        colour,
    )
    brush.curve([(0.3, 0.62), (0.6, 0.68), (0.94, 0.66), (0.7, 0.85), (0.42, 0.79)], lighter(colour, 0.4))
    brush.curve([(0.5, 0.16), (0.57, 0.15), (0.62, 0.5), (0.58, 0.87), (0.51, 0.86), (0.54, 0.5)], lighter(colour, 0.6))
    brush.disc(0.82, 0.4, 0.06, (255, 255, 255))
    brush.disc(0.835, 0.4, 0.034, _INK)


def _crab(brush: Brush, colour: RGB, night: bool, random: Random) -> None:
    limb = darker(colour, 0.22)
    for side in (-1, 1):
        for reach, foot in ((0.46, 0.8), (0.42, 0.94), (0.32, 1.0)):
            brush.line([(0.5 + side * 0.2, 0.66), (0.5 + side * reach, 0.66), (0.5 + side * reach, foot)], limb, 0.045)
        brush.line([(0.5 + side * 0.24, 0.6), (0.5 + side * 0.39, 0.42)], limb, 0.06)
        claw = 0.5 + side * 0.395
        brush.ellipse(claw, 0.2, 0.105, 0.2, colour)
        brush.cut([(claw - 0.06, 0.0), (claw + 0.06, 0.0), (claw, 0.2)])
        brush.line([(0.5 + side * 0.09, 0.45), (0.5 + side * 0.09, 0.26)], limb, 0.035)
        brush.disc(0.5 + side * 0.09, 0.24, 0.05, (255, 255, 255))
        brush.disc(0.5 + side * 0.085, 0.24, 0.027, _INK)
    brush.ellipse(0.5, 0.68, 0.3, 0.28, colour)
    brush.ellipse(0.45, 0.56, 0.16, 0.1, lighter(colour, 0.3))
    brush.line([(0.4, 0.76), (0.46, 0.81), (0.54, 0.81), (0.6, 0.76)], _INK, 0.02)


PAINTERS: dict[str, Painter] = {
    "balloon": _balloon,
    "kite": _kite,
    "bird": _bird,
    "plane": _plane,
    "tree": _tree,
    "house": _house,
    "car": _car,
    "cat": _cat,
    "flower": _flower,
    "ball": _ball,
    "umbrella": _umbrella,
    "mushroom": _mushroom,
    "boat": _boat,
    "duck": _duck,
    "fish": _fish,
    "crab": _crab,
}
