"""The one reader of tables and lists: packed or not, in UTF-8 or UTF-16, as CSV, JSON, JSON lines or plain lines.

What a file is, its content says:

1. Packing by the first bytes: gzip, bzip2, xz, zstd, or a zip with a single file in it.
2. Encoding by the byte order mark; without one, UTF-16 where every other byte is zero, else UTF-8. What is no text in
   that encoding becomes U+FFFD.
3. Kind by the first lines (see `kind_of`).

Rows are read as they come, in memory that does not grow with the file.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import posixpath
import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import ijson  # type: ignore[import-untyped]

from captionkit.errors import UsageError
from captionkit.lfs import LFS_POINTER, is_lfs_pointer
from captionkit.storage import Storage, public_uri
from captionkit.storage.archives import ARCHIVE_ERRORS, begin, uncompressed

DELIMITERS = (",", "\t", ";", "|")
ADDRESS_COLUMNS = (
    "uri",
    "url",
    "image_url",
    "image_uri",
    "image_path",
    "filepath",
    "file_path",
    "path",
    "file_name",
    "filename",
    "image_name",
    "file",
    "image",
)
"""Usual names of a column of addresses, the clearest first."""
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".psv")
LIST_SUFFIXES = (".txt", ".lst", ".list", ".json", ".jsonl", ".ndjson", *TABLE_SUFFIXES)
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
MAX_LINE = 1 << 24
"""Longer lines (16 Mi characters) come in pieces, so that a file without line ends does not fill memory."""
MAX_ROW_LINES = 100
"""A quoted field over more lines than this is taken for a quote that was never closed."""
HEAD = 1 << 16
"""Bytes, unpacked, by which a file is told."""

ARRAY = re.compile(r'\s*\[\s*(?:[{"\]]|$)')
"""How a JSON array begins that can be a table or list; not how `[2014]/cat.jpg` does."""


Kind = Literal["json", "jsonl", "csv", "lines"]


class TableError(UsageError):
    """A file that cannot be read as a table or list. The message says which, what is wrong and what to do."""


class Text(NamedTuple):
    """A file opened front to back: unpacked, in UTF-8, without its byte order mark."""

    file: BinaryIO
    head: bytes
    """What it begins with; `file` has that still."""
    marked: bool
    """Whether there was a byte order mark."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    line: int
    """Where it begins, from 1; of a JSON array its place there."""
    fields: list[str]
    lines: int = 1
    """Lines that it spans."""
    open_quote: bool = False
    """Whether it has a quote that is never closed: it is then read without regard to quotes, for itself."""


@contextmanager
def open_text(storage: Storage, uri: str) -> Iterator[Text]:
    """A text file to read front to back, unpacked and decoded.

    Raises:
        StorageError: storage that cannot give it.
        TableError: a broken or unfit archive, or a Git LFS pointer.
    """
    with storage.open(uri) as packed:
        head, packed = begin(packed, 4)
        try:
            with _unpacked(packed, head, uri) as file:
                first = file.peek(HEAD)[:HEAD] or file.peek(1)
                if is_lfs_pointer(first):
                    raise TableError(f"{public_uri(uri)} is {LFS_POINTER}")
                encoding, mark = encoding_of(first)
                file.read(mark)
                if encoding == "utf-8":
                    yield Text(cast("BinaryIO", file), first[mark:], mark > 0)
                    return
                with io.BufferedReader(_Recoded(cast("BinaryIO", file), encoding), HEAD) as recoded:
                    yield Text(cast("BinaryIO", recoded), recoded.peek(HEAD), mark > 0)
        except ARCHIVE_ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise TableError(f"{public_uri(uri)}: the archive is broken: {error or 'it ends too early'}") from error


def encoding_of(head: bytes) -> tuple[str, int]:
    """A text's encoding by what it begins with, and the length of its byte order mark."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if head.startswith(mark):
            return name, len(mark)
    sample = head[:64]
    if len(sample) >= 4:  # ASCII letters in UTF-16: every other byte is zero, and none of the rest
        if not any(sample[1::2]) and all(sample[::2]):
            return "utf-16-le", 0
        if not any(sample[::2]) and all(sample[1::2]):
            return "utf-16-be", 0
    return "utf-8", 0


def decode_text(data: bytes) -> tuple[str, bool]:
    """A whole text without its byte order mark, and whether all of it could be read; what could not is �."""
    encoding, mark = encoding_of(data)
    try:
        return data[mark:].decode(encoding), True
    except UnicodeDecodeError:
        return data[mark:].decode(encoding, "replace"), False


def is_text(head: bytes) -> bool:
    """Whether a file that begins so (in UTF-8 by now) is text for reading, and no markup such as SVG."""
    text = head.decode("utf-8", "replace")
    controls = sum(char < " " and char not in "\t\r\n\f" for char in text)
    unknown = text[:-4].count("\ufffd")
    return bool(text.strip()) and not controls and unknown * 10 <= len(text) and not text.lstrip().startswith("<")


def list_suffix(uri: str) -> str:
    """The suffix by which an address names a list, lower case and without that of a packing; "" where it has none."""
    path = uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri
    name, suffix = posixpath.splitext(posixpath.basename(path).lower())
    if suffix in PACKED_SUFFIXES:
        name, suffix = posixpath.splitext(name)
    return suffix if suffix in LIST_SUFFIXES else ""


def kind_of(head: bytes, is_header: Callable[[Sequence[str]], bool], table: bool = False) -> tuple[Kind, str]:
    """What a text is by its first lines, and the delimiter of a CSV.

    - `[` with an object, a string or nothing behind it: a JSON array;
    - a first line with a JSON object: JSON lines; `{` otherwise: JSON;
    - a first line that is a header, parted by one of `DELIMITERS`: CSV;
    - else plain lines.

    Args:
        is_header: whether these names are a header: whether they have the columns that are needed.
        table: the file's name says that it is a table: CSV then, header or not, parted by what its first line has.
    """
    text = head.decode("utf-8", "replace").lstrip()
    if ARRAY.match(text):
        return "json", ""
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    if first.startswith("{"):
        is_complete = len(first) < len(text) or len(head) < HEAD
        return (
            "jsonl" if not is_complete or _is_object(first) or not re.match(r'\{\s*"|\{\s*$', first) else "json"
        ), ""
    delimiter = delimiter_of(first, is_header)
    if delimiter is not None:
        return "csv", delimiter
    if table:
        return "csv", max(DELIMITERS, key=lambda mark: len(split_header(first, mark)))
    return "lines", ""


def delimiter_of(header: str, is_header: Callable[[Sequence[str]], bool]) -> str | None:
    """What parts the columns of this line, if it is a header."""
    return next((mark for mark in DELIMITERS if is_header(split_header(header, mark))), None)


def split_header(header: str, delimiter: str) -> list[str]:
    """The names in a header, without blanks around them."""
    try:
        names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [name.strip() for name in names]


def has_blanks(header: str, delimiter: str) -> bool:
    """Whether a header has blanks behind its delimiters; its rows will have them too."""
    return f"{delimiter} " in header


def address_column(columns: Iterable[str], wanted: str) -> tuple[str | None, list[str]]:
    """The column of addresses as it is spelled in a header, and others that would do as well.

    The one of the wanted name; else, where that is the default, the first of `ADDRESS_COLUMNS` in any case of letters.
    """
    names = list(columns)
    if wanted in names:
        return wanted, []
    lower = {name.strip().lower(): name for name in reversed(names)}
    accepted = ADDRESS_COLUMNS if wanted == ADDRESS_COLUMNS[0] else (wanted.lower(),)
    fitting = [lower[name] for name in accepted if name in lower]
    return (fitting[0], fitting[1:]) if fitting else (None, [])


def text_lines(
    file: BinaryIO, odd: Callable[[str, int], None] = lambda kind, line: None, universal: bool = True
) -> Iterator[str]:
    """Lines as text with their ends, whatever the bytes are.

    Args:
        odd: told of each line that is not UTF-8 ("not_utf8") or ends as on Windows ("crlf").
        universal: a lone carriage return ends a line too, as on old Macs.
    """
    text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="" if universal else "\n")
    try:
        number = 0
        while line := text.readline(MAX_LINE):
            number += 1
            if line.endswith("\r\n"):
                odd("crlf", number)
            if not line.isascii() and _ESCAPED.search(line):
                odd("not_utf8", number)
                line = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            yield line
    finally:
        if not file.closed:  # a reader that stopped half way may be collected after its file was closed
            text.detach()


_ESCAPED = re.compile("[\udc80-\udcff]")


def csv_rows(lines: Iterable[str], delimiter: str, first_line: int = 1, blanks: bool = False) -> Iterator[Row]:
    """Rows of a CSV, blank lines left out. Values parted by `|` are never quoted.

    No row is lost behind a quote that is never closed. A row is taken for one where a quoted field goes on over
    more than `MAX_ROW_LINES` lines or up to the end of the file, or ends on a later line with something other than a
    delimiter behind its quote: then a quote of another row closed it. Its first line is then a row for itself, and
    reading goes on with the next.

    Args:
        blanks: blanks behind a delimiter are no part of the value (see `has_blanks`).
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE * 2))
    source = _Lines(lines, first_line)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    while True:
        start = source.number
        source.begin()
        fields: list[str] | None
        try:
            fields = next(csv.reader(source, delimiter=delimiter, quoting=quoting, skipinitialspace=blanks))
            if len(source.taken) > 1:  # strict: what stands behind the closing quote has to be a delimiter
                fields = next(csv.reader(source.taken, delimiter=delimiter, strict=True, skipinitialspace=blanks))
        except StopIteration:
            if not source.taken:
                return
            fields = None
        except (csv.Error, _TooLong):
            fields = None
        taken = len(source.taken)
        if fields is None or source.ended:
            source.give_back()
            row = source.first.rstrip("\r\n")
            plain = [(value.lstrip(" ") if blanks else value) for value in row.split(delimiter)]
            plain = [value[1:].removesuffix('"') if value.startswith('"') else value for value in plain]
            yield Row(start, plain, open_quote=True)
        elif any(line.strip() for line in source.taken):
            yield Row(start, fields, taken)


class _TooLong(Exception):
    """A row that does not end where a row would."""


class _Lines:
    """Lines for `csv.reader` that can be given back."""

    def __init__(self, lines: Iterable[str], number: int) -> None:
        self._lines = iter(lines)
        self._back: deque[str] = deque()
        self.number = number
        self.taken: list[str] = []
        self.ended = False
        """Whether the row that began last asked for more lines than there are."""

    @property
    def first(self) -> str:
        return self.taken[0]

    def begin(self) -> None:
        self.taken, self.ended = [], False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.taken and (len(self.taken) > MAX_ROW_LINES or sum(map(len, self.taken)) > MAX_LINE):
            raise _TooLong
        line = self._back.popleft() if self._back else next(self._lines, None)
        if line is None:
            self.ended = bool(self.taken)
            raise StopIteration
        self.number += 1
        line = line.replace("\0", "\ufffd")  # Python 3.10 takes no zero byte in CSV
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """All lines of this row but the first."""
        rest = self.taken[1:]
        self._back.extendleft(reversed(rest))
        self.number -= len(rest)


def json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """What each line of JSON lines holds, with its number; blank lines are left out. A ValueError in place of a line
    that is not JSON."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, ValueError(str(error))


def array_rows(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array as they come, with their places from 1.

    Raises:
        ValueError: not whole JSON.
    """
    try:
        yield from enumerate(ijson.items(file, "item", use_float=True), 1)
    except ijson.JSONError as error:
        raise ValueError(" ".join(str(error).split())[:150]) from error


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _unpacked(file: BinaryIO, head: bytes, uri: str) -> io.BufferedReader:
    if head != b"PK\x03\x04":
        return io.BufferedReader(_Readable(uncompressed(file)), HEAD)
    archive = zipfile.ZipFile(file)
    names = [item.filename for item in archive.infolist() if not item.is_dir()]
    if len(names) != 1:
        shown = ", ".join(names[:5])
        raise TableError(f"{public_uri(uri)} holds {len(names)} files ({shown}); unpack the one you mean")
    return io.BufferedReader(cast("io.RawIOBase", archive.open(names[0])), HEAD)


class _Readable(io.RawIOBase):
    """Something with `read`, as a raw stream."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """Text of another encoding, in UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(HEAD)
            self._ready = self._decoder.decode(data, final=not data).encode("utf-8", "replace")
            if not data:
                break
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)
