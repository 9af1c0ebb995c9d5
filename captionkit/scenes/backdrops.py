"""What stands behind the things: sky, light and land, one painter for each background.

Nothing here may be mistaken for one of the things that captions speak of: no trees, no houses, no boats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from PIL import Image, ImageDraw

from captionkit.scenes.brush import Brush, Point, gradient, lighter, mix, paste_glow
from captionkit.scenes.scene import Scene, between
from captionkit.scenes.world import RGB

Land = Callable[[Image.Image, str, Random], None]

HORIZON = 0.56

_SKIES: dict[str, tuple[tuple[float, RGB], ...]] = {
    "day": ((0.0, (112, 184, 240)), (0.45, (178, 220, 250)), (0.62, (228, 243, 252)), (1.0, (228, 243, 252))),
    "sunset": (
        (0.0, (92, 84, 156)),
        (0.24, (188, 112, 150)),
        (0.44, (248, 160, 110)),
        (0.6, (255, 216, 150)),
        (1.0, (255, 216, 150)),
    ),
    "night": ((0.0, (18, 24, 66)), (0.4, (40, 54, 112)), (0.62, (84, 98, 156)), (1.0, (84, 98, 156))),
}


def backdrop(scene: Scene, side: int, random: Random) -> Image.Image:
    """The picture without its things: `side` × `side` pixels, RGB."""
    if scene.background == "underwater":
        return _underwater(side, random)
    image = gradient(side, side, _SKIES[scene.time])
    _lights(image, scene.time, random)
    LANDS[scene.background](image, scene.time, random)
    return image


def tinted(colour: RGB, time: str) -> RGB:
    """A colour of the land in the light of the time of day."""
    if time == "sunset":
        return mix(colour, (190, 92, 96), 0.3)
    if time == "night":
        return mix(colour, (24, 32, 88), 0.62)
    return colour


def _lights(image: Image.Image, time: str, random: Random) -> None:
    """Sun, moon, stars and clouds."""
    brush = Brush(image)
    side = image.width
    if time == "night":
        for _ in range(46):
            x, y, glint = random.random(), between(random, 0.01, 0.5), random.random()
            brush.disc(x, y, 0.0016 + 0.0026 * glint * glint, mix((120, 132, 190), (255, 250, 226), glint))
        x, y = between(random, 0.1, 0.9), between(random, 0.09, 0.2)
        paste_glow(image, x, y, 0.2, 0.2, (190, 200, 255), 0.4)
        # A crescent: the moon, less a disc of the sky. Its size and pale tone keep it apart from every ball.
        moon = Image.new("L", (max(8, side // 8),) * 2)
        pen = ImageDraw.Draw(moon)
        width = moon.width
        pen.ellipse([width * 0.1, width * 0.1, width * 0.9, width * 0.9], fill=255)
        pen.ellipse([width * 0.32, width * 0.0, width * 1.02, width * 0.72], fill=0)
        image.paste((255, 246, 214), (round(x * side - width / 2), round(y * side - width / 2)), moon)
        return
    x = between(random, 0.1, 0.9)
    if time == "sunset":
        paste_glow(image, x, 0.53, 0.42, 0.32, (255, 226, 150), 0.85)
        brush.disc(x, 0.53, 0.085, (255, 240, 190))
    else:
        paste_glow(image, x, 0.04, 0.34, 0.3, (255, 250, 216), 0.9)
    tone: RGB = (255, 206, 186) if time == "sunset" else (244, 250, 255)
    layer = Image.new("L", image.size)
    pen = ImageDraw.Draw(layer)
    for _ in range(3):
        _cloud(pen, side, random)
    image.paste(tone, mask=layer)


def _cloud(pen: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    """A flat, pale, level-bottomed cloud, far too faint to be taken for a thing."""
    x, y = between(random, 0.0, 1.0), between(random, 0.06, 0.4)
    width = between(random, 0.09, 0.17)
    strength = round(between(random, 70, 120))
    height = width * 0.2
    box = [(x - width) * side, (y - height) * side, (x + width) * side, (y + height * 0.4) * side]
    pen.rounded_rectangle(box, radius=height * 0.7 * side, fill=strength)
    for offset, radius in ((-0.4, 0.26), (0.05, 0.36), (0.45, 0.22)):
        middle, reach = x + offset * width, radius * width
        box = [
            (middle - reach) * side,
            (y - height * 0.3 - reach) * side,
            (middle + reach) * side,
            (y + height * 0.3) * side,
        ]
        pen.pieslice(box, 180, 360, fill=strength)


def _ridge(base: float, rise: float, waves: float, random: Random) -> list[Point]:
    """The outline of rolling land: from `base` down to the picture's lower edge."""
    first, second = between(random, 0, 6.28), between(random, 0, 6.28)
    points: list[Point] = []
    for step in range(41):
        x = step / 40
        wave = 0.68 * math.sin(waves * 3.1 * x + first) + 0.32 * math.sin(waves * 7.3 * x + second)
        points.append((x, base - rise * wave))
    return [*points, (1.0, 1.0), (0.0, 1.0)]


def _ground(image: Image.Image, outline: list[Point], top: RGB, bottom: RGB) -> None:
    """Fills land below an outline with a gradient that ends at the picture's lower edge."""
    side = image.width
    start = min(y for _, y in outline)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon([(x * side, y * side) for x, y in outline], fill=255)
    image.paste(gradient(side, side, ((start, top), (1.0, bottom))), mask=mask)


def _meadow(image: Image.Image, time: str, random: Random) -> None:
    _ground(
        image, _ridge(HORIZON - 0.03, 0.045, 1.5, random), tinted((138, 196, 168), time), tinted((110, 180, 140), time)
    )
    _ground(
        image, _ridge(HORIZON + 0.02, 0.03, 1.1, random), tinted((128, 198, 118), time), tinted((110, 186, 104), time)
    )
    _ground(
        image, _ridge(HORIZON + 0.08, 0.02, 0.8, random), tinted((140, 208, 100), time), tinted((96, 174, 82), time)
    )
    brush = Brush(image)
    blade = tinted((84, 158, 76), time)
    for _ in range(26):
        x, y = random.random(), between(random, 0.68, 0.99)
        for lean in (-0.008, 0.0, 0.008):
            brush.line([(x + lean * 0.4, y), (x + lean, y - 0.016)], blade, 0.004)


def _snow(image: Image.Image, time: str, random: Random) -> None:
    brush = Brush(image)
    for offset in (0.0, 0.36, 0.74):
        x, peak = offset + between(random, 0.0, 0.2), between(random, 0.35, 0.44)
        reach = between(random, 0.24, 0.32)
        rock = tinted((150, 172, 206), time)
        brush.polygon([(x - reach, 0.64), (x, peak), (x + reach, 0.64)], rock)
        brush.polygon([(x, peak), (x + reach, 0.64), (x + reach * 0.2, 0.64)], mix(rock, (84, 100, 156), 0.3))
        low = peak + 0.07
        edge = reach * 0.07 / (0.64 - peak)
        cap = [
            (x, peak),
            (x + edge, low),
            (x + edge * 0.4, low - 0.02),
            (x, low),
            (x - edge * 0.5, low - 0.018),
            (x - edge, low),
        ]
        brush.polygon(cap, tinted((246, 250, 255), time))
    _ground(
        image, _ridge(HORIZON + 0.01, 0.025, 1.2, random), tinted((222, 234, 248), time), tinted((214, 228, 246), time)
    )
    _ground(
        image, _ridge(HORIZON + 0.08, 0.02, 0.8, random), tinted((244, 249, 255), time), tinted((214, 228, 248), time)
    )
    for _ in range(70):
        x, y = random.random(), random.random()
        brush.disc(
            x, y, between(random, 0.0025, 0.005), mix((255, 255, 255), (196, 214, 240), 0.25 if y < 0.6 else 0.6)
        )


def _sea_water(image: Image.Image, top: float, time: str, random: Random, bottom: float = 1.0) -> None:
    outline = [(0.0, top), (1.0, top), (1.0, bottom), (0.0, bottom)]
    near, far = tinted((34, 122, 190), time), tinted((98, 184, 222), time)
    _ground(image, outline, far, near)
    brush = Brush(image)
    for _ in range(34):
        depth = random.random()
        x, y = random.random(), top + 0.012 + (bottom - top - 0.02) * depth
        reach = 0.014 + 0.03 * depth
        tone = mix(mix(far, near, depth), (255, 255, 255), 0.26)
        wave = [(x - reach, y), (x - reach / 2, y - 0.005), (x, y), (x + reach / 2, y - 0.005), (x + reach, y)]
        brush.line(wave, tone, 0.0035 + 0.002 * depth)


def _sea(image: Image.Image, time: str, random: Random) -> None:
    _sea_water(image, HORIZON, time, random)


def _beach(image: Image.Image, time: str, random: Random) -> None:
    _sea_water(image, HORIZON - 0.02, time, random, bottom=0.72)
    shore = _ridge(0.665, 0.008, 1.6, random)
    _ground(
        image,
        [(x, y - 0.012) for x, y in shore[:41]] + shore[41:],
        tinted((240, 250, 252), time),
        tinted((240, 250, 252), time),
    )
    _ground(image, shore, tinted((250, 228, 170), time), tinted((238, 204, 138), time))
    brush = Brush(image)
    for _ in range(40):
        brush.disc(random.random(), between(random, 0.72, 0.99), 0.0028, tinted((214, 178, 116), time))


def _desert(image: Image.Image, time: str, random: Random) -> None:
    _ground(
        image, _ridge(HORIZON - 0.03, 0.045, 1.3, random), tinted((222, 158, 112), time), tinted((214, 148, 100), time)
    )
    _ground(
        image, _ridge(HORIZON + 0.03, 0.04, 0.9, random), tinted((238, 178, 116), time), tinted((226, 160, 98), time)
    )
    _ground(
        image, _ridge(HORIZON + 0.1, 0.025, 0.7, random), tinted((244, 190, 124), time), tinted((226, 162, 98), time)
    )
    brush = Brush(image)
    ripple = tinted((214, 150, 92), time)
    for _ in range(16):
        x, y, reach = random.random(), between(random, 0.7, 0.99), between(random, 0.03, 0.07)
        brush.line(
            [(x - reach, y), (x - reach / 3, y - 0.007), (x + reach / 3, y - 0.002), (x + reach, y - 0.008)],
            ripple,
            0.0045,
        )


def _town(image: Image.Image, time: str, random: Random) -> None:
    brush = Brush(image)
    for tone, low, high in (((176, 194, 218), 0.3, 0.42), ((142, 162, 194), 0.38, 0.5)):
        wall = tinted(tone, time)
        x = -0.03
        while x < 1.0:
            width, top = between(random, 0.07, 0.13), between(random, low, high)
            brush.rectangle(x, top, x + width, 0.66, wall)
            _windows(brush, (x, top, x + width, 0.62), wall, time, random)
            x += width + between(random, 0.0, 0.02)
    brush.rectangle(0.0, 0.62, 1.0, 1.0, tinted((196, 198, 206), time))
    _ground(
        image,
        [(0.0, 0.67), (1.0, 0.67), (1.0, 1.0), (0.0, 1.0)],
        tinted((122, 126, 142), time),
        tinted((104, 108, 126), time),
    )
    for x in range(5):
        brush.rectangle(x * 0.22 + 0.02, 0.965, x * 0.22 + 0.12, 0.978, tinted((232, 226, 206), time))


def _windows(brush: Brush, wall: tuple[float, float, float, float], tone: RGB, time: str, random: Random) -> None:
    left, top, right, bottom = wall
    lit: RGB = (255, 222, 130)
    y = top + 0.022
    while y < bottom - 0.03:
        x = left + 0.014
        while x < right - 0.02:
            bright = random.random() < {"day": 0.0, "sunset": 0.25, "night": 0.45}[time]
            brush.rectangle(x, y, x + 0.011, y + 0.016, mix(tone, lit, 0.8) if bright else lighter(tone, 0.3))
            x += 0.025
        y += 0.036


def _underwater(side: int, random: Random) -> Image.Image:
    image = gradient(side, side, ((0.0, (98, 206, 226)), (0.5, (36, 136, 196)), (1.0, (18, 78, 150))))
    rays = Image.new("L", image.size)
    pen = ImageDraw.Draw(rays)
    for _ in range(5):
        x, lean, reach = between(random, 0.0, 1.0), between(random, -0.2, 0.2), between(random, 0.03, 0.07)
        ray = [(x - reach * 0.4, 0.0), (x + reach * 0.4, 0.0), (x + lean + reach, 0.8), (x + lean - reach, 0.8)]
        pen.polygon([(px * side, py * side) for px, py in ray], fill=26)
    image.paste((220, 250, 255), mask=rays)
    _ground(image, _ridge(0.83, 0.02, 1.2, random), (150, 176, 172), (190, 184, 150))
    _ground(image, _ridge(0.88, 0.015, 0.8, random), (214, 202, 160), (196, 176, 128))
    brush = Brush(image)
    for _ in range(5):
        x, tall = random.random(), between(random, 0.06, 0.11)
        for lean in (-0.016, 0.0, 0.016):
            top = 0.9 - tall + abs(lean)
            brush.line(
                [(x + lean, 0.905), (x + lean * 1.6 + 0.01, 0.9 - tall * 0.5), (x + lean * 1.3, top)],
                (30, 128, 118),
                0.009,
            )
    for _ in range(14):
        x, y, radius = random.random(), between(random, 0.05, 0.8), between(random, 0.003, 0.007)
        brush.disc(x, y, radius, (176, 226, 240))
    return image


LANDS: dict[str, Land] = {
    "meadow": _meadow,
    "snow": _snow,
    "beach": _beach,
    "sea": _sea,
    "desert": _desert,
    "town": _town,
}
