"""JPEG XL by libjxl (imagecodecs): the first frame, upright. Depths above 8 bits keep their upper 8.

Header: ISO/IEC 18181-1, annex D.2 (SizeHeader); container: 18181-2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captionkit.images.picture import Picture, Reserve, needs, unsupported
from captionkit.images.structure import boxes, cut_short, damaged
from captionkit.images.types import Preprocessing

_CODESTREAM = b"\xff\x0a"
_HEADER = 12
"""Bytes within which its size stands."""
_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def read(data: bytes, preprocessing: Preprocessing, reserve: Reserve, frame: str | int) -> Iterator[Picture]:
    """The image, of an animation its first frame.

    Raises ImageError.
    """
    try:
        import imagecodecs
    except ImportError as error:
        raise needs("JPEG XL", "jxl") from error
    reserve(*size(data))
    try:
        values = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)
    except imagecodecs.JpegxlError as error:
        if "NEED_MORE_INPUT" in str(error):
            raise cut_short("JPEG XL", data) from error
        raise damaged("JPEG XL", "its compressed pixels are broken") from error
    picture = _picture(values)
    yield Picture(picture, picture.size)


def size(data: bytes) -> tuple[int, int]:
    """(width, height) as stored, before it is turned upright. Raises ImageError "truncated" or "corrupt"."""
    codestream = data
    if not data.startswith(_CODESTREAM):
        codestream = b""
        for kind, start, end in boxes(data):
            if kind in (b"jxlc", b"jxlp") and len(codestream) < _HEADER:  # it may come in parts
                codestream += data[start + 4 * (kind == b"jxlp") : end]
    if len(codestream) < _HEADER:
        raise cut_short("JPEG XL", data)
    if not codestream.startswith(_CODESTREAM):
        raise damaged("JPEG XL", "its header is broken")
    bits = int.from_bytes(codestream[2:_HEADER], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    across, down = _RATIOS[ratio]
    return (height * across // down if ratio else side()), height


def _picture(values: NDArray[Any]) -> Image.Image:
    """(H, W) or (H, W, C) of 8 or 16 bits, or floats of which 1 is white."""
    if values.ndim == 2:
        values = values[..., None]
    channels = values.shape[-1]
    if values.ndim != 3 or channels > 4:
        raise unsupported(f"JPEG XL with {channels} channels")
    if values.dtype.kind == "f":
        values = (np.nan_to_num(values.astype(np.float32)).clip(0, 1) * 255).round()
    elif values.dtype == np.uint16:
        values = values >> 8
    pixels = values.astype(np.uint8, copy=False)
    return Image.fromarray(pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels))
