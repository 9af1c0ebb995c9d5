"""Tables: CSV, JSON, JSON lines and Parquet of your own, Kaggle's Flickr8k `captions.txt`, Flickr30k's `results.csv`.

An image may have one row with a list of captions, or a row per caption; its rows need not be adjacent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from captionkit.corpus.corpus_file import ChosenColumns, CorpusFile
from captionkit.corpus.files import lines, opened
from captionkit.corpus.record import CaptionFragment, id_text, split_name
from captionkit.inputs import tables
from captionkit.storage import join_member
from captionkit.storage.archives import open_parquet

_RUN_TOGETHER = re.compile(r"\s*(\d+)\s+(\S.*)", re.DOTALL)
_BATCH = 4096
"""Rows of a Parquet file read at a time."""


def delimiter_of(file: CorpusFile, header: str) -> str | None:
    """The delimiter, if this line is the header of a table with captions; else None."""
    return tables.delimiter_of(header, lambda names: file.columns.choose(names) is not None)


def read_csv(file: CorpusFile) -> Iterator[CaptionFragment]:
    """Captions from a CSV with a header line.

    The delimiter is a comma, tab or semicolon, with quoting, or `|`, without. Two kinds of rows are repaired: those
    whose caption, the last column, contains the delimiter unquoted; and those whose caption is in the column before it,
    behind the caption's number (Flickr30k has one).

    Raises:
        CorpusError: the header lacks the columns.
    """
    report = file.report
    with opened(file.storage, file.uri, report) as stream:
        text = lines(stream, file.uri, report, universal=True)
        at, header = next(((at, line) for at, line in enumerate(text, 1) if line.strip()), (1, ""))
        mark = delimiter_of(file, header)
        if mark is None:
            raise file.error(f"its header {header.strip()[:200]!r} lacks {file.columns.wanted()}")
        names = tables.split_header(header, mark)
        chosen = file.columns.choose(names)
        assert chosen is not None
        for row in tables.csv_rows(text, mark, at + 1, mark != "|" and tables.has_blanks(header, mark)):
            number = row.line
            if row.open_quote:
                report.note("open_quote", f"{file.name}, line {number}: {mark.join(row.fields)}")
            elif row.lines > 1:
                report.note("several_lines", f"{file.name}, line {number}: {row.fields[0]}")
            values = _by_name(file, names, chosen, row.fields, mark, number)
            if values is not None:
                yield from _item(file, chosen, values, number)


def read_jsonl(file: CorpusFile) -> Iterator[CaptionFragment]:
    """Captions from JSON lines, an object per line."""
    report = file.report
    with opened(file.storage, file.uri, report) as stream:
        for number, row in tables.json_rows(lines(stream, file.uri, report)):
            yield from _json_item(file, row, number, "line")


def read_json(file: CorpusFile) -> Iterator[CaptionFragment]:
    """Captions from a JSON array of objects.

    Raises:
        CorpusError: invalid or truncated JSON.
    """
    with opened(file.storage, file.uri, file.report) as stream:
        try:
            for number, row in tables.array_rows(stream):
                yield from _json_item(file, row, number, "item")
        except ValueError as error:
            raise file.error(f"invalid or truncated JSON ({error}); fetch the file again") from error


def _json_item(file: CorpusFile, row: Any, number: int, where: str) -> Iterator[CaptionFragment]:
    chosen = file.columns.choose(row) if isinstance(row, dict) else None
    if chosen is None:
        file.report.bad_row("malformed", f"{file.name}, {where} {number}: {row}")
    else:
        yield from _item(file, chosen, row, number)


def read_parquet(file: CorpusFile) -> Iterator[CaptionFragment]:
    """Captions from a Parquet file. If its image column holds encoded images, an image's name is `ADDRESS.parquet#ROW`.

    Raises:
        CorpusError: not a Parquet file, or one that lacks the columns.
    """
    try:
        with file.storage.open(file.uri) as stream, open_parquet(stream, pre_buffer=False) as table:
            schema = table.schema_arrow
            chosen = file.columns.choose(schema.names)
            if chosen is None:
                raise file.error(f"its columns {schema.names} lack {file.columns.wanted()}")
            embedded = not _is_name(schema.field(chosen.image).type)
            columns = [chosen.caption, chosen.split, chosen.caption_id, None if embedded else chosen.image]
            number = 0
            for batch in table.iter_batches(_BATCH, columns=list({name for name in columns if name is not None})):
                for row in batch.to_pylist():
                    if embedded:
                        row[chosen.image] = join_member(file.storage.normalize(file.uri), str(number))
                    yield from _item(file, chosen, row, number)
                    number += 1
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise file.error(f"not a Parquet file that can be read: {error}") from error


def _item(file: CorpusFile, chosen: ChosenColumns, row: dict[str, Any], number: int) -> Iterator[CaptionFragment]:
    """The fragment of a row: at most one."""
    report, value, name = file.report, row[chosen.caption], row[chosen.image]
    texts = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(name, int | float) and not isinstance(name, bool):
        name = id_text(name)  # a numeric name, such as 17 for 17.jpg
    if not isinstance(name, str) or not name.strip():
        for text in texts or [""]:
            report.bad_row("nameless", f"{file.name}, row {number}: {text!r}")
        return
    name = name.strip()
    # A missing value counts as a blank caption.
    texts = ["" if text is None else text for text in texts]
    for text in texts:
        if not isinstance(text, str):
            report.bad_row("malformed", f"{file.name}, row {number}: {text!r}")
    number_cell = row.get(chosen.caption_id) if chosen.caption_id and not isinstance(value, list) else None
    caption_id = "" if number_cell is None else str(number_cell).strip()
    split = split_name(row[chosen.split]) if chosen.split in row else None
    yield CaptionFragment(name, name, split, tuple((caption_id, text) for text in texts if isinstance(text, str)))


def _by_name(
    file: CorpusFile, names: list[str], chosen: ChosenColumns, fields: list[str], mark: str, number: int
) -> dict[str, Any] | None:
    """A row by column name, repaired if possible; None, and counted, if it is malformed."""
    at, report = names.index(chosen.caption), file.report
    example = f"{file.name}, line {number}: {mark.join(fields).rstrip()}"
    while len(fields) > len(names) and not fields[-1].strip():
        fields.pop()
    if len(fields) > len(names) and at == len(names) - 1:
        fields = [*fields[:at], mark.join(fields[at:])]
        report.note("mended", example)
    row: dict[str, Any] = dict(zip(names, fields, strict=False))
    caption = row.get(chosen.caption, "").strip()
    before = names[at - 1] if at else chosen.image
    joined = _RUN_TOGETHER.fullmatch(row.get(before, "")) if not caption and before != chosen.image else None
    if joined is not None:
        row[before], row[chosen.caption] = joined[1], joined[2]
        report.note("mended", example)
    if len(fields) > len(names) or chosen.image not in row or chosen.caption not in row:
        report.bad_row("malformed", example)
        return None
    if caption.startswith("["):
        try:
            texts = json.loads(caption)
        except (ValueError, RecursionError):
            texts = None  # a caption that starts with a bracket
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            row[chosen.caption] = texts
    return row


def _is_name(kind: pa.DataType) -> bool:
    """Whether a column of this type holds image names: text or numbers."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(number or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
