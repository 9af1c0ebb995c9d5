"""Writes corpora to fsspec's memory, and reads them back."""

from __future__ import annotations

from typing import Any

from captionkit.corpus import CaptionedImage, Report, read_corpus
from captionkit.storage import Storage

FOLDER = "memory://corpus"


def read_back(name: str, data: str | bytes, **options: Any) -> tuple[list[CaptionedImage], Report]:
    """The records of a file of this name and content, and the report, which must account for every caption."""
    uri = f"{FOLDER}/{name}"
    Storage().write(uri, data.encode() if isinstance(data, str) else data)
    corpus = read_corpus(uri, **options)
    records = list(corpus)
    check_account(records, corpus.report)
    return records, corpus.report


def check_account(records: list[CaptionedImage], report: Report) -> None:
    """Every caption is yielded, or left out for a reason."""
    assert report.rows == report.captions + report.left_out.total()
    assert report.captions == sum(len(record.captions) for record in records)
    assert report.records == len(records) == report.splits.total() == report.per_image.total()
    assert all(report.examples[kind] for kind in (*report.left_out, *report.noted))
    assert str(report)


def captions(records: list[CaptionedImage]) -> dict[str, list[str]]:
    """Captions by key, in order."""
    return {record.key: list(record.captions) for record in records}
