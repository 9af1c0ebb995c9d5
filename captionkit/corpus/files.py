"""Opening of corpus files, on top of `captionkit.inputs.tables`; what is odd goes to the corpus' report."""

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
    """Open a file for sequential reading: decompressed, in UTF-8, without byte order mark.

    Raises:
        StorageError: it cannot be read.
        CorpusError: a broken archive, one with several files, or a Git LFS pointer.
    """
    try:
        with open_text(storage, uri) as text:
            if text.marked and report is not None:
                report.note("byte_order_mark", redact(uri))
            yield text.file
    except TableError as error:
        raise CorpusError(str(error)) from error


def lines(file: BinaryIO, uri: str, report: Report, universal: bool = False) -> Iterator[str]:
    """Lines as text, with their line ends. Undecodable bytes and CRLF are noted in the report.

    Args:
        universal: a carriage return alone ends a line too.
    """
    name = posixpath.basename(redact(uri))
    return text_lines(file, lambda kind, number: report.note(kind, f"{name}, line {number}"), universal)
