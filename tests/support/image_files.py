"""Files in `tests/images/files`, each written by other software than what reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from captionkit.images import Preprocessing, decode
from tests.support.image_zoo import encode, photo

FOLDER = Path(__file__).parent.parent / "images" / "files"
EVERY_PIXEL = Preprocessing(size=48, resize=48, mode="squash", interpolation="nearest")
PICTURE = photo(48, 32, seed=1)
"""What they show."""


def stored(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def distance(data: bytes, shown: Image.Image = PICTURE, preprocessing: Preprocessing = EVERY_PIXEL) -> float:
    """How far the pixels of a file are from what it should show, on the average, of 255."""
    found, truth = decode(data, preprocessing), decode(encode(shown, "PNG"), preprocessing)
    assert (found.width, found.height) == shown.size
    return float(np.abs(found.pixels.astype(int) - truth.pixels).mean())
