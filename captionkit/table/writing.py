"""Opening a table to write to it: its lease, and what a dead compaction left put right first.

A compaction's merged file names, in its footer under `REPLACES`, the files that it replaces. Where it died before it
had deleted these, rows are there twice: `unfinished_merges` recognises such files and `recover` deletes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.errors import UsageError
from captionkit.inputs.ids import Ids
from captionkit.storage import Storage
from captionkit.table.lease import Lease
from captionkit.table.table import CaptionTable

REPLACES = b"captionkit.replaces"
PREFIX = "compacted-"
"""What the names of merged files begin with, so that only these are asked what they replace."""


class OpenTable(NamedTuple):
    """A table that may be written to."""

    table: CaptionTable
    lease: Lease
    recovered: list[str]
    """Files deleted that an earlier compaction, which died, had merged into another."""


@contextmanager
def open_for_writing(uri: str, storage: Storage, run_id: str) -> Iterator[OpenTable]:
    """Take a table's lease, and look at the table once nobody else can write to it.

    Raises:
        UsageError: another run holds the lease (`LeaseError`), or the folder holds Parquet files of another maker.
        StorageError: the table cannot be read or written.
    """
    with Lease(uri, storage, run_id, schema=CaptionTable(uri, storage).schema()) as lease:
        table = CaptionTable(uri, storage)
        yield OpenTable(table, lease, recover(table))


def unfinished_merges(table: CaptionTable) -> dict[str, list[str]]:
    """Files that were put together with others but are still there, by the merged file: what a death leaves."""
    there = {file_name(uri): uri for uri in table.file_uris()}
    found: dict[str, list[str]] = {}
    for name, uri in there.items():
        if not name.startswith(PREFIX):
            continue
        with table.storage.open(uri) as stream:
            try:
                metadata = pq.read_metadata(stream).metadata or {}
            except (pa.ArrowInvalid, OSError):
                continue  # whoever opens the table says so
        left = [there[old] for old in json.loads(metadata.get(REPLACES, b"[]")) if old in there]
        if left:
            found[uri] = left
    return found


def recover(table: CaptionTable) -> list[str]:
    """Delete what a `compact` that died has left, having made sure that no row goes with it; the deleted files.

    To be called by whoever holds the table's lease, before the table's rows are read.

    Raises:
        UsageError: a merged file lacks rows of what it replaces. Nothing of these is deleted.
    """
    deleted: list[str] = []
    for merged, replaced in unfinished_merges(table).items():
        present = ids_in(table, merged)
        for uri in replaced:
            missing = int((~np.isin(ids_in(table, uri), present)).sum())
            if missing:
                raise UsageError(
                    f"{merged} says that it replaces {uri}, but lacks {missing:,} of its rows. Somebody has changed "
                    "one of them; move one out of the folder, and run `captionkit check`."
                )
        for uri in replaced:
            table.storage.delete(uri)
            deleted.append(uri)
    table.files = [file for file in table.files if file.uri not in set(deleted)]
    return deleted


def ids_in(table: CaptionTable, uri: str) -> Ids:
    """The image ids of a table file, in order: (rows,) int64."""
    found: Ids = read_file(table, uri, ["image_id"]).column(0).to_numpy()
    return found


def read_file(table: CaptionTable, uri: str, columns: list[str] | None = None) -> Any:
    """A table file's rows, as an Arrow table."""
    with table.storage.open(uri) as stream:
        return pq.read_table(stream, columns=columns)


def file_name(uri: str) -> str:
    """The last part of an address."""
    return uri.rpartition("/")[2]
