"""A picture's bytes as a small picture inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from captionkit.images import Limits, Preprocessing, decode

WEBP_QUALITY = 78


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data: address; sides in pixels."""

    source: str
    width: int
    height: int


def thumbnail(data: bytes, side: int, limits: Limits) -> Thumbnail:
    """The whole picture, upright, its longer side at most `side` pixels.

    Raises:
        ImageError: these bytes are no picture within the limits.
    """
    # Decoded as the captioner decodes, into a square, so that every guard and policy of images.py holds here too;
    # then the square is brought back to its proportions. The longer side is resampled once, the shorter one twice.
    square = decode(data, Preprocessing(side, side, "lanczos", "squash"), limits)
    scale = min(1.0, side / max(square.width, square.height))
    width, height = (max(1, round(length * scale)) for length in (square.width, square.height))
    small = Image.fromarray(square.pixels).resize((width, height), Image.Resampling.LANCZOS)
    # A picture made from pixels alone: no place, name or date from the camera can travel on in it.
    file = io.BytesIO()
    small.save(file, "WEBP", quality=WEBP_QUALITY, method=4)
    return Thumbnail("data:image/webp;base64," + base64.b64encode(file.getvalue()).decode(), width, height)
