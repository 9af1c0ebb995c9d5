"""Captions inside JPEG files: XMP, and EXIF's ImageDescription. Pixels and all other metadata stay byte for byte.

A JPEG file is a list of segments before its compressed pixels. Two of them change here: the XMP packet, as
`captionkit.export.xmp` merges it, and the EXIF block, which gets a copy of its first directory, with one entry more, at
its end. Nothing within the block moves, so what makers' notes point at stays where it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from captionkit.export import xmp

EXIF, XMP, PHOTOSHOP, MPF = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0", b"MPF\0"
APP0, APP1, APP2, APP13, SOS = 0xE0, 0xE1, 0xE2, 0xED, 0xDA
_SEGMENT_BYTES = 0xFFFF - 2
_IMAGE_DESCRIPTION = 0x010E
_ASCII = 2
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_IPTC_RESOURCE = 0x0404
_IPTC_CAPTION = b"\x1c\x02\x78"


class EmbedError(ValueError):
    """A file that a caption cannot be put into safely."""


@dataclass(frozen=True)
class Embedded:
    """A file with a caption in it."""

    data: bytes
    written: tuple[str, ...]
    kept: tuple[str, ...]


class _Segment(NamedTuple):
    marker: int
    start: int
    """Of its 0xFF."""
    end: int


def embed(data: bytes, fields: dict[str, str], overwrite: bool = False) -> Embedded:
    """A JPEG file with these fields (see `xmp.fields_of`) in its XMP, and the description in its EXIF.

    Where EXIF or IPTC's caption describes the image already, it counts as described.

    Raises:
        EmbedError: it is no JPEG file, or one that cannot be changed safely.
        XmpError: its XMP cannot be read.
    """
    segments = list(_segments(data))
    if any(one.marker == APP2 and _body(data, one).startswith(MPF) for one in segments):
        raise EmbedError("it holds several pictures, which it finds by their places (MPF)")
    exif = _only(data, segments, EXIF)
    packet = _only(data, segments, XMP)
    block = _body(data, exif)[len(EXIF) :] if exif else None
    described = _Exif(block).description if block is not None else ""
    iptc = _has_iptc_caption(data, segments)
    if iptc and overwrite:
        raise EmbedError("it has a caption in IPTC's older form, which is not changed here")
    wanted = dict(fields)
    blocked = [] if overwrite or described == fields[xmp.DESCRIPTION] else ["EXIF ImageDescription"] * bool(described)
    blocked += ["IPTC Caption-Abstract"] * iptc
    if blocked:
        del wanted[xmp.DESCRIPTION]
        wanted.pop(xmp.WRITER, None)
    merged = xmp.merge(_body(data, packet)[len(XMP) :] if packet else None, wanted, overwrite)
    written = list(merged.written)
    changes: list[tuple[int, int, bytes]] = []
    behind = _behind_head(segments)
    writes_exif = not blocked and "dc:description" not in merged.kept and described != fields[xmp.DESCRIPTION]
    if writes_exif:
        text = fields[xmp.DESCRIPTION].encode() + b"\0"
        new = _Exif(block).with_description(text) if block is not None else _new_exif(text)
        at = (exif.start, exif.end) if exif else (behind, behind)
        changes.append((*at, _segment(EXIF + new, "EXIF")))
        written.append("EXIF ImageDescription")
    if merged.written:
        at = (packet.start, packet.end) if packet else ((exif.end, exif.end) if exif else (behind, behind))
        changes.append((*at, _segment(XMP + merged.packet, "XMP")))
    out, at_byte = [], 0
    for start, end, piece in sorted(changes, key=lambda change: change[:2]):  # EXIF goes before XMP: sorting is stable
        out += [data[at_byte:start], piece]
        at_byte = end
    return Embedded(b"".join([*out, data[at_byte:]]), tuple(written), (*blocked, *merged.kept))


def _segments(data: bytes) -> list[_Segment]:
    """What stands before the pixels.

    Raises:
        EmbedError: it is no JPEG file, or ends early.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        raise EmbedError("it is no JPEG file")
    parsed: list[_Segment] = []
    at = 2
    while True:
        start = at
        while data[at + 1 : at + 2] == b"\xff":  # any number of these may fill up
            at += 1
        if data[at : at + 1] != b"\xff" or at + 4 > len(data):
            raise EmbedError("its segments are damaged")
        marker = data[at + 1]
        if marker == SOS:
            return parsed
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end < at + 4 or end > len(data):
            raise EmbedError("its segments are damaged")
        parsed.append(_Segment(marker, start, end))
        at = end


def _body(data: bytes, segment: _Segment) -> bytes:
    segment_data = data[segment.start : segment.end].lstrip(b"\xff")
    return segment_data[3:]


def _only(data: bytes, segments: list[_Segment], head: bytes) -> _Segment | None:
    matching = [one for one in segments if one.marker == APP1 and _body(data, one).startswith(head)]
    if len(matching) > 1:
        raise EmbedError("it has two blocks of the same metadata")
    return matching[0] if matching else None


def _behind_head(segments: list[_Segment]) -> int:
    """Where metadata may begin: behind the first segment if it is JFIF's, which must be the first."""
    first = segments[0] if segments else None
    return first.end if first is not None and first.marker == APP0 else 2


def _segment(body: bytes, what: str) -> bytes:
    if len(body) > _SEGMENT_BYTES:
        raise EmbedError(f"its {what} would be longer than a segment can be")
    return b"\xff" + bytes([APP1]) + (len(body) + 2).to_bytes(2, "big") + body


def _has_iptc_caption(data: bytes, segments: list[_Segment]) -> bool:
    """Whether Photoshop's block holds IPTC-IIM with a caption."""
    for one in segments:
        body = _body(data, one)
        if one.marker == APP13 and body.startswith(PHOTOSHOP) and _IPTC_RESOURCE.to_bytes(2, "big") in body:
            at = body.find(_IPTC_CAPTION)
            if at >= 0 and body[at + 5 : at + 5 + int.from_bytes(body[at + 3 : at + 5], "big")].strip(b" \0"):
                return True
    return False


def _new_exif(text: bytes) -> bytes:
    """A block with ImageDescription alone, at least 5 bytes of text, so that it stands behind the directory."""
    text = text.ljust(5, b"\0")
    return struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, _IMAGE_DESCRIPTION, _ASCII, len(text), 26, 0) + text


class _Exif:
    """The first directory of an EXIF block (TIFF 6.0, section 2).

    Raises (from the constructor):
        EmbedError: it cannot be read.
    """

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._order = {b"II": "<", b"MM": ">"}.get(block[:2], "")
        try:
            if not self._order:
                raise EmbedError("its EXIF is damaged")
            magic, self._at = struct.unpack_from(f"{self._order}HI", block, 2)
            (count,) = struct.unpack_from(f"{self._order}H", block, self._at)
            self._entries = [block[self._at + 2 + 12 * n : self._at + 14 + 12 * n] for n in range(count)]
            (self._next,) = struct.unpack_from(f"{self._order}I", block, self._at + 2 + 12 * count)
            if magic != 42:
                raise EmbedError("its EXIF is damaged")
            self.description = self._description()
        except struct.error as err:
            raise EmbedError("its EXIF is damaged") from err

    def _tag(self, entry: bytes) -> int:
        return int(struct.unpack_from(f"{self._order}H", entry)[0])

    def _description(self) -> str:
        """What the block says of the image; "" where it says nothing."""
        for entry in self._entries:
            tag, kind, count, at = struct.unpack(f"{self._order}HHII", entry)
            if tag == _IMAGE_DESCRIPTION:
                size = count * _TYPE_BYTES.get(kind, 1)
                value = entry[8 : 8 + size] if size <= 4 else self._block[at : at + size]
                return value.rstrip(b"\0 ").decode("utf-8", "replace").strip()
        return ""

    def with_description(self, text: bytes) -> bytes:
        """The block with a description: its directory anew at its end, all else where it is."""
        text = text.ljust(5, b"\0")
        start = self._block + b"\0" * (len(self._block) % 2)
        entries = [entry for entry in self._entries if self._tag(entry) != _IMAGE_DESCRIPTION]
        place = len(start) + 2 + 12 * (len(entries) + 1) + 4
        entries.append(struct.pack(f"{self._order}HHII", _IMAGE_DESCRIPTION, _ASCII, len(text), place))
        entries.sort(key=self._tag)
        directory = struct.pack(f"{self._order}H", len(entries)) + b"".join(entries)
        directory += struct.pack(f"{self._order}I", self._next)
        head = start[:4] + struct.pack(f"{self._order}I", len(start))
        return head + start[8:] + directory + text
