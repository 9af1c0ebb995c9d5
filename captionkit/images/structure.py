"""Whether a file is as long and as whole as its own structure says. No pixel is decoded here.

A image that is half grey would get a caption and nobody would ever know; so what the decoders overlook is
looked for before they start, and what they stumble over is told apart afterwards into short and damaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import error as StructError
from struct import unpack_from

from captionkit.images.types import ImageError

# What reading past the end of the bytes raises; offsets of 64 bits may not even fit.
_OUT_OF_BOUNDS = (StructError, IndexError, OverflowError)

# Bytes per value of each TIFF field type; 1 for those not named.
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


# What pixels depend on; any other value may lie beyond the end of the file.
_TIFF_LAYOUT = frozenset(
    (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347)
)
_ZEROS = bytes(64)
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")


def cut_short(name: str, data: bytes) -> ImageError:
    """The "truncated" error of such a file; data: empty where its length is not known."""
    after = f" after {len(data)} bytes" if data else ""
    return ImageError("truncated", f"the {name} is cut short{after}; fetch or copy it again")


def damaged(name: str, what: str) -> ImageError:
    """The "corrupt" error of such a file. what: a sentence about what is broken."""
    return ImageError("corrupt", f"the {name} is damaged: {what}; fetch or copy it again")


def check_structure(name: str, data: bytes) -> None:
    """Finds damage that the decoders overlook. Raises ImageError "truncated" or "corrupt".

    - A PNG decoder skips the checksums of its image data.
    - libjpeg, libwebp, AVIF's decoders and libtiff (PackBits, JPEG) take the zeros of a preallocated download that
      never finished for flat pixels; libjpeg inside libtiff completes whatever is missing with grey.
    - libwebp may show what came of an animation.
    - libtiff writes what it thinks of a broken directory to the standard error of the process.
    """
    if name == "PNG":
        view = memoryview(data)
        for kind, start, end in _png_chunks(data):
            if kind == b"IDAT" and zlib.crc32(view[start - 4 : end]) != unpack_from(">I", data, end)[0]:
                raise damaged("PNG", f"wrong checksum at byte {start}")
        return
    try:
        short = (
            (name == "JPEG" and data.endswith(_ZEROS) and _jpeg_is_short(data))
            or (name == "WebP" and (ends_early(name, data) or _webp_ends_in_zeros(data)))
            or (name in ("AVIF", "HEIF") and _avif_ends_in_zeros(data))
            or (name == "TIFF" and _tiff_is_short(data, strips=False))
        )
    except _OUT_OF_BOUNDS:
        short = True
    if short:
        raise cut_short(name, data)


def ends_early(name: str, data: bytes) -> bool:
    """Whether the file stops before its own structure does, as far as the format lets one tell."""
    try:
        if name == "PNG":
            *_, (kind, _, end) = [(b"", 0, 0), *_png_chunks(data)]
            return not (kind == b"IEND" and end + 4 <= len(data))
        if name == "JPEG":
            return _jpeg_is_short(data)
        if name == "WebP":
            return 8 + int.from_bytes(data[4:8], "little") > len(data)
        if name == "GIF":
            return _gif_is_short(data)
        if name == "BMP":
            return len(data) < 26 or unpack_from("<I", data, 2)[0] > len(data)
        if name == "TIFF":
            return _tiff_is_short(data, strips=True)
        if name == "JPEG 2000":
            return b"\xff\xd9" not in data[-64:]
        if name in ("AVIF", "HEIF"):
            return _boxes_are_short(data)
    except _OUT_OF_BOUNDS:
        return True  # the structure itself is cut
    return False


def _png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk's body whose checksum still lies in the file."""
    chunks = []
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        chunks.append((data[at + 4 : at + 8], at + 8, end))
        if chunks[-1][0] == b"IEND":
            break
        at = end + 4
    return chunks


def _jpeg_is_short(data: bytes) -> bool:
    """Whether no end marker follows the start of the scan (thumbnails' own end markers lie before it).

    Raises IndexError or struct.error where the file ends in the middle of a marker.
    """
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        marker = data[at + 1]
        if marker == 0xDA:
            return data.rfind(b"\xff\xd9", at) < 0
        if marker == 0xD9:
            return False  # whole, and without any pixels
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1  # padding, or a marker without a body
        else:
            at += 2 + max(2, unpack_from(">H", data, at + 2)[0])
    return True


def _gif_is_short(data: bytes) -> bool:
    """Whether the first image's blocks run past the end of the file. Raises IndexError likewise."""
    at = 13 + _gif_palette(data[10])
    while data[at] == 0x21:
        at = _gif_skip_blocks(data, at + 2)
    if data[at] != 0x2C:
        return False
    at = _gif_skip_blocks(data, at + 11 + _gif_palette(data[at + 9]))
    return at > len(data)


def _gif_palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_skip_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1


def _tiff_is_short(data: bytes, strips: bool) -> bool:
    """Whether the first directory, or pixels it names, lie beyond the end of the file. Raises struct.error.

    Without `strips` pixels count in compressed files only: many a sound uncompressed file names too many.
    """
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (at,) = unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    width, inline = (20, 8) if big else (12, 4)
    values: dict[int, list[int]] = {}
    for entry in range(at, at + count * width, width):
        tag, kind, length = unpack_from(order + ("HHQ" if big else "HHI"), data, entry)
        unpack_from("B", data, entry + width - 1)
        if tag not in _TIFF_LAYOUT:
            continue  # no pixel needs it
        where = entry + width - inline
        if length * _TIFF_SIZES.get(kind, 1) > inline:
            (where,) = unpack_from(order + ("Q" if big else "I"), data, where)
        if where + length * _TIFF_SIZES.get(kind, 1) > len(data):
            return True
        if tag in (259, 273, 279, 324, 325) and kind in (3, 4, 16):
            values[tag] = list(unpack_from(f"{order}{length}{ {3: 'H', 4: 'I', 16: 'Q'}[kind] }", data, where))
    if not strips and values.get(259, [1]) == [1]:
        return False
    starts = values.get(273) or values.get(324) or []
    lengths = values.get(279) or values.get(325) or []
    pieces = list(zip(starts, lengths, strict=False))
    if any(start + length > len(data) for start, length in pieces):
        return True
    # 192: more zeros than one literal run of PackBits holds.
    start, length = max(pieces, default=(0, 0))
    return values.get(259) in ([7], [32773]) and length > 192 and data.endswith(bytes(192), start, start + length)


def _webp_ends_in_zeros(data: bytes) -> bool:
    """Whether a chunk of pixels ends in zeros, which no entropy coder writes so many of."""
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        kind = data[at : at + 4]
        stop = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == bytes(4) or (kind in _WEBP_PIXELS and stop - at > 72 and data.endswith(_ZEROS, at + 8, stop)):
            return True
        at = stop + stop % 2
    return False


def _avif_ends_in_zeros(data: bytes) -> bool:
    """Whether the box of pixels ends in zeros; more of them than padding after metadata that may lie there too."""
    for kind, start, end in boxes(data):
        if kind == b"mdat":
            return end - start > 512 and data.endswith(bytes(512), start, end)
    return False


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start and end of its body) of each top-level box of an ISO base media file, up to one that is damaged."""
    at = 0
    while at + 8 <= len(data):
        length, head = int.from_bytes(data[at : at + 4], "big") or len(data) - at, 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if length < head:
            return
        yield data[at + 4 : at + 8], at + head, at + length
        at += length


def _boxes_are_short(data: bytes) -> bool:
    """Whether a top-level box of an ISO base media file runs past the end."""
    at = 0
    while at < len(data):
        (length,) = unpack_from(">I", data, at)
        if length == 0:
            return False  # up to the end of the file, by definition
        if length == 1:
            (length,) = unpack_from(">Q", data, at + 8)
        if length < 8:
            return False
        at += length
    return at > len(data)
