"""Photoshop files (PSD, PSB): the composite that they were saved with. Layers are not put together.

Extra channels are left out: what is see-through in a composite, Photoshop has laid on white already.

Layout: https://www.adobe.com/devnet-apps/photoshop/fileformatashtml/
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import unpack_from
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captionkit.images.picture import Picture, Reserve, unsupported
from captionkit.images.structure import cut_short, damaged
from captionkit.images.types import Preprocessing

_BITMAP, _GREY, _INDEXED, _RGB, _CMYK, _MULTICHANNEL, _DUOTONE, _LAB = 0, 1, 2, 3, 4, 7, 8, 9
_MODES = {_BITMAP: "L", _GREY: "L", _INDEXED: "P", _RGB: "RGB", _CMYK: "CMYK", _DUOTONE: "L", _LAB: "LAB"}
_STORED, _RUNS, _DEFLATED = 0, 1, 2
_PROFILE, _VERSION_INFO = 1039, 1057


class _Header(NamedTuple):
    big: bool
    channels: int
    height: int
    width: int
    depth: int
    mode: int
    palette: bytes
    profile: bytes | None
    composite: bool
    at: int
    """Where the composite begins."""

    @property
    def row(self) -> int:
        """Bytes of one row of one channel."""
        return (self.width * self.depth + 7) // 8


def read(data: bytes, preprocessing: Preprocessing, reserve: Reserve, frame: str | int) -> Iterator[Picture]:
    """The composite.

    Raises ImageError.
    """
    header = _header(data)
    if header.mode not in _MODES or header.depth not in (1, 8, 16, 32):
        kind = "multichannel colours" if header.mode == _MULTICHANNEL else f"the colour mode {header.mode}"
        raise unsupported(f"a Photoshop file with {kind} and {header.depth} bits a channel")
    if not header.composite:
        raise unsupported("a Photoshop file without a composite", "save it with 'Maximize Compatibility' on")
    bands = len(Image.new(_MODES[header.mode], (1, 1)).getbands())
    if not (header.width and header.height and bands <= header.channels <= 56):
        raise damaged("Photoshop file", "its header is broken")
    reserve(header.width, header.height, header.width * header.height * max(1, bands * header.depth // 32))
    planes = [_as_bytes(plane, header) for plane in _planes(data, header, bands)]
    image = Image.merge(_MODES[header.mode], planes) if bands > 1 else planes[0]
    if header.mode == _INDEXED:
        image.putpalette(np.frombuffer(header.palette[:768], np.uint8).reshape(3, -1).T.tobytes())
    if header.profile:
        image.info["icc_profile"] = header.profile
    yield Picture(image, image.size)


def _header(data: bytes) -> _Header:
    """Raises ImageError "truncated" or "corrupt"."""
    if len(data) < 30:
        raise cut_short("Photoshop file", data)
    version, channels, height, width, depth, mode = unpack_from(">H6xHIIHH", data, 4)
    if version not in (1, 2):
        raise damaged("Photoshop file", "its header is broken")
    big = version == 2
    palette, at = _section(data, 26, 4)
    resources, at = _section(data, at, 4)
    _, at = _section(data, at, 8 if big else 4)  # layers and masks
    profile, composite = None, True
    for kind, body in _resources(resources):
        if kind == _PROFILE:
            profile = bytes(body)
        elif kind == _VERSION_INFO and len(body) >= 5:
            composite = bool(body[4])
    return _Header(big, channels, height, width, depth, mode, bytes(palette), profile, composite, at)


def _section(data: bytes, at: int, width: int) -> tuple[memoryview, int]:
    """What follows a length of so many bytes, and where it ends. Raises ImageError "truncated"."""
    start = at + width
    end = start + int.from_bytes(data[at:start], "big")
    if end > len(data):
        raise cut_short("Photoshop file", data)
    return memoryview(data)[start:end], end


def _resources(block: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at + 12 <= len(block):
        kind = int.from_bytes(block[at + 4 : at + 6], "big")
        at += 6 + (block[at + 6] + 2) // 2 * 2  # a name, and its length before it, padded
        length = int.from_bytes(block[at : at + 4], "big")
        yield kind, block[at + 4 : at + 4 + length]
        at += 4 + (length + 1) // 2 * 2


def _planes(data: bytes, header: _Header, bands: int) -> Iterator[NDArray[np.uint8]]:
    """Of each colour channel the bytes, uint8 (height, bytes a row). Raises ImageError."""
    shape = (header.height, header.row)
    size = header.height * header.row
    if header.at + 2 > len(data):
        raise cut_short("Photoshop file", data)
    (packing,), at = unpack_from(">H", data, header.at), header.at + 2
    if packing == _RUNS:
        width = 4 if header.big else 2
        rows = header.channels * header.height
        if at + width * rows > len(data):
            raise cut_short("Photoshop file", data)
        counts = np.frombuffer(data, f">u{width}", rows, at).reshape(header.channels, -1).sum(1, dtype=np.int64)
        at += width * rows
        for count in counts[:bands].tolist():
            if at + count > len(data):
                raise cut_short("Photoshop file", data)
            yield np.asarray(Image.frombytes("L", shape[::-1], data[at : at + count], "packbits", "L"))
            at += count
        return
    if packing == _DEFLATED:
        body = zlib.decompressobj().decompress(memoryview(data)[at:], bands * size)
    elif packing == _STORED:
        body = data[at : at + bands * size]
    else:
        raise unsupported(f"a Photoshop file whose composite is packed in the way number {packing}")
    if len(body) < bands * size:
        raise cut_short("Photoshop file", data)
    for band in range(bands):
        yield np.frombuffer(body, np.uint8, size, band * size).reshape(shape)


def _as_bytes(plane: NDArray[np.uint8], header: _Header) -> Image.Image:
    """One channel as 8-bit values in "L" (or "P")."""
    if header.depth == 1:
        plane = np.unpackbits(plane, axis=1, count=header.width) * np.uint8(255)
        return Image.fromarray(255 - plane)  # 1 is black
    if header.depth == 16:
        plane = plane[:, ::2]
    elif header.depth == 32:
        light = np.nan_to_num(plane.view(">f4").astype(np.float32)).clip(0, 1)
        plane = (light ** (1 / 2.2) * 255).round().astype(np.uint8)  # these are linear
    plane = 255 - plane if header.mode == _CMYK else np.ascontiguousarray(plane)
    image = Image.fromarray(plane)
    return Image.frombytes("P", image.size, image.tobytes()) if header.mode == _INDEXED else image
