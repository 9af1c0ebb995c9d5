"""XMP packets: a caption put among what is there, every other byte left as it is.

A packet is not parsed into a tree and written anew, which would change prefixes, order and white space, and lose what
the tree does not know. expat tells where things are; new fields go into a block of their own before the end of
`rdf:RDF`, and only a field that is to be replaced is cut out. XMP is ISO 16684-1; the fields are IPTC Photo Metadata
2021.1's and Photoshop's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from captionkit._version import __version__
from captionkit.export.rows import shortened
from captionkit.schema import BROUGHT

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
DESCRIPTION, ALT, EXTENDED, WRITER = (
    f"{DC} description",
    f"{IPTC} AltTextAccessibility",
    f"{IPTC} ExtDescrAccessibility",
    f"{PHOTOSHOP} CaptionWriter",
)
PREFIXES = {DC: "dc", IPTC: "Iptc4xmpCore", PHOTOSHOP: "photoshop"}
ALT_LENGTH = 250
"""Characters that an alternative text should not exceed (IPTC Photo Metadata Standard 2021.1)."""
_OURS = frozenset((DESCRIPTION, ALT, EXTENDED, WRITER))
MAX_BYTES = 4 * 2**20
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="captionkit {__version__}">
 <rdf:RDF xmlns:rdf="{RDF}">
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()


class XmpError(ValueError):
    """A packet that is none, or that cannot be changed safely."""


@dataclass(frozen=True)
class Merged:
    """A packet with a caption in it."""

    packet: bytes
    written: tuple[str, ...]
    """Fields that were written, by their usual names; none where the packet is as it was."""
    kept: tuple[str, ...]
    """Fields that held another text and were left alone."""


def fields_of(caption: str, model: str) -> dict[str, str]:
    """What is to be said of an image: the caption as description and alternative text, and who wrote it.

    A caption that is too long for an alternative text is cut there, and stands whole as extended description. One that
    the image brought with it bears no mark that a machine wrote it.
    """
    text = _ILLEGAL.sub(" ", caption).strip()
    fields = {DESCRIPTION: text, ALT: shortened(text, ALT_LENGTH), WRITER: f"captionkit {model}"}
    if model.partition(",")[0] == BROUGHT:  # somebody else's, whoever that was
        del fields[WRITER]
    if len(text) > ALT_LENGTH:
        fields[EXTENDED] = text
    return fields


def merge(packet: bytes | None, fields: dict[str, str], overwrite: bool = False) -> Merged:
    """Put fields into a packet, or into a new one.

    A field that holds text is kept unless `overwrite`. The writer goes with the description: where the one is kept the
    other is, so that nobody is named as the writer of what he did not write.

    Raises:
        XmpError: the packet cannot be read, or has a form that is not changed here.
    """
    data = _EMPTY if packet is None else packet
    scan = _Scan(data)
    wanted = dict(fields)
    present = {name: texts for name in wanted if (texts := scan.texts(name))}
    kept = [] if overwrite else [name for name in present if name != WRITER and present[name] != [wanted[name]]]
    writers = scan.texts(WRITER)
    if not overwrite and writers and writers != [wanted.get(WRITER)] and DESCRIPTION not in present:
        kept.append(DESCRIPTION)
    if DESCRIPTION in kept or (not overwrite and DESCRIPTION in present):
        wanted.pop(WRITER, None)
    new = {name: text for name, text in wanted.items() if name not in kept and present.get(name) != [text]}
    if not new:
        return Merged(data, (), tuple(map(_usual, kept)))
    spans = [(place.start, place.end, b"") for name in new for place in scan.places.get(name, ())]
    if writers and WRITER not in fields and DESCRIPTION in new:  # the earlier description's, which goes
        spans += [(place.start, place.end, b"") for place in scan.places[WRITER]]
    block = _block(new, scan.about)
    if scan.closed_at_once:  # <rdf:RDF …/>
        start, end = scan.insert, scan.insert + 2
        spans.append((start, end, b">" + block + b"</" + scan.rdf_tag + b">"))
    else:
        spans.append((scan.insert, scan.insert, block))
    merged = _spliced(data, spans)
    _Scan(merged)
    return Merged(merged, tuple(map(_usual, new)), tuple(map(_usual, kept)))


def texts_in(packet: bytes, name: str) -> list[str]:
    """What a field of a packet holds, blanks left out.

    Raises:
        XmpError: it cannot be read.
    """
    return _Scan(packet).texts(name)


def _usual(name: str) -> str:
    uri, _, local = name.partition(" ")
    return f"{PREFIXES[uri]}:{local}"


def _block(fields: dict[str, str], about: str) -> bytes:
    spaces = dict.fromkeys(name.partition(" ")[0] for name in fields)
    lines = [f' <rdf:Description xmlns:rdf="{RDF}" rdf:about={quoteattr(about)}']
    lines += [f'   xmlns:{PREFIXES[uri]}="{uri}"' for uri in spaces]
    lines[-1] += ">"
    for name, text in fields.items():
        tag, value = _usual(name), escape(text)
        if name != WRITER:
            value = f'<rdf:Alt><rdf:li xml:lang="x-default">{value}</rdf:li></rdf:Alt>'
        lines.append(f"  <{tag}>{value}</{tag}>")
    return ("\n".join([*lines, " </rdf:Description>"]) + "\n ").encode()


def _spliced(data: bytes, spans: list[tuple[int, int, bytes]]) -> bytes:
    out, at = [], 0
    for start, end, text in sorted(spans):
        out += [data[at:start], text]
        at = end
    return b"".join([*out, data[at:]])


@dataclass
class _Place:
    """Where a field stands: an element, or an attribute with the white space before it."""

    start: int
    end: int
    texts: list[str] = field(default_factory=list)


class _Scan:
    """Where the fields of a packet are, in bytes."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            raise XmpError(f"{len(data):,} bytes are more than any packet has")
        self._data = data
        self.places: dict[str, list[_Place]] = {}
        self.about = ""
        self.insert = -1
        self.closed_at_once = False
        self.rdf_tag = b""
        self._path: list[str] = []
        self._starts: list[int] = []
        self._open: _Place | None = None
        self._text: list[str] = []
        self._abouts = 0
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._doctype
        self._parser = parser
        if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0")) or data[1:2] == b"\0":
            raise XmpError("it is not in UTF-8")
        try:
            parser.Parse(data, True)
        except expat.ExpatError as err:
            raise XmpError(f"it is not well-formed XML: {err}") from err
        if self.insert < 0:
            raise XmpError("there is no rdf:RDF in it")

    def texts(self, name: str) -> list[str]:
        return [text for place in self.places.get(name, ()) for text in place.texts if text.strip()]

    def _declaration(self, _: str, encoding: str | None, __: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii", "ascii"):
            raise XmpError(f"it is in {encoding}, not in UTF-8")

    def _doctype(self, *_: Any) -> None:
        raise XmpError("it has a document type, which no XMP has")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        at = self._parser.CurrentByteIndex
        self._path.append(name)
        self._starts.append(at)
        if name == f"{RDF} RDF":
            if self.insert >= 0 or self.rdf_tag:
                raise XmpError("there is more than one rdf:RDF in it")
            tag = re.match(rb"<([^\s/>]+)", self._data[at:])
            self.rdf_tag = tag[1] if tag else b""
        elif self._within(1) and name == f"{RDF} Description":
            about = attributes.get(f"{RDF} about", attributes.get("about", ""))
            if not self._abouts:
                self.about = about
            self._abouts += 1
            for attribute, value in attributes.items():
                if attribute in _OURS:
                    start, end = self._attribute(at, attribute.partition(" ")[2])
                    self.places.setdefault(attribute, []).append(_Place(start, end, [value]))
        elif name in _OURS and self._within(2):
            self._open = _Place(at, at)
            self.places.setdefault(name, []).append(self._open)
        self._text = []

    def _within(self, levels: int) -> bool:
        """Whether the innermost element lies this many levels below rdf:RDF."""
        return len(self._path) > levels and self._path[-1 - levels] == f"{RDF} RDF"

    def _characters(self, text: str) -> None:
        self._text.append(text)

    def _end(self, name: str) -> None:
        at = self._parser.CurrentByteIndex
        if self._open is not None and (text := "".join(self._text)).strip():
            self._open.texts.append(text)
        self._text = []
        start = self._starts.pop()
        ours = self._open is not None and self._within(2)
        if ours or name == f"{RDF} RDF":
            # Of an element that is closed at once, expat says that its end tag begins where its only tag ends.
            behind = self._tag_end(start)
            at_once = self._data[behind - 2 : behind] == b"/>"
            if self._open is not None and ours:
                self._open.end = behind if at_once else self._tag_end(at)
                self._open = None
            else:
                self.closed_at_once = at_once
                self.insert = behind - 2 if at_once else at
        self._path.pop()

    def _tag_end(self, at: int) -> int:
        """Behind the `>` of the tag that begins here."""
        match = re.compile(rb"""<(?:[^"'>]|"[^"]*"|'[^']*')*>""").match(self._data, at)
        if match is None:
            raise XmpError("a tag without an end")
        return match.end()

    def _attribute(self, at: int, local: str) -> tuple[int, int]:
        """Where an attribute of this local name stands in the tag that begins here, the white space before it too."""
        tag = self._data[at : self._tag_end(at)]
        matches = list(re.finditer(rb"""\s+(?:[^\s"'=]+:)?%s\s*=\s*(?:"[^"]*"|'[^']*')""" % local.encode(), tag))
        if len(matches) != 1:
            raise XmpError(f"cannot tell which attribute is {local}")
        return at + matches[0].start(), at + matches[0].end()
