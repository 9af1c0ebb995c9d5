"""What a reader's exception means, in words for who has to do something about the file.

"corrupt" and "truncated" are for damage; a sound file that is not read is "unsupported_format" and says for which
feature. Libraries' own words are nowhere in it but where nothing else is known of a feature, in brackets.
"""

from __future__ import annotations

import re
from struct import unpack_from

from PIL import Image

from captionkit.images import tiffs
from captionkit.images.metadata import jpeg_frame
from captionkit.images.structure import cut_short, damaged, ends_early
from captionkit.images.types import ImageError

_OUT_OF_MEMORY = ("out of memory", "insufficient memory")
_SHORT = ("truncated", "not enough", "only got", "unexpected end", "reached eof")
_UNSUPPORTED = (
    *("unsupported", "not supported", "not yet supported", "cannot handle", "not installed", "not implemented"),
    *("unknown pixel mode", "unknown raw mode"),
)

# What is broken, by words (in lower case) of Pillow and of the libraries below it. All else is told by the kind of the
# exception: Pillow raises OSError while it decodes pixels.
_BROKEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("there are no pixels in it", ("cannot load this image", "image not found in gif", "no more images")),
    ("its directory gives no width and height", ("missing dimensions",)),
    ("its directory does not say where its pixels are", ("unknown data organization", "missing data offset")),
    ("its width or height is 0", ("invalid dimensions",)),
    ("a part of its pixels lies outside the image", ("tile cannot extend",)),
    ("its quantization tables are broken", ("quantization table",)),
    (
        "its compressed pixels are broken",
        (
            *("broken data stream", "unrecognized data stream", "buffer overrun", "codec configuration"),
            *("decoder error", "failed to read next frame", "unknown filter category", "decoding of color planes"),
            *("libdeflate", "corrupted strip", "cannot reshape", "failed to read"),
        ),
    ),
)

_JPEG_LS = 0xF7
_HIERARCHICAL = (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_LOSSLESS_ARITHMETIC = 0xCB
_BMP_COMPRESSIONS = {3: "bit fields", 4: "JPEG or RLE24", 5: "PNG", 6: "bit fields with alpha", 11: "CMYK"}


def explain(name: str, data: bytes, error: Exception) -> ImageError:
    """The ImageError that says what a reader's exception means. data: the whole file, empty where it is not known."""
    message = " ".join(str(error).split())[:200] or type(error).__name__
    words = message.lower()
    if isinstance(error, MemoryError) or any(word in words for word in _OUT_OF_MEMORY):
        # Raised for absurd sizes inside a file too, so it is reported of the image and not of the machine.
        return ImageError("too_many_pixels", f"decoding this {name} needs more memory than there is")
    if isinstance(error, Image.DecompressionBombError):
        numbers = re.findall(r"\d+", message)
        return ImageError("too_many_pixels", f"{numbers[0] if numbers else 'too many'} pixels, {_pillows_limit()}")
    if (data and ends_early(name, data)) or any(word in words for word in _SHORT):
        return cut_short(name, data)
    feature = _feature(name, data)
    if feature is None and any(word in words for word in _UNSUPPORTED) and not isinstance(error, TypeError):
        feature = tiffs.described(data) if name == "TIFF" else f"of this kind ({message})"
    if feature is not None:
        return ImageError(
            "unsupported_format", f"{name} {feature} is not read; convert it to a plain PNG or JPEG first"
        )
    for what, fragments in _BROKEN:
        if any(fragment in words for fragment in fragments):
            return damaged(name, what)
    pixels = isinstance(error, OSError) and "not identified" not in words
    return damaged(name, "its compressed pixels are broken" if pixels else "its header is broken")


def _pillows_limit() -> str:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    return f"Pillow's limit is {limit} (twice PIL.Image.MAX_IMAGE_PIXELS, which --max-megapixels sets)"


def _feature(name: str, data: bytes) -> str | None:
    """What this file has that no reader here knows, in words that follow the format's name; None where that is nothing.

    Asked after the reader has failed only.
    """
    if name == "JPEG":
        return _of_jpeg(*jpeg_frame(data))
    if name in ("BMP", "DIB"):
        return _of_bitmap(data[14:] if name == "BMP" else data)
    if name == "TIFF":
        return tiffs.unread_compression(data)
    if name == "SGI" and len(data) >= 12:
        dimensions, channels = unpack_from(">HxxxxH", data, 4)
        if dimensions not in (1, 2, 3) or channels not in (1, 3, 4):
            return f"with {channels} channels in {dimensions} dimensions"
    return None


def _of_jpeg(kind: int, bits: int, channels: int) -> str | None:
    if kind == _JPEG_LS:
        return "of the kind JPEG-LS"
    if kind in _HIERARCHICAL:
        return "of the hierarchical kind"
    if kind == _LOSSLESS_ARITHMETIC:
        return "of the lossless kind with arithmetic coding"
    if bits not in (0, 8):
        return f"of {bits} bits a sample"
    return f"with {channels} channels" if channels not in (0, 1, 3, 4) else None


def _of_bitmap(header: bytes) -> str | None:
    if len(header) < 20:
        return None
    if int.from_bytes(header[:4], "little") == 12:
        depth, compression = unpack_from("<H", header, 10)[0], 0
    else:
        depth, compression = unpack_from("<HI", header, 14)
    if depth not in (1, 4, 8, 16, 24, 32):
        return f"with {depth} bits a pixel"
    if compression > 2:
        kind = _BMP_COMPRESSIONS.get(compression, f"number {compression}")
        return f"with {depth} bits a pixel and the compression {kind}"
    return None
