"""COCO's JSON: results, as pycocotools' `loadRes` and evaluation servers take them, and captions of a corpus."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from captionkit._version import __version__
from captionkit.errors import UsageError
from captionkit.export.rows import Row
from captionkit.inputs.ids import IdSet

DEFAULT = (("image_id", ""), ("caption", "caption"))
"""Columns of COCO's files; without a column, the number is the one at the end of the file's name."""
_NUMBER_AT_END = re.compile(r"(\d+)$")


def check_columns(columns: dict[str, str]) -> None:
    """Raises UsageError for columns that COCO's files have no place for."""
    other = sorted(set(columns) - {"image_id", "caption"})
    if other:
        raise UsageError(f"--columns {' '.join(other)}: COCO's files have image_id and caption; write image_id=COLUMN")


def numbered(rows: Iterable[Row], column: str) -> Iterator[tuple[int, Row]]:
    """Rows with COCO's number of their image: of a column, or at the end of the file's name.

    Raises:
        UsageError: a row has none, or has another one's.
    """
    seen = IdSet()
    for row in rows:
        number = _number(row, column)
        if not seen.add(np.array([number], np.int64))[0]:
            raise UsageError(f"{row['uri']}: another image has the number {number} too; {_ADVICE}")
        yield number, row


_ADVICE = "say with --columns image_id=COLUMN which column holds each image's number"


def _number(row: Row, column: str) -> int:
    if column:
        value = row[column]
        text = str(value)
        if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,19}", text):
            raise UsageError(f"{row['uri']}: {column} is {value!r}, which is no number; {_ADVICE}")
    else:
        match = _NUMBER_AT_END.search(posixpath.splitext(row["file_name"])[0])
        if match is None:
            raise UsageError(f"{row['uri']}: no number at the end of its name; {_ADVICE}")
        text = match[1]
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise UsageError(f"{row['uri']}: {number} is too large for an image's number; {_ADVICE}")
    return number


def write_results(rows: Iterable[Row], columns: dict[str, str], file: BinaryIO) -> int:
    """`[{"image_id": 391895, "caption": "…"}, …]`; how many."""
    chosen = numbered(rows, columns.get("image_id", ""))
    caption = columns.get("caption", "caption")
    return _array(({"image_id": number, "caption": row[caption]} for number, row in chosen), file)


def write_captions(rows: Callable[[], Iterable[Row]], columns: dict[str, str], file: BinaryIO) -> int:
    """A corpus of captions: `images`, `annotations`, `info`, `licenses`; how many captions.

    Args:
        rows: gives the rows each time it is called; it is called twice, so that nothing need be held.
    """
    column, caption = columns.get("image_id", ""), columns.get("caption", "caption")
    info = json.dumps({"description": "captions by a machine", "contributor": f"captionkit {__version__}"})
    file.write(f'{{"info": {info}, "licenses": [], "images": '.encode())
    _array(
        (
            {"id": number, "file_name": row["file_name"], "width": row["width"], "height": row["height"]}
            for number, row in numbered(rows(), column)
        ),
        file,
    )
    file.write(b', "annotations": ')
    annotations = (
        {"id": place, "image_id": number, "caption": row[caption]}
        for place, (number, row) in enumerate(((_number(row, column), row) for row in rows()), 1)
    )
    count = _array(annotations, file)
    file.write(b"}\n")
    return count


def _array(items: Iterable[dict[str, Any]], file: BinaryIO) -> int:
    count = 0
    for item in items:
        file.write((b",\n" if count else b"[\n") + json.dumps(item, ensure_ascii=False).encode())
        count += 1
    file.write(b"\n]" if count else b"[]")
    return count
