"""Tables of one's own, and Kaggle's Flickr8k `captions.txt` and Flickr30k `results.csv`: CSV, JSON lines, Parquet.

An image may have one row with a list of captions, or a row for each caption; its rows need not be neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.corpus.corpus_file import Chosen, Source
from captionkit.corpus.files import lines, opened
from captionkit.corpus.record import Item, id_text, split_name
from captionkit.inputs import tables
from captionkit.storage import join_member

_RUN_TOGETHER = re.compile(r"\s*(\d+)\s+(\S.*)", re.DOTALL)
_BATCH = 4096


def delimiter_of(source: Source, header: str) -> str | None:
    """What parts the columns, if this line is the header of a table of captions."""
    return tables.delimiter_of(header, lambda names: source.columns.choose(names) is not None)


def read_csv(source: Source) -> Iterator[Item]:
    """Captions from a CSV with a header line.

    Columns are parted by commas, tabs or semicolons, quoted where need be, or by `|`, never quoted. A caption in
    which the delimiter was not quoted, and one that has run together with its number (Flickr30k has one such row),
    are mended.

    Raises:
        CorpusError: the header lacks the columns.
    """
    report = source.report
    with opened(source.storage, source.uri, report) as file:
        text = lines(file, source.uri, report, universal=True)
        at, header = next(((at, line) for at, line in enumerate(text, 1) if line.strip()), (1, ""))
        mark = delimiter_of(source, header)
        if mark is None:
            raise source.error(f"its header {header.strip()[:200]!r} lacks {source.columns.wanted()}")
        names = tables.split_header(header, mark)
        chosen = source.columns.choose(names)
        assert chosen is not None
        for row in tables.csv_rows(text, mark, at + 1, mark != "|" and tables.has_blanks(header, mark)):
            number = row.line
            if row.open_quote:
                report.note("open_quote", f"{source.name}, line {number}: {mark.join(row.fields)}")
            elif row.lines > 1:
                report.note("several_lines", f"{source.name}, line {number}: {row.fields[0]}")
            values = _by_name(source, names, chosen, row.fields, mark, number)
            if values is not None:
                yield from _item(source, chosen, values, number)


def read_jsonl(source: Source) -> Iterator[Item]:
    """Captions from one JSON object a line."""
    report = source.report
    with opened(source.storage, source.uri, report) as file:
        for number, row in tables.json_rows(lines(file, source.uri, report)):
            yield from _json_item(source, row, number, "line")


def read_json(source: Source) -> Iterator[Item]:
    """Captions from a JSON array of objects.

    Raises:
        CorpusError: not whole JSON.
    """
    with opened(source.storage, source.uri, source.report) as file:
        try:
            for number, row in tables.array_rows(file):
                yield from _json_item(source, row, number, "item")
        except ValueError as error:
            raise source.error(f"not whole JSON ({error}); fetch the file again") from error


def _json_item(source: Source, row: Any, number: int, where: str) -> Iterator[Item]:
    chosen = source.columns.choose(row) if isinstance(row, dict) else None
    if chosen is None:
        source.report.bad_row("malformed", f"{source.name}, {where} {number}: {row}")
    else:
        yield from _item(source, chosen, row, number)


def read_parquet(source: Source) -> Iterator[Item]:
    """Captions from a Parquet file. Where its image column holds pictures, an image is `ADDRESS.parquet#ROW`.

    Raises:
        CorpusError: not a Parquet file, or without the columns.
    """
    try:
        with source.storage.open(source.uri) as file, pq.ParquetFile(file, pre_buffer=False) as table:
            schema = table.schema_arrow
            chosen = source.columns.choose(schema.names)
            if chosen is None:
                raise source.error(f"its columns {schema.names} lack {source.columns.wanted()}")
            pictures = not _is_name(schema.field(chosen.image).type)
            columns = [chosen.caption, chosen.split, chosen.caption_id, None if pictures else chosen.image]
            number = 0
            for batch in table.iter_batches(_BATCH, columns=list({name for name in columns if name is not None})):
                for row in batch.to_pylist():
                    if pictures:
                        row[chosen.image] = join_member(source.storage.normalize(source.uri), str(number))
                    yield from _item(source, chosen, row, number)
                    number += 1
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise source.error(f"not a Parquet file that can be read: {error}") from error


def _item(source: Source, chosen: Chosen, row: dict[str, Any], number: int) -> Iterator[Item]:
    """The piece that a row gives: at most one."""
    report, value, name = source.report, row[chosen.caption], row[chosen.image]
    texts = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(name, int | float) and not isinstance(name, bool):
        name = id_text(name)  # a number for a name, as 17 for 17.jpg
    if not isinstance(name, str) or not name.strip():
        for text in texts or [""]:
            report.bad_row("nameless", f"{source.name}, row {number}: {text!r}")
        return
    name = name.strip()
    # A cell without a value is a caption without a word.
    texts = ["" if text is None else text for text in texts]
    for text in texts:
        if not isinstance(text, str):
            report.bad_row("malformed", f"{source.name}, row {number}: {text!r}")
    mark = row.get(chosen.caption_id) if chosen.caption_id and not isinstance(value, list) else None
    caption_id = "" if mark is None else str(mark).strip()
    split = split_name(row[chosen.split]) if chosen.split in row else None
    yield Item(name, name, split, tuple((caption_id, text) for text in texts if isinstance(text, str)))


def _by_name(
    source: Source, names: list[str], chosen: Chosen, fields: list[str], mark: str, number: int
) -> dict[str, Any] | None:
    """A row by column, mended where it can be; None (and counted) where it cannot."""
    at, report = names.index(chosen.caption), source.report
    example = f"{source.name}, line {number}: {mark.join(fields).rstrip()}"
    while len(fields) > len(names) and not fields[-1].strip():
        fields.pop()
    if len(fields) > len(names) and at == len(names) - 1:
        fields = [*fields[:at], mark.join(fields[at:])]
        report.note("mended", example)
    row: dict[str, Any] = dict(zip(names, fields, strict=False))
    caption = row.get(chosen.caption, "").strip()
    beside = names[at - 1] if at else chosen.image
    together = _RUN_TOGETHER.fullmatch(row.get(beside, "")) if not caption and beside != chosen.image else None
    if together is not None:
        row[beside], row[chosen.caption] = together[1], together[2]
        report.note("mended", example)
    if len(fields) > len(names) or chosen.image not in row or chosen.caption not in row:
        report.bad_row("malformed", example)
        return None
    if caption.startswith("["):
        try:
            several = json.loads(caption)
        except (ValueError, RecursionError):
            several = None  # it only looked like a list
        if isinstance(several, list) and several and all(isinstance(text, str) for text in several):
            row[chosen.caption] = several
    return row


def _is_name(kind: pa.DataType) -> bool:
    """Whether a column of images has their names: text, or numbers."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(number or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
