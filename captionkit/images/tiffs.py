"""TIFFs whose pixels Pillow's reader gets wrong or cannot get at.

What Pillow passes on untold, its tiles and tags say: so the unpacking is set right before it starts, and what depends
on tags (white is zero, unsigned, 12 bits) is applied to the numbers afterwards. What Pillow does not read at all,
tifffile does, as far as it can.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from captionkit.images import colours, jpeg2000
from captionkit.images.formats import webp_size
from captionkit.images.picture import Reserve
from captionkit.images.structure import damaged
from captionkit.images.types import ImageError

_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _MAX, _PLANES = 258, 259, 262, 274, 281, 284
_SAMPLE_FORMAT, _SMAX, _PROFILE = 339, 341, 34675
_WHITE_IS_ZERO = 0


COMPRESSED_AS_FILES = (50001, 34927, 33003, 33005, 34712)
"""Compressions of which each strip or tile is a WebP (the first two) or a JPEG 2000 file."""


def is_for_tifffile(image: TiffImageFile) -> bool:
    """Whether libtiff's decoder as Pillow calls it would show a blank image (two planes apart, compressed) or none."""
    blank = image.mode == "LA" and image.tag_v2.get(_PLANES) == 2 and image.tile[0][0] == "libtiff"
    return blank or image.tag_v2.get(_COMPRESSION) in COMPRESSED_AS_FILES


# Of Pillow's own libtiff: none, CCITT, LZW, JPEG, Deflate, PackBits, LZMA, Zstandard.
_UNDONE = (1, 2, 3, 4, 5, 7, 8, 32771, 32773, 32946, 34925, 50000, *COMPRESSED_AS_FILES)

_SUBFILE, _REDUCED, _MASK = 254, 1, 4


def set_unpacking(image: TiffImageFile) -> None:
    """Corrects how the tiles of an unloaded TIFF are unpacked.

    Raises ImageError "unsupported_format" for YCbCr in planes apart, which some versions of Pillow take for RGB.
    """
    tags, tiles = image.tag_v2, []
    if tags.get(_PHOTOMETRIC) == 6 and tags.get(_PLANES) == 2:
        raise _unsupported("of YCBCR colours in 3 channels in planes apart")
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


def pages(image: TiffImageFile) -> list[int]:
    """The numbers of the pages, without those that are smaller copies or masks of others: at least the first."""
    offsets = []
    for number in range(image.n_frames):
        image.seek(number)
        if not image.tag_v2.get(_SUBFILE, 0) & (_REDUCED | _MASK):
            offsets.append(number)
    return offsets or [0]


def read(data: bytes, number: int, reserve: Reserve) -> tuple[Image.Image, int]:
    """A page by tifffile, which is slower and knows fewer compressions; and its orientation, 1 to 8.

    Raises ImageError, "unsupported_format" for what it does not know.
    """
    with _page(data, number) as page:
        width, height, samples = int(page.imagewidth), int(page.imagelength), int(page.samplesperpixel)
        reserve(width, height, 0)
        tag = page.tags.get(_ORIENTATION)
        orientation = tag.value if tag is not None and tag.value in range(1, 9) else 1
        if page.imagedepth != 1:
            raise _unsupported("of several layers in depth")
        compression = int(page.compression)
        if compression in COMPRESSED_AS_FILES and page.planarconfig == 1:
            reserve(width, height)
            return _with_profile(_from_files(page, data, compression == 33003), page), orientation
        if page.photometric not in (0, 1, 2):
            raise _unsupported(f"with {_spelled(page.photometric)} colours")
        wanted = 3 if page.photometric == 2 else 1
        if samples not in (wanted, wanted + 1):
            raise _unsupported(f"with {samples} channels")
        if page.dtype is None or page.dtype.kind not in "biuf":
            bits = page.bitspersample[0] if isinstance(page.bitspersample, tuple) else page.bitspersample
            depths = f"{bits} bits" if isinstance(bits, int) else "an unknown depth"
            raise _unsupported("with complex numbers" if page.dtype is not None else f"with samples of {depths}")
        reserve(width, height, width * height * max(1, samples * page.dtype.itemsize // 4))
        try:
            values = page.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" in str(error) or "not supported" in str(error):
                raise _unsupported(f"with {_spelled(page.compression)} compression and such samples") from error
            raise
        if samples > 1 and page.planarconfig == 2:
            values = np.moveaxis(values.reshape(samples, height, width), 0, -1)
        greys = _as_bytes(values.reshape(height, width, samples), wanted, page.photometric == _WHITE_IS_ZERO)
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[greys.shape[2]]
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(greys, -1, 0)]
        return _with_profile(Image.merge(mode, bands), page), orientation


def _with_profile(image: Image.Image, page: Any) -> Image.Image:
    """The image with the page's ICC profile in `info`, as Pillow has it."""
    tag = page.tags.get(_PROFILE)
    if tag is not None and isinstance(tag.value, bytes):
        image.info["icc_profile"] = tag.value
    return image


@contextmanager
def _page(data: bytes, number: int = 0) -> Iterator[Any]:
    """tifffile's page of that number. What it logs of damaged files stays out of the process's standard error."""
    import tifffile  # only few files need it

    logger = logging.getLogger("tifffile")
    if _unlogged not in logger.filters:
        logger.addFilter(_unlogged)
    _reading.depth = getattr(_reading, "depth", 0) + 1
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            yield file.pages[number]
    finally:
        _reading.depth -= 1


_reading = threading.local()


def _unlogged(_: logging.LogRecord) -> bool:
    return not getattr(_reading, "depth", 0)


def _as_bytes(values: NDArray[Any], colour_bands: int, inverted: bool) -> NDArray[np.uint8]:
    """(H, W, C) of any numbers → uint8; of all but 8 and 16 bits without the alpha channel."""
    greys: NDArray[np.uint8]
    if values.dtype == bool:
        greys = values.astype(np.uint8) * np.uint8(255)
    elif values.dtype == np.uint8:
        greys = values.copy()
    elif values.dtype == np.uint16:
        greys = (values >> 8).astype(np.uint8)
    else:
        # All colours by one measure.
        flat = values[..., :colour_bands].reshape(len(values), -1)
        greys = np.array(_scaled(flat)).reshape(*values.shape[:2], colour_bands)
    if inverted:
        greys[..., :colour_bands] ^= 255
    return greys


def _from_files(page: Any, data: bytes, ycc: bool) -> Image.Image:
    """A page each of whose strips or tiles is a WebP or JPEG 2000 file of its own.

    Raises ImageError "corrupt" where one is of another size than the page says.
    """
    width, height = int(page.imagewidth), int(page.imagelength)
    across, down = (page.tilewidth, page.tilelength) if page.is_tiled else (width, min(height, page.rowsperstrip))
    canvas = Image.new("RGBA" if page.samplesperpixel == 4 else "RGB", (width, height))
    places = [(left, top) for top in range(0, height, down) for left in range(0, width, across)]
    for place, start, length in zip(places, page.dataoffsets, page.databytecounts, strict=False):
        piece = data[start : start + length]
        fits = (across, down if page.is_tiled else min(down, height - place[1]))
        if piece[:4] == b"RIFF":
            sized = webp_size(piece)
            part: Any = WebPImageFile(BytesIO(piece)) if sized == fits else None
        else:
            header = jpeg2000.read_header(piece)
            jpeg2000.refuse(header)
            part, roomy = jpeg2000.opened(piece, header)
        if part is None or part.size != fits:
            raise damaged("TIFF", "a strip or tile in it is not of the size that it should be")
        part.load()
        if piece[:4] != b"RIFF":
            part = jpeg2000.shown(part, header, roomy)
        if ycc:
            part = Image.merge("YCbCr", part.convert("RGB").split())
        canvas.paste(part.convert(canvas.mode), place)
    return canvas


def unread_compression(data: bytes) -> str | None:
    """The compression of the first page by its name, as words that follow "TIFF", where Pillow cannot undo it."""
    try:
        with _page(data) as page:
            compression = page.compression
            return None if int(compression) in _UNDONE else f"with {_spelled(compression)} compression"
    except Exception:  # a damaged directory has no compression
        return None


def described(data: bytes) -> str:
    """What kind of TIFF this is, in words that follow "TIFF"."""
    try:
        with _page(data) as page:
            apart = " in planes apart" if page.planarconfig == 2 and page.samplesperpixel > 1 else ""
            return f"of {_spelled(page.photometric)} colours in {page.samplesperpixel} channels{apart}"
    except Exception:  # whatever a damaged directory leads to
        return "of this kind"


def _spelled(value: Any) -> str:
    """A tag's value by its name."""
    name = str(getattr(value, "name", value)).replace("_", " ")
    return "CMYK" if name == "SEPARATED" else name


def _unsupported(what: str) -> ImageError:
    return ImageError("unsupported_format", f"TIFF {what} is not read; convert it to 8 bits a channel, grey or RGB")
