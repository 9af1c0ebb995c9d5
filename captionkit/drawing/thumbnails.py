"""Thumbnails that are embedded in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from captionkit.images import Limits, Preprocessing, decode

WEBP_QUALITY = 78


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail; sides in pixels."""

    source: str
    """A data: address."""
    width: int
    height: int


def thumbnail(data: bytes, side: int, limits: Limits) -> Thumbnail:
    """The whole image, upright, its longer side at most `side` pixels.

    Raises:
        ImageError: the bytes are not an image within the limits.
    """
    webp, width, height = small_webp(data, side, limits)
    return Thumbnail("data:image/webp;base64," + base64.b64encode(webp).decode(), width, height)


def small_webp(data: bytes, side: int, limits: Limits) -> tuple[bytes, int, int]:
    """The same as a WebP file, with its width and height."""
    # Decoded to a square, as for the captioner, so that all limits and policies of captionkit.images apply. Then it is
    # resized to the image's proportions. The longer side is resampled once, the shorter one twice.
    square = decode(data, Preprocessing(side, side, "lanczos", "squash"), limits)
    scale = min(1.0, side / max(square.width, square.height))
    width, height = (max(1, round(length * scale)) for length in (square.width, square.height))
    small = Image.fromarray(square.pixels).resize((width, height), Image.Resampling.LANCZOS)
    # Encoded from pixels alone, so it contains no metadata of the camera (place, name, date).
    file = io.BytesIO()
    small.save(file, "WEBP", quality=WEBP_QUALITY, method=4)
    return file.getvalue(), width, height
