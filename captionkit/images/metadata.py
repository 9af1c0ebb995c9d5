"""The same image without the metadata that no pixel needs: for a second try, where the first stumbled."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

# What the pixels depend on, and the orientation.
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


_FRAMES = (0xF7, *(marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)))


def without_metadata(name: str, data: bytes) -> bytes | None:
    """A smaller file of the same pixels; None where there is nothing to leave out."""
    if name == "PNG":
        kept = b"".join(_png_kept(data))
    elif name == "JPEG":
        kept = _jpeg_kept(data)
    else:
        return None
    return kept if len(kept) < len(data) else None


def _png_kept(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    yield view[:8]
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        sound = kind == b"eXIf" and zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if kind in _PNG_KEPT or sound:
            yield view[at:end]
        at = end
    yield view[at:]  # a chunk that is cut short stays so


def _jpeg_kept(data: bytes) -> bytes:
    """Without application segments but EXIF's, XMP's and Adobe's, which say how it lies and what its colours are."""
    kept, at = [data[:2]], 2
    for marker, start, end in jpeg_segments(data):
        adobe = marker == 0xEE and end - start >= 16
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker == 0xE1 or adobe:
            kept.append(data[start:end])
        at = end
    return b"".join([*kept, data[at:]])


def jpeg_segments(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xDA, 0xD9) or end <= at + 3:
            return
        yield marker, at, end
        at = end


def jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """(marker, bits a sample, channels) of the frame; zeros where there is none.

    Markers: 0xC0 baseline, 0xC2 progressive, 0xC3 lossless, 0xF7 JPEG-LS …
    """
    for marker, start, end in jpeg_segments(data):
        if marker in _FRAMES and end - start >= 10 and len(data) >= start + 10:
            return marker, data[start + 4], data[start + 9]
    return 0, 0, 0
