"""Lists of addresses: lines of text, CSV and JSON lines. Parquet lists are read where Parquet is told apart."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from captionkit.pipeline.options import InputOptions
from captionkit.storage import UsageError, public, spelled

Row = tuple[str | None, dict[str, Any]]
"""An address, None where the row has none, and the carried columns."""


def rows_of_list(uri: str, suffix: str, stream: BinaryIO, options: InputOptions) -> Iterator[Row]:
    """The rows of a list, in order. Bytes that are no UTF-8 become U+FFFD.

    Raises:
        UsageError: it is not what its suffix says, or lacks a column.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=None)
    if suffix not in (".csv", ".jsonl"):
        for line in text:
            yield line.strip() or None, {}
        return
    for row in _csv_rows(uri, text, options) if suffix == ".csv" else _json_rows(uri, text, options):
        yield row.get(options.uri_column) or None, shown({name: row.get(name) for name in options.carry}, options)


def shown(carried: dict[str, Any], options: InputOptions) -> dict[str, Any]:
    """Carried values as they may be stored: the address itself may be among them, and text that is not Unicode."""
    if not carried:
        return carried
    column = options.uri_column
    if isinstance(carried.get(column), str):
        carried[column] = public(carried[column])
    return {name: spelled(value) if isinstance(value, str) else value for name, value in carried.items()}


def _csv_rows(uri: str, text: Iterable[str], options: InputOptions) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(text)
    try:
        _check_columns(uri, reader.fieldnames or (), (options.uri_column, *options.carry), options)
        yield from reader
    except csv.Error as err:
        raise UsageError(f"{public(uri)}, line {reader.line_num}: not CSV ({err})") from err


def _json_rows(uri: str, lines: Iterable[str], options: InputOptions) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as err:
            raise UsageError(f"{public(uri)}, line {number}: not JSON ({err})") from err
        if not isinstance(row, dict) or not isinstance(row.get(options.uri_column, ""), str | None):
            expected = f"an object with a string `{options.uri_column}`"
            raise UsageError(f"{public(uri)}, line {number}: expected {expected}")
        if number == 1:
            _check_columns(uri, row, (options.uri_column,), options)
        for name in options.carry:
            if not isinstance(row.get(name), str | None):
                row[name] = json.dumps(row[name], ensure_ascii=False)
        yield row


def _check_columns(uri: str, present: Iterable[str], needed: tuple[str, ...], options: InputOptions) -> None:
    present = list(present)
    for name in needed:
        if name not in present:
            raise UsageError(
                f"{public(uri)} has no column `{name}`; it has: {', '.join(present) or 'none'}."
                + (" Name the column of addresses with --uri-column." if name == options.uri_column else "")
            )
