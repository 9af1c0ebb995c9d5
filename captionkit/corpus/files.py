"""Bytes of a corpus file, as its readers get them; see `captionkit.inputs.tables`, which opens and decodes."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from captionkit.corpus.record import CorpusError, Report
from captionkit.inputs.tables import MAX_LINE, TableError, open_text, text_lines
from captionkit.storage import Storage, redact

__all__ = ["MAX_LINE", "lines", "opened"]


@contextmanager
def opened(storage: Storage, uri: str, report: Report | None = None) -> Iterator[BinaryIO]:
    """A file to read front to back: unpacked, in UTF-8, its byte order mark passed over.

    Raises:
        StorageError: storage that cannot give it.
        CorpusError: a broken or unfit archive, or a Git LFS pointer.
    """
    try:
        with open_text(storage, uri) as text:
            if text.marked and report is not None:
                report.note("byte_order_mark", redact(uri))
            yield text.file
    except TableError as error:
        raise CorpusError(str(error)) from error


def lines(file: BinaryIO, uri: str, report: Report, universal: bool = False) -> Iterator[str]:
    """Lines as text with their ends, whatever the bytes are; what is odd about them is noted.

    universal: a lone carriage return ends a line too.
    """
    name = posixpath.basename(redact(uri))
    return text_lines(file, lambda kind, number: report.note(kind, f"{name}, line {number}"), universal)
