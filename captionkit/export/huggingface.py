"""A data set for Hugging Face: Parquet files with the images in them, and a card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from captionkit._version import __version__
from captionkit.errors import UsageError
from captionkit.export.folders import Target
from captionkit.export.images import with_images, without_pages
from captionkit.export.report import Report
from captionkit.export.rows import Row
from captionkit.schema import BROUGHT
from captionkit.storage import StorageError, escape

DEFAULT = (("text", "caption"),)
GROUP_ROWS = 100
"""Rows of a row group at most: a reader that wants one image reads that much."""
GROUP_BYTES = 64 * 2**20
"""Bytes of images after which a row group ends."""
_OURS = re.compile(r"train-\d{5}\.parquet$")
_IMAGE = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def write_data_set(
    rows: Iterable[Row],
    columns: dict[str, str],
    schema: pa.Schema,
    target: Target,
    report: Report,
    progress: Callable[[int], None],
) -> None:
    """`data/train-00000.parquet` and so on, and `README.md`.

    Args:
        schema: of the caption table, for the columns' types.

    Raises:
        UsageError: a column is called `image`, or files are there already and may not be written over.
    """
    if "image" in columns:
        raise UsageError("--columns image=…: the image itself is called so")
    storage = target.storage
    output = storage.normalize(target.options.output)
    folder = storage.join(output, "data")
    earlier = _there(target, folder)
    if earlier and not target.options.overwrite:
        raise UsageError(f"{folder} holds {len(earlier):,} Parquet files already; --overwrite takes their place")
    fields = pa.schema([_IMAGE, *(pa.field(name, _kind(column, schema)) for name, column in columns.items())])
    features = {name: {"_type": "Value", "dtype": _dtype(fields.field(name).type)} for name in columns}
    features = {"image": {"_type": "Image"}, **features}
    fields = fields.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    models: dict[str, None] = {}
    files = without_pages(rows, report.left_out)
    pairs = _readable(with_images(files, storage, target.column, target.options.threads), report)
    written: set[str] = set()
    while (first := next(pairs, None)) is not None:
        uri = storage.join(folder, f"train-{len(written):05d}.parquet")
        with storage.create(uri) as file, pq.ParquetWriter(file, fields, compression="zstd") as writer:
            for group in _groups(chain([first], islice(pairs, target.options.rows_per_file - 1))):
                writer.write_table(_table(group, columns, fields))
                models.update(dict.fromkeys(row["model"] for row, _ in group))
                report.written += len(group)
                progress(report.written)
        written.add(uri)
    report.files = len(written)
    for uri in sorted(earlier - written):
        if _OURS.search(uri):
            storage.delete(uri)
    card = _card(output, list(models), fields, report.written)
    if target.options.overwrite or not storage.exists(storage.join(output, "README.md")):
        storage.write(storage.join(output, "README.md"), card.encode())


def _there(target: Target, folder: str) -> set[str]:
    try:
        return {entry.uri for entry in target.storage.glob(escape(folder) + "/*.parquet")}
    except StorageError as err:
        if err.kind != "not_found":
            raise
        return set()


def _readable(pairs: Iterable[tuple[Row, bytes | StorageError]], report: Report) -> Iterator[tuple[Row, bytes]]:
    for row, data in pairs:
        if isinstance(data, StorageError):
            report.fail(data.kind, str(data))
        else:
            yield row, data


def _groups(pairs: Iterable[tuple[Row, bytes]]) -> Iterator[list[tuple[Row, bytes]]]:
    group: list[tuple[Row, bytes]] = []
    size = 0
    for row, data in pairs:
        group.append((row, data))
        size += len(data)
        if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(group: list[tuple[Row, bytes]], columns: dict[str, str], schema: pa.Schema) -> pa.Table:
    images = [{"bytes": data, "path": row["file_name"]} for row, data in group]
    features = {
        name: [_value(row[column], schema.field(name).type) for row, _ in group] for name, column in columns.items()
    }
    return pa.table({"image": images, **features}, schema=schema)


def _value(value: Any, kind: pa.DataType) -> Any:
    if value is None or not pa.types.is_string(kind) or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _kind(column: str, schema: pa.Schema) -> pa.DataType:
    """The type that a column of the table is written as: numbers stay, all else is text (lists are JSON)."""
    if column not in schema.names:
        return pa.string()
    kind = schema.field(column).type
    simple = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_float32(kind)
    return kind if simple or pa.types.is_float64(kind) else pa.string()


def _dtype(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _card(output: str, models: list[str], schema: pa.Schema, rows: int) -> str:
    size = next((name for limit, name in _SIZES if rows < limit), "n>10M")
    features = [{"name": "image", "dtype": "image"}]
    features += [{"name": column.name, "dtype": _dtype(column.type)} for column in schema if column.name != "image"]
    data_files = [{"split": "train", "path": "data/train-*.parquet"}]
    head = {
        "annotations_creators": ["machine-generated"],
        "task_categories": ["image-to-text"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": data_files}],
        "dataset_info": {"features": features, "splits": [{"name": "train", "num_examples": rows}]},
    }
    written = [model for model in models if model != BROUGHT]
    brought = (
        "Some captions came with their images; the table does not say whose they are. " if BROUGHT in models else ""
    )
    title = output.rstrip("/").rpartition("/")[2]
    columns = "\n".join(f"- `{column.name}`: {column.type}" for column in schema if column.name != "image")
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---

# {title}

{rows:,} images with captions that a machine wrote: captionkit {__version__}, model {", ".join(written) or "none"}.
{brought}No person has looked at them unless somebody says so here. The images are as they were found; their
rights are their owners'.

- `image`: the file, byte for byte
{columns}
"""
