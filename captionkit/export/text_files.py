"""CSV, TSV and JSON lines: one file, a line a row, in the table's order."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any, BinaryIO

from captionkit.export.rows import Row

DEFAULT = (("file_name", "file_name"), ("caption", "caption"))


def write_csv(rows: Iterable[Row], columns: dict[str, str], file: BinaryIO, delimiter: str) -> int:
    """Rows as RFC 4180 has them, in UTF-8, the first line naming the columns; how many.

    Null is an empty field, and what holds the delimiter, a quote or a line's end stands in quotes. Lists are JSON.
    """
    text = io.TextIOWrapper(file, "utf-8", newline="", errors="strict")
    try:
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        count = 0
        for row in rows:
            writer.writerow([_field(row[column]) for column in columns.values()])
            count += 1
        text.flush()
    finally:
        text.detach()
    return count


def write_jsonl(rows: Iterable[Row], columns: dict[str, str], file: BinaryIO) -> int:
    """A JSON object a line, in UTF-8; how many. Numbers of 64 bits stand in full."""
    count = 0
    for row in rows:
        file.write(json_line({name: row[column] for name, column in columns.items()}))
        count += 1
    return count


def json_line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _field(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else value
