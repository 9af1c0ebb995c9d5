"""TIFFs whose pixels Pillow's reader gets wrong or cannot get at.

What Pillow passes on untold, its tiles and tags say: so the unpacking is set right before it starts, and what depends
on tags (white is zero, unsigned, 12 bits) is applied to the numbers afterwards. Two kinds are read by tifffile.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from captionkit.images import colours
from captionkit.images.types import ImageError

_BITS, _PHOTOMETRIC, _MAX, _PLANES, _SAMPLE_FORMAT, _SMAX = 258, 262, 281, 284, 339, 341
_WHITE_IS_ZERO = 0


def is_for_tifffile(image: TiffImageFile) -> bool:
    """Whether libtiff's decoder as Pillow calls it would show a blank picture: two planes apart, compressed."""
    return image.mode == "LA" and image.tag_v2.get(_PLANES) == 2 and image.tile[0][0] == "libtiff"


def set_unpacking(image: TiffImageFile) -> None:
    """Corrects how the tiles of an unloaded TIFF are unpacked."""
    tags, tiles = image.tag_v2, []
    bits = tags.get(_BITS, (1,))
    layers = -1
    for tile in image.tile:
        codec, box, _, args = tile
        if not isinstance(args, tuple):
            return
        raw = args[0]
        if codec == "libtiff":
            # libtiff hands out numbers in the machine's order; Pillow knows that of unsigned 16 bits only.
            if image.mode in ("I", "F"):
                raw = raw.replace("B", "")
        elif tags.get(_PLANES) == 2 and bits[0] == 16:
            # The first box begins again with each plane.
            layers += box is not None and box[:2] == (0, 0)
            raw = f"{image.getbands()[min(layers, len(image.getbands()) - 1)]};16{'B' if tags.prefix == b'MM' else 'L'}"
        tiles.append(tile._replace(args=(raw, *args[1:])))
    image.tile = tiles


def shown(image: TiffImageFile) -> Image.Image:
    """A loaded TIFF; deep greys as "L", by what its tags say of their numbers."""
    tags = image.tag_v2
    deep = image.mode.startswith("I;16")
    if not deep and image.mode not in ("I", "F"):
        return image
    bits = int(tags.get(_BITS, (1,))[0])
    values: NDArray[Any] = np.asarray(image)
    if deep:
        greys = colours.from_16_bits(values, None, _declared_bits(tags, bits))
    else:
        if image.mode == "I" and bits == 32 and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
            values = values.astype(np.int32).view(np.uint32)
        if image.mode == "I" and bits == 16:
            values = values.astype(np.int16)
        greys = _scaled(values)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and (deep or image.mode == "F" or bits == 32):
        greys = greys.point([255 - value for value in range(256)])
    return greys


def _scaled(values: NDArray[Any]) -> Image.Image:
    """Integers that fill more than half of their type's range keep their upper 8 bits; all else is stretched."""
    if values.dtype.kind in "iu" and values.size:
        bits, lowest = values.dtype.itemsize * 8, int(np.iinfo(values.dtype).min)
        low, high = int(values.min()), int(values.max())
        if high - low >= 1 << (bits - 1) and (values.dtype.itemsize == 2 or lowest == 0):
            unsigned = values.view(f"u{values.dtype.itemsize}")
            greys = (unsigned >> (bits - 8)).astype(np.uint8)
            return Image.fromarray(greys ^ np.uint8(0x80) if lowest < 0 else greys)
    return colours.stretched(values)


def _declared_bits(tags: Any, bits: int) -> int | None:
    """How many bits the values fill, where the file says so."""
    if bits < 16:
        return bits
    highest = tags.get(_SMAX) or tags.get(_MAX)
    highest = highest[0] if isinstance(highest, tuple) else highest
    if isinstance(highest, int) and 255 < highest < 65535:
        return highest.bit_length()
    return None


def read(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The first page by tifffile, which is slower and knows fewer compressions, and its orientation.

    Raises ImageError "unsupported_format" for what it does not know.
    """
    import tifffile  # only these few files need it

    with tifffile.TiffFile(BytesIO(data)) as file:
        page: Any = file.pages[0]
        width, height = int(page.imagewidth), int(page.imagelength)
        if width * height > max_pixels:
            raise ImageError("too_many_pixels", f"{width} × {height} pixels, the limit is {max_pixels} in all")
        kind = f"{page.dtype} {page.photometric!s}"
        usual = page.photometric in (0, 1, 2) and page.samplesperpixel <= 4 and page.imagedepth == 1
        if not usual or str(page.dtype) not in ("uint8", "uint16"):
            raise ImageError("unsupported_format", f"this kind of TIFF cannot be read ({kind})")
        try:
            values = page.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" in str(error):
                name = page.compression.name
                raise ImageError("unsupported_format", f"this kind of TIFF cannot be read: {name} in it") from error
            raise
        samples, inverted = int(page.samplesperpixel), page.photometric == 0
        tag = page.tags.get(274)
        orientation = tag.value if tag is not None and tag.value in range(1, 9) else 1
        if values.ndim == 3 and page.planarconfig == 2:
            values = np.moveaxis(values, 0, -1)
    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    values = values.reshape(height, width, samples) if samples > 1 else values.reshape(height, width)
    if inverted:
        values = values.copy()
        values[..., : 1 if samples > 1 else None] ^= 255
    if samples == 2:
        planes = [Image.fromarray(np.ascontiguousarray(values[..., plane])) for plane in (0, 1)]
        return Image.merge("LA", planes), orientation
    return Image.fromarray(np.ascontiguousarray(values)), orientation
