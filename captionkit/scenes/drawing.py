"""Draws scenes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from PIL import Image

from captionkit.scenes.backdrops import backdrop
from captionkit.scenes.brush import paste_glow
from captionkit.scenes.figures import figure
from captionkit.scenes.scene import Box, Group, Scene


def draw(scene: Scene, size: int = 320, smoothing: int = 2) -> Image.Image:
    """The picture of a scene: RGB, `size` × `size` pixels, painted `smoothing` times as large and reduced."""
    random = Random(scene.seed)
    side = size * smoothing
    image = backdrop(scene, side, random)
    things = [(group, box) for group in scene.groups for box in group.boxes]
    for group, box in sorted(things, key=lambda thing: thing[1].bottom):
        _put(image, scene, group, box, random)
    return image.reduce(smoothing) if smoothing > 1 else image


def contact_sheet(scenes: Sequence[Scene], columns: int = 6, size: int = 240, gap: int = 8) -> Image.Image:
    """The scenes side by side on a light ground, in rows of `columns`."""
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * (size + gap) + gap, rows * (size + gap) + gap), (250, 248, 244))
    for index, scene in enumerate(scenes):
        row, column = divmod(index, columns)
        sheet.paste(draw(scene, size), (gap + column * (size + gap), gap + row * (size + gap)))
    return sheet


def _put(image: Image.Image, scene: Scene, group: Group, box: Box, random: Random) -> None:
    side = image.width
    night = scene.time == "night"
    middle = box.left + box.width / 2
    if group.zone == "ground":
        paste_glow(image, middle, box.bottom - 0.004, box.width * 0.66, box.width * 0.15, (26, 28, 70), 0.62)
    elif group.zone == "water":
        paste_glow(image, middle, box.bottom, box.width * 0.7, box.width * 0.13, (14, 40, 96), 0.6)
    size = max(3, round(box.width * side)), max(3, round(box.height * side))
    tile = figure(group.kind, group.colour, size, night, random)
    image.paste(tile, (round(box.left * side), round(box.top * side)), tile)
