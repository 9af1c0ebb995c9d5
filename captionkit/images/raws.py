"""Camera raws: the JPEG preview that the camera stored beside its sensor's values, else a development by LibRaw.

Most raws are TIFFs (CR2, NEF, ARW, DNG, PEF, SRW …, and ORF and RW2 with other first bytes), whose directories say
where previews lie; others (RAF, CR3, ORF's and Nikon's maker notes) hold them as whole JPEG files somewhere, found by
their first bytes. Pillow would show such a TIFF's first page: a thumbnail of 160 pixels.

Tags: TIFF 6.0; TIFF/EP (ISO 12234-2); DNG 1.7. JpgFromRaw of RW2: https://exiftool.org/TagNames/PanasonicRaw.html
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from struct import error as StructError
from struct import unpack_from
from typing import NamedTuple

from PIL import Image

from captionkit.images import geometry
from captionkit.images.formats import RAW
from captionkit.images.metadata import jpeg_segments
from captionkit.images.picture import Picture, Reserve, needs, unsupported
from captionkit.images.structure import damaged
from captionkit.images.types import Preprocessing

_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 254, 259, 262, 274
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _SUB_IFDS = 273, 279, 324, 325, 330
_JPEG, _JPEG_BYTES, _JPG_FROM_RAW, _DNG_VERSION = 513, 514, 0x2E, 50706
_SENSOR = (32803, 34892)  # colour filter array, linear raw
_READ = (_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _SUB_IFDS)
_KEPT = frozenset((*_READ, _JPEG, _JPEG_BYTES, _JPG_FROM_RAW, _DNG_VERSION))
_SIZES = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 7: (1, "B"), 13: (4, "I")}

_MOST_DIRECTORIES = 64
_MOST_VALUES = 20_000  # strips or tiles of one image
_MOST_STARTS = 1000  # places looked at that begin as a JPEG does
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; a sensor's values are lossless (0xC3)

_Directory = dict[int, tuple[int, ...]]


class Preview(NamedTuple):
    """A JPEG within a raw. data: begins with it, and may go on after its end. orientation: of the raw."""

    data: bytes
    size: tuple[int, int]
    orientation: int


def is_raw(tiff: bytes) -> bool:
    """Whether a TIFF is a camera's: it holds a sensor's values, or its first page is a preview of what lies below."""
    directories = _directories(tiff, chain=False)
    first = directories[0] if directories else {}
    preview = bool(first.get(_SUBFILE, (0,))[0] & 1) and _SUB_IFDS in first
    return preview or _DNG_VERSION in first or any(each.get(_PHOTOMETRIC, (0,))[0] in _SENSOR for each in directories)


def preview(data: bytes, preprocessing: Preprocessing) -> Preview | None:
    """The preview to be decoded; None where all are smaller than the model's square.

    The smallest that has twice the side that is needed, else the largest.
    """
    side = geometry.target_side(preprocessing)
    directories = _directories(data)
    candidates = {at: (size, end) for at, end, size in _named(data, directories) if min(size) >= side}
    if not candidates:
        candidates = {at: (size, end) for at, end, size in _searched(data, directories) if min(size) >= side}
    if not candidates:
        return None
    ordered = sorted(candidates.items(), key=lambda entry: min(entry[1][0]))
    at, (size, end) = next((entry for entry in ordered if min(entry[1][0]) >= 2 * side), ordered[-1])
    return Preview(data[at:end], size, _orientation(data, directories))


def develop(data: bytes, preprocessing: Preprocessing, reserve: Reserve) -> Picture:
    """The sensor's values at half size, upright, with the camera's white balance.

    Raises ImageError; MemoryError.
    """
    side = geometry.target_side(preprocessing)
    try:
        import rawpy
    except ImportError as error:
        raise needs(f"a {RAW} without a preview of {side} pixels or more", "raw") from error
    try:
        with rawpy.imread(BytesIO(data)) as raw:
            sizes = raw.sizes
            reserve(sizes.raw_width, sizes.raw_height)
            pixels = raw.postprocess(half_size=True, use_camera_wb=True)
            width, height = sizes.width, sizes.height
    except rawpy.LibRawFileUnsupportedError as error:
        raise unsupported(f"a {RAW} of this camera, without a preview of {side} pixels or more,") from error
    except rawpy.LibRawError as error:
        if "memory" in str(error).lower():
            raise MemoryError from error
        raise damaged(RAW, "its sensor's values are broken") from error
    image = Image.fromarray(pixels)
    stored = (width, height) if (width > height) == (image.width > image.height) else (height, width)
    return Picture(image, stored, scale=stored[0] / image.width)


def _directories(data: bytes, chain: bool = True) -> list[_Directory]:
    """The file's directories with the tags that are of use here, as far as they are sound.

    chain: those that follow the first one too, and not only those below it.
    """
    if data[:2] not in (b"II", b"MM"):
        return []
    order = "<" if data[:1] == b"I" else ">"
    parsed: list[_Directory] = []
    seen: set[int] = set()
    try:
        waiting = [unpack_from(order + "I", data, 4)[0]]
        while waiting and len(parsed) < _MOST_DIRECTORIES:
            at = waiting.pop(0)
            if at in seen or not at:
                continue
            seen.add(at)
            directory, following = _directory(data, order, at)
            parsed.append(directory)
            waiting += directory.get(_SUB_IFDS, ())
            if chain:
                waiting.append(following)
    except (StructError, IndexError):
        pass
    return parsed


def _directory(data: bytes, order: str, at: int) -> tuple[_Directory, int]:
    """One directory, and where the next one is. Raises struct.error."""
    (count,) = unpack_from(order + "H", data, at)
    directory: _Directory = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, length = unpack_from(order + "HHI", data, entry)
        if tag not in _KEPT or kind not in _SIZES:
            continue
        size, letter = _SIZES[kind]
        where = entry + 8
        if size * length > 4:
            (where,) = unpack_from(order + "I", data, where)
        if tag == _JPG_FROM_RAW:
            directory[tag] = (where, length)
        elif 0 < length <= _MOST_VALUES and where + size * length <= len(data):
            directory[tag] = unpack_from(f"{order}{length}{letter}", data, where)
    try:
        (following,) = unpack_from(order + "I", data, at + 2 + 12 * count)
    except StructError:
        following = 0
    return directory, following


def _named(data: bytes, directories: list[_Directory]) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """(start, end, (width, height)) of the JPEGs that directories name."""
    for directory in directories:
        places = [(directory.get(_JPEG, (0,))[0], directory.get(_JPEG_BYTES, (0,))[0])]
        start, length = directory.get(_JPG_FROM_RAW, (0, 0))
        places.append((start, length))
        strips = directory.get(_STRIPS, ())
        if directory.get(_PHOTOMETRIC, (0,))[0] not in _SENSOR and len(strips) == 1:
            places.append((strips[0], directory.get(_STRIP_BYTES, (0,))[0]))
        for at, length in places:
            size = _jpeg_size(data, at) if at and length and at + length <= len(data) else None
            if size is not None:
                yield at, at + length, size


def _searched(data: bytes, directories: list[_Directory]) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """The same of all that begins as a JPEG does, outside of the sensor's values, which may be JPEGs themselves."""
    sensor = []
    for directory in directories:
        if directory.get(_PHOTOMETRIC, (0,))[0] in _SENSOR:
            for starts, lengths in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
                pieces = zip(directory.get(starts, ()), directory.get(lengths, ()), strict=False)
                sensor += [(start, start + length) for start, length in pieces]
    at = -1
    for _ in range(_MOST_STARTS):
        at = data.find(b"\xff\xd8\xff", at + 1)
        if at < 0:
            return
        if not any(start <= at < end for start, end in sensor) and (size := _jpeg_size(data, at)) is not None:
            yield at, len(data), size


def _jpeg_size(data: bytes, at: int) -> tuple[int, int] | None:
    """(width, height) of the 8-bit JPEG that begins there; None where none does."""
    if data[at : at + 3] != b"\xff\xd8\xff":
        return None
    view = memoryview(data)[at : at + 2**20]
    for marker, start, end in jpeg_segments(view):
        if marker in _FRAMES and end - start >= 10 and end <= len(view) and view[start + 4] == 8:
            height, width = unpack_from(">HH", view, start + 5)
            return (width, height) if width and height and view[start + 9] in (1, 3) else None
    return None


def _orientation(data: bytes, directories: list[_Directory]) -> int:
    """EXIF's, 1 to 8, as the raw itself says."""
    if not directories and data[4:8] == b"ftyp" and (at := data.find(b"CMT1", 0, 2**20)) >= 0:
        directories = _directories(data[at + 4 : at + 4 + 2**16], chain=False)  # CR3 holds its EXIF in boxes
    value = directories[0].get(_ORIENTATION, (1,))[0] if directories else 1
    return value if 1 <= value <= 8 else 1
