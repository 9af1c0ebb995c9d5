"""What kind of file these bytes are, by their signature.

Decides what is handed to a decoder at all: formats whose decoders are fit to run on strangers' files, each opened by
its own, with no trial and error and no Ghostscript.
"""

from __future__ import annotations

import re
from struct import unpack_from

from captionkit.images.types import ImageError
from captionkit.lfs import LFS_POINTER, is_lfs_pointer

RAW = "raw photo"
"""A camera's raw whose first bytes tell it; those that are TIFFs `captionkit.images.raws` tells."""

READABLE: tuple[str, ...] = (
    *("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "JPEG 2000", "AVIF", "Netpbm"),
    *("SGI", "PCX", "DIB", "TGA"),
    *("HEIF", "JPEG XL", "Photoshop", "SVG", "DICOM", "PDF", RAW),
)

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\x01\xda\x00\x01", "SGI"),
    (b"\x01\xda\x01\x01", "SGI"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    *((start, RAW) for start in (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\x00")),
    *((start, RAW) for start in (b"II\x1a\0\0\0HEAPCCDR", b"FOVb", b"\x00MRM")),
)

_UNREADABLE: tuple[tuple[bytes, str], ...] = (
    (b"gimp xcf", "GIMP"),
    (b"%!PS-Adobe", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"\x8bJNG\r\n\x1a\n", "JNG"),
    (b"qoif", "QOI"),
    (b"DDS ", "DirectDraw surface"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"AT&TFORM", "DjVu"),
    (b"icns", "Apple icon"),
    (b"BPG\xfb", "BPG"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"/* XPM */", "XPM"),
    (b"P7\n", "Netpbm PAM"),
    (b"PF\n", "Netpbm PFM"),
    (b"Pf\n", "Netpbm PFM"),
    (b"\xb1\x68\xde\x3a", "DCX"),
    (b"SDPX", "DPX"),
    (b"XPDS", "DPX"),
    (b"\x80\x2a\x5f\xd7", "Cineon"),
    (b"id=ImageMagick", "MIFF"),
)

_BRANDS: dict[bytes, str] = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"crx ": RAW,
    b"jxl ": "JPEG XL",
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"), "HEIF"),
    b"mif1": "HEIF",
    b"msf1": "HEIF",
}

_DIB_DEPTHS = (1, 4, 8, 16, 24, 32)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)

_DOCUMENTS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive or an Office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"RIFF", "a RIFF sound or film"),
    (b"\x1aE\xdf\xa3", "a Matroska film"),
    (b"ID3", "an MP3 sound"),
)


def identify(data: bytes) -> str:
    """The format of these bytes, one of `READABLE`.

    Raises ImageError: "unsupported_format" for what is an image but not one that captionkit reads,
    "not_an_image" for everything else.
    """
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            if name == "TIFF" and data[8:10] == b"CR":
                return RAW
            if name == "PNG" and data[12:16] == b"CgBI":
                raise _unsupported("Apple's PNG for iPhone programs (CgBI)")
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _identify_brand(data)
    if data[:2] == b"BM" and data[15:18] == b"\0\0\0" and data[14] in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[456]\s", data):
        return "Netpbm"
    if re.match(rb"P[123]\s+(#.*\s+)*\d+\s+\d", data):
        raise _unsupported("plain-text Netpbm")
    for signature, name in _UNREADABLE:
        if data.startswith(signature):
            raise _unsupported(name)
    if data[:4] == b"\0\0\1\0" and data[4:6] > b"\0\0" and data[9:10] == b"\0":
        raise _unsupported("Windows icon")
    if data[:4] == b"\0\0\2\0" and data[4:6] > b"\0\0" and data[9:10] == b"\0" and not _is_tga(data):
        raise _unsupported("Windows cursor")
    if data[128:132] == b"DICM":
        return "DICOM"
    text = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if re.match(rb"(<\?xml|<!doctype svg|<!--|<svg)", text) and b"<svg" in text and b"<html" not in text:
        return "SVG"
    if re.match(rb"#define\s+\w+_width\s", data):
        raise _unsupported("XBM")
    if _is_pcx(data):
        return "PCX"
    if data[:4] == b"\x28\0\0\0" and data[12:14] == b"\1\0" and data[15:16] == b"\0" and data[14] in _DIB_DEPTHS:
        return "DIB"
    if _is_tga(data):
        return "TGA"
    raise ImageError("not_an_image", f"not an image: {_describe(data, text)}")


def _is_pcx(data: bytes) -> bool:
    if len(data) < 128 or data[0] != 10 or data[1] not in (0, 2, 3, 5) or data[2] != 1 or data[3] not in (1, 2, 4, 8):
        return False
    left, top, right, bottom = unpack_from("<4H", data, 4)
    return bool(left <= right and top <= bottom and data[64] == 0 and 1 <= data[65] <= 4)


def _is_tga(data: bytes) -> bool:
    """By its header, which has no signature: every field must be possible."""
    if len(data) < 18:
        return False
    has_colours, kind, first, colours, colour_bits = unpack_from("<BBHHB", data, 1)
    width, height, depth, flags = unpack_from("<HHBB", data, 12)
    if not width or not height or flags & 0xC0:
        return False
    if kind in (1, 9):
        return bool(has_colours == 1 and colours and colour_bits in (15, 16, 24, 32) and depth == 8)
    depths = {2: (15, 16, 24, 32), 10: (15, 16, 24, 32), 3: (1, 8, 16), 11: (8, 16)}.get(kind, ())
    return has_colours == 0 and first == colours == colour_bits == 0 and depth in depths


def _identify_brand(data: bytes) -> str:
    """The format of an ISO base media file (AVIF, HEIC, films), by the brands in its first box."""
    end = min(int.from_bytes(data[:4], "big"), 4096)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]
    names = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if not names:
        raise ImageError("not_an_image", "not an image: an MP4 or QuickTime film")
    return "AVIF" if "AVIF" in names else names[0]


def _unsupported(name: str) -> ImageError:
    return ImageError("unsupported_format", f"{name} is not a format captionkit reads; convert it to JPEG or PNG first")


def _describe(data: bytes, text: bytes) -> str:
    for signature, name in _DOCUMENTS:
        if data.startswith(signature):
            return f"it is {name}"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "it is an HTML page, perhaps an error page saved under an image's name"
    if text.startswith(b"<"):
        return "it is an XML or HTML text, perhaps an error message saved under an image's name"
    if not data.strip(b"\0"):
        return f"all {len(data)} bytes are zero"
    if text.startswith((b"{", b"[")):
        return "it looks like JSON"
    if is_lfs_pointer(data):
        return f"it is {LFS_POINTER}"
    if re.fullmatch(rb"[\t\n\r\x20-\x7e]{4,}", data[:512]):
        return "it is a text"
    return f"its first bytes ({data[:8].hex(' ')}) are no image format's"


def webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from a WebP header; None where it is not understood.

    Needed because the decoder claims memory for the whole canvas as soon as it is made.
    https://developers.google.com/speed/webp/docs/riff_container
    """
    if len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
