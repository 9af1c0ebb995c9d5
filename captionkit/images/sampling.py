"""Resizing as TensorFlow 1 did (`tf.image.resize_images`, bilinear): each pixel from the four around its place, however
many there are between it and the next. Nobody would choose it; captioners were trained with it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def sample(image: Image.Image, size: int, box: tuple[float, float, float, float]) -> Image.Image:
    """A part of an image (left, top, right, bottom), in pixels from its corner, as size × size, in the image's mode.

    The first pixel of the result is the one at the part's corner: unlike Pillow's filters, TensorFlow 1 takes a pixel
    for a point at its corner, not for a square around its middle.
    """
    left, top, right, bottom = box
    pixels = np.asarray(image)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    above, below, down = _places(top, bottom, size, image.height)
    before, behind, across = _places(left, right, size, image.width)

    def row(places: NDArray[np.intp]) -> NDArray[np.float32]:
        first, second = (pixels[places[:, None], columns[None]].astype(np.float32) for columns in (before, behind))
        return np.asarray(first + (second - first) * across[None, :, None])

    upper = row(above)
    values = upper + (row(below) - upper) * down[:, None, None]
    return Image.frombytes(image.mode, (size, size), values.round().astype(np.uint8).tobytes())


def _places(
    start: float, end: float, size: int, length: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each pixel of the result those before and behind its place, and the share of that behind."""
    at = start + (end - start) / size * np.arange(size)
    before = np.clip(np.floor(at).astype(np.intp), 0, length - 1)
    return before, np.minimum(before + 1, length - 1), (at - before).astype(np.float32)
