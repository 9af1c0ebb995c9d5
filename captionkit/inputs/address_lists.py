"""Lists of addresses, read by `captionkit.inputs.tables`. Parquet lists are read where Parquet is told apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.inputs.options import InputOptions
from captionkit.inputs.tables import (
    TABLE_SUFFIXES,
    TableError,
    address_column,
    array_rows,
    csv_rows,
    has_blanks,
    json_rows,
    kind_of,
    list_suffix,
    open_text,
    split_header,
    text_lines,
)
from captionkit.storage import Storage, public_uri, spelled

Row = tuple[str | None, dict[str, Any]]
"""An address, None where the row has none, and the carried columns."""


class AddressList:
    """A list in text form at an address.

    Args:
        columns: called before the first row of a list that has columns.
        note: takes what is worth a line in the log.
    """

    def __init__(
        self, uri: str, options: InputOptions, columns: Callable[[], None], note: Callable[[str], None]
    ) -> None:
        self._uri, self._options, self._columns, self._note = uri, options, columns, note
        self._carried = options.carried()
        self._suffix = list_suffix(uri)
        self._not_utf8 = self._first_not_utf8 = 0

    def rows(self, storage: Storage) -> Iterator[Row]:
        """Its rows, in order. What it is, its content says; see `kind_of`.

        Raises:
            UsageError: it cannot be read, or lacks a column.
        """
        with open_text(storage, self._uri) as text:
            kind, delimiter = kind_of(text.head, self._is_header, self._suffix in TABLE_SUFFIXES)
            if kind == "lines" and self._suffix in (".jsonl", ".ndjson"):
                kind = "jsonl"
            if kind == "json":
                if not text.head.lstrip().startswith(b"["):
                    raise TableError(
                        f"{public_uri(self._uri)} is one JSON object; a list is an array of objects or of addresses, "
                        "or one object a line"
                    )
                yield from self._json(array_rows(text.file), "item")
                return
            lines = text_lines(text.file, self._take_down)
            if kind == "lines":
                yield from ((_unquoted(line.strip()) or None, {}) for line in lines)
            elif kind == "csv":
                yield from self._csv(lines, delimiter)
            else:
                yield from self._json(json_rows(lines), "line")
        if self._not_utf8:
            self._note(
                f"{counted(self._not_utf8, 'line is', 'lines are')} not in UTF-8 in {public_uri(self._uri)} "
                f"(line {self._first_not_utf8}); what could not be read is �"
            )

    def _take_down(self, kind: str, line: int) -> None:
        if kind == "not_utf8":
            self._first_not_utf8 = self._first_not_utf8 or line
            self._not_utf8 += 1

    def _is_header(self, names: Sequence[str]) -> bool:
        column, _ = address_column(names, self._options.uri_column)
        if column is None:
            return False
        # A line of one word may be an address itself: `image` a file's name, but hardly `url`.
        return len(names) > 1 or self._suffix in TABLE_SUFFIXES or column in ("uri", "url", self._options.uri_column)

    def _csv(self, lines: Iterator[str], delimiter: str) -> Iterator[Row]:
        number, header = next(((at, line) for at, line in enumerate(lines, 1) if line.strip()), (1, ""))
        names = split_header(header, delimiter)
        column = self._column(names)
        self._check(names, self._carried)
        self._columns()
        first, unclosed = 0, 0
        for row in csv_rows(lines, delimiter, number + 1, has_blanks(header, delimiter)):
            if row.open_quote:
                first, unclosed = first or row.line, unclosed + 1
            values = dict(zip(names, row.fields, strict=False))
            yield self._row(values, column)
        if unclosed:
            rows = "1 row has" if unclosed == 1 else f"{unclosed:,} rows have"
            self._note(
                f"{rows} a quote that is never closed in {public_uri(self._uri)} (line {first}); each was read as a "
                "line for itself"
            )

    def _json(self, rows: Iterable[tuple[int, Any]], where: str) -> Iterator[Row]:
        uri, column = public_uri(self._uri), ""
        rows = iter(rows)
        try:
            first = next(rows, None)
            if first is None:
                return
            if isinstance(first[1], dict):
                column = self._column(list(first[1]))
                self._columns()
            for number, row in chain([first], rows):
                if isinstance(row, ValueError):
                    raise UsageError(f"{uri}, {where} {number}: not JSON ({row})") from row
                if isinstance(row, str) and not column:
                    yield row.strip() or None, {}
                    continue
                if not column or not isinstance(row, dict) or not isinstance(row.get(column, ""), str | None):
                    expected = f"an object with a string `{column or self._options.uri_column}`"
                    raise UsageError(f"{uri}, {where} {number}: expected {expected}")
                for name in self._carried:
                    if not isinstance(row.get(name), str | None):
                        row[name] = json.dumps(row[name], ensure_ascii=False)
                yield self._row(row, column)
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{uri}: not whole JSON ({error}); fetch the file again") from error

    def _column(self, names: Sequence[str]) -> str:
        return address_column_of(self._uri, names, self._options, self._note)

    def _check(self, names: Sequence[str], needed: Iterable[str]) -> None:
        for name in needed:
            if name not in names:
                raise UsageError(
                    f"{public_uri(self._uri)} has no column `{name}`; it has: {', '.join(names) or 'none'}."
                )

    def _row(self, row: dict[str, Any], column: str) -> Row:
        carried = {name: row.get(name) for name in self._carried}
        return (row.get(column) or "").strip() or None, shown(carried, column, self._carried)


def address_column_of(
    uri: str, names: Sequence[str], options: InputOptions, note: Callable[[str], None] = lambda _: None
) -> str:
    """The column of addresses in a list that has these columns. Where others would do as well, the log says which.

    Raises:
        UsageError: none of them is one.
    """
    column, others = address_column(names, options.uri_column)
    if column is None:
        raise UsageError(
            f"{public_uri(uri)} has no column `{options.uri_column}`; it has: {', '.join(names) or 'none'}. "
            "Name the column of addresses with --uri-column; a table needs its columns' names in its first line."
        )
    if others:
        note(
            f"addresses of {public_uri(uri)} are from its column `{column}` (not {', '.join(others)}; see --uri-column)"
        )
    return column


def shown(carried: dict[str, Any], column: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Carried values as they may be stored: the address itself may be among them, and text that is not Unicode.

    Args:
        names: What they are called in the table.
    """
    if not carried:
        return carried
    if isinstance(carried.get(column), str):
        carried[column] = public_uri(carried[column])
    return {names[name]: spelled(value) if isinstance(value, str) else value for name, value in carried.items()}


def _unquoted(line: str) -> str:
    """A line without the quotes that stand around all of it, as `ls -Q` and spreadsheets write them."""
    return line[1:-1] if len(line) > 2 and line[0] == line[-1] == '"' else line
