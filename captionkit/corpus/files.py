"""Bytes of a corpus file, as lines: packed or not, with a byte order mark or not, in UTF-8 or nearly."""

from __future__ import annotations

import gzip
import io
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from captionkit.corpus.record import CorpusError, Report
from captionkit.storage import Storage, redact

BOM = b"\xef\xbb\xbf"
MAX_LINE = 1 << 24
"""Longer lines (16 MiB) come in pieces, so that a file without line ends does not fill memory."""


@contextmanager
def opened(storage: Storage, uri: str, report: Report | None = None) -> Iterator[BinaryIO]:
    """A file to read front to back: unpacked (.gz; .zip with a single file in it), its byte order mark passed over.

    Raises:
        StorageError: storage that cannot give it.
        CorpusError: a broken or unfit archive, or text in UTF-16.
    """
    with storage.open(uri) as packed:
        head = packed.read(4)
        packed.seek(0)
        try:
            with _unpacked(packed, head, uri) as file:
                head = file.peek(4)[:4]
                if head.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise CorpusError(f"{redact(uri)} is text in UTF-16; save it as UTF-8")
                if head.startswith(BOM):
                    file.read(len(BOM))
                    if report is not None:
                        report.note("byte_order_mark", redact(uri))
                yield cast("BinaryIO", file)
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise CorpusError(f"{redact(uri)}: the archive is broken: {error}") from error


def _unpacked(file: BinaryIO, head: bytes, uri: str) -> io.BufferedReader:
    if head.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    if head != b"PK\x03\x04":
        return cast("io.BufferedReader", file)
    archive = zipfile.ZipFile(file)
    names = [item.filename for item in archive.infolist() if not item.is_dir()]
    if len(names) != 1:
        raise CorpusError(f"{redact(uri)} holds {len(names)} files ({', '.join(names[:5])}); unpack the one you mean")
    return io.BufferedReader(cast("io.RawIOBase", archive.open(names[0])))


def lines(file: BinaryIO, uri: str, report: Report) -> Iterator[str]:
    """Lines as text with their ends, whatever the bytes are; what is odd about them is noted."""
    number = 0
    name = posixpath.basename(redact(uri))
    while raw := file.readline(MAX_LINE):
        number += 1
        if raw.endswith(b"\r\n"):
            report.note("crlf", f"{name}, line {number}")
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError:
            report.note("not_utf8", f"{name}, line {number}")
            yield raw.decode("utf-8", "replace")
