"""JPEG 2000: what its headers say, and what Pillow's reader makes of them that must be put right.

Box and marker layouts: ISO/IEC 15444-1 annexes A and I; colour spaces of JPX: 15444-2 annex M.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from struct import unpack_from

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from captionkit.images import colours
from captionkit.images.types import ImageError

_START = b"\xff\x4f\xff\x51"  # of a codestream: SOC, SIZ
_SIZ, _COD, _QCD, _QCC, _SOT, _SOD, _END = 0x51, 0x52, 0x5C, 0x5D, 0x90, 0x93, 0xD9

_BILEVEL, _CMYK = 0, 12  # enumerated colour spaces; 0: white is zero
_READ = (_BILEVEL, _CMYK, 15, 16, 17, 18, 21)  # these, bi-level (2), sRGB, grey, sYCC, ROMM RGB
_NAMES = {1: "YCbCr (1)", 3: "YCbCr (2)", 4: "YCbCr (3)", 9: "PhotoYCC", 11: "CMY", 13: "YCCK", 14: "CIELab"}
_NAMES |= {19: "CIEJab", 20: "e-sRGB", 24: "e-sYCC"}
_PROFILES_READ = (b"GRAY", b"RGB ", b"CMYK")


@dataclass(frozen=True)
class Component:
    """One channel as it is stored. across, down: every how many pixels there is a sample."""

    bits: int
    signed: bool
    across: int
    down: int


@dataclass(frozen=True)
class Header:
    """What the headers say.

    components: empty where the codestream's header is not understood. levels: how often the image can be halved.
    colour: an enumerated colour space, the four letters of an ICC profile's, or None where the file does not say;
    colour_at: where the body of the box with it begins. profile: ICC's, where it is a profile.
    """

    components: tuple[Component, ...]
    levels: int
    colour: int | bytes | None
    colour_at: int
    palette: NDArray[np.uint8] | None
    profile: bytes | None


def read_header(data: bytes) -> Header:
    """Of the first codestream and of the boxes before it. Raises nothing, whatever the bytes."""
    start = data.find(_START)
    components: list[Component] = []
    levels = 0
    for marker, body, end in _markers(data, start + 2) if start >= 0 else ():
        if marker == _SIZ and end - body >= 39:
            for at in range(body + 36, end - 2, 3):
                depth, across, down = data[at : at + 3]
                components.append(Component((depth & 0x7F) + 1, depth > 0x7F, across, down))
        elif marker == _COD and end - body >= 6:
            levels = data[body + 5]
    colour: int | bytes | None = None
    colour_at, palette, profile = 0, None, None
    for kind, body, end in _boxes(data, 0, max(0, start)):
        if kind == b"colr" and colour is None and end - body >= 7:
            if data[body] == 1:
                colour = int.from_bytes(data[body + 3 : body + 7], "big")
            elif data[body] in (2, 3) and end - body >= 23:
                colour, profile = data[body + 19 : body + 23], data[body + 3 : end]
            colour_at = body
        elif kind == b"pclr":
            palette = _palette(data[body:end])
    return Header(tuple(components), levels, colour, colour_at, palette, profile)


def refuse(header: Header) -> None:
    """Raises ImageError "unsupported_format" for what would come out in wrong colours, or not at all."""
    colour, components = header.colour, header.components
    if isinstance(colour, int) and colour not in _READ:
        raise _unsupported(f"in the colour space {_NAMES.get(colour, f'number {colour}')}")
    if isinstance(colour, bytes) and colour not in _PROFILES_READ:
        raise _unsupported(f"with an ICC profile for {colour.decode('ascii', 'replace').strip()} colours")
    if not components:
        return
    if len(components) > 4 or (colour in (_CMYK, b"CMYK") and len(components) != 4):
        raise _unsupported(f"with {len(components)} channels{' of CMYK' if colour in (_CMYK, b'CMYK') else ''}")
    deepest = max(component.bits for component in components)
    if deepest > 16:
        raise _unsupported(f"with {deepest} bits a sample")
    if header.palette is not None and (deepest > 8 or len(components) > 1 or not header.palette.size):
        raise _unsupported("with a palette of this kind")
    if (components[0].across, components[0].down) != (1, 1):
        raise _unsupported("whose channels have a lower resolution than the image")


def opened(data: bytes, header: Header) -> tuple[Jpeg2KImageFile, bool]:
    """The file, not loaded yet, as Pillow can read it; and whether it was given headroom (see `_with_headroom`)."""
    if header.colour == b"CMYK":  # Pillow looks for it among the enumerated colour spaces
        at = header.colour_at
        data = data[:at] + b"\1" + data[at + 1 : at + 3] + _CMYK.to_bytes(4, "big") + data[at + 7 :]
    roomy = len(header.components) > 1 and any(component.bits > 8 for component in header.components)
    return Jpeg2KImageFile(BytesIO(_with_headroom(data) if roomy else data)), roomy


def reduce(image: Jpeg2KImageFile, halvings: int) -> None:
    """Makes an unloaded image load at 1 / 2 ** halvings of its size.

    `image.reduce` rounds sizes otherwise than OpenJPEG does, and hides the method that resizing calls.
    """
    width, height = image.size
    tile = image.tile[0]
    assert isinstance(tile.args, tuple)
    image._size = (-(-width >> halvings), -(-height >> halvings))
    image.tile = [tile._replace(extents=(0, 0, *image._size), args=(tile.args[0], halvings, *tile.args[2:]))]


def shown(image: Image.Image, header: Header, roomy: bool) -> Image.Image:
    """A loaded image with its values where they belong.

    Pillow shifts values of less than 8 bits up: white would be 128 or 240.
    """
    bands = image.getbands()
    if header.palette is not None and header.components:
        return _looked_up(image, header.palette, header.components[0].bits)
    if image.mode == "I;16" and header.components and header.components[0].bits < 16:
        return colours.from_16_bits(np.asarray(image), None, 16)  # Pillow has shifted them up to 16
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") or len(header.components) < len(bands):
        return image
    if roomy or any(component.bits < 8 for component in header.components):
        tables = [_table(component.bits, roomy) for component in header.components[: len(bands)]]
        image = image.point([value for table in tables for value in table])
    if header.colour == _BILEVEL and image.mode == "L":
        image = image.point([255 - value for value in range(256)])
    return image


def _looked_up(image: Image.Image, palette: NDArray[np.uint8], bits: int) -> Image.Image:
    """Colours for numbers: Pillow gets those of less than 8 bits wrong, and palettes that name a colour twice."""
    values = palette[np.minimum(np.asarray(image) >> (8 - bits), len(palette) - 1)]
    return Image.fromarray(values[..., 0] if palette.shape[1] == 1 else values)


def _palette(box: bytes) -> NDArray[np.uint8]:
    """Of a palette box's body: uint8 (entries, columns); of size 0 where it has other than 8 bits, or is damaged."""
    entries, columns = int.from_bytes(box[:2], "big"), int.from_bytes(box[2:3], "big")
    values = np.frombuffer(box[3 + columns :], np.uint8)
    if set(box[3 : 3 + columns]) != {7} or columns > 4 or values.size < entries * columns:
        return np.empty((0, 0), np.uint8)
    return values[: entries * columns].reshape(entries, columns)


def _table(bits: int, roomy: bool) -> list[int]:
    """What each byte of Pillow's stands for, of 255."""
    declared, lowest = (bits + 1, 1 << (bits - 1)) if roomy else (bits, 0)
    values = (byte * 2.0 ** (declared - 8) - lowest for byte in range(256))
    return [min(255, max(0, round(value * 255 / ((1 << bits) - 1)))) for value in values]


def _with_headroom(data: bytes) -> bytes:
    """The same file, declared to have one bit more a sample, so that its values fill the middle half of their range.

    Pillow rounds colours of more than 8 bits to 8 without a limit: white becomes 256, which is stored as 0, black
    (libImaging/Jpeg2KDecode.c, `j2ku_shift`). With headroom nothing overflows, and 7 bits are left. Where the wavelet
    is not reversible, sizes of quantisation steps are relative to the range: exponents grow by one, and guard bits
    shrink by one, so that the number of bit planes stays.
    """
    changed = bytearray(data)
    for marker, body, end in _all_markers(data):
        if marker == _SIZ:
            for depth in range(body + 36, end - 2, 3):
                changed[depth] += 1
        elif marker in (_QCD, _QCC):
            style = body if marker == _QCD else body + 1  # after the component's number
            if data[style] & 0x1F and data[style] >> 5:
                changed[style] -= 1 << 5
                for exponent in range(style + 1, end - 1, 2):
                    changed[exponent] = min(0xFF, data[exponent] + (1 << 3))
    return bytes(changed)


def _all_markers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """As `_markers`, of the main header and of each part of each tile, which may be quantised in its own way."""
    at = next_part = data.find(_START) + 2
    while True:
        for marker, body, end in _markers(data, at):
            yield marker, body, end
            at = end
        if data[at : at + 2] == bytes((0xFF, _SOD)):
            at = next_part
        if data[at : at + 2] != bytes((0xFF, _SOT)) or at + 12 > len(data):
            return
        (length,) = unpack_from(">I", data, at + 6)
        next_part = at + length if length >= 14 else len(data)
        at += 12


def _markers(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(marker, start and end of its body) of each segment before the next part of a tile, or its data."""
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (_SOT, _SOD, _END):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end < at + 4 or end > len(data):
            return
        yield data[at + 1], at + 4, end
        at = end


def _boxes(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start and end of its body) of each box, and of those within the header box."""
    while at + 8 <= stop:
        length = int.from_bytes(data[at : at + 4], "big")
        if length < 8:
            return  # it lasts to the end of the file: the codestream's
        kind, end = data[at + 4 : at + 8], min(stop, at + length)
        if kind == b"jp2h":
            yield from _boxes(data, at + 8, end)
        else:
            yield kind, at + 8, end
        at += length


def _unsupported(what: str) -> ImageError:
    return ImageError("unsupported_format", f"JPEG 2000 {what} is not read; convert it to sRGB with 8 bits a channel")
