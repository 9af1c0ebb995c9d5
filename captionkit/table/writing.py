"""Opening a table to write to it: its lease, and what a dead compaction left put right first.

A compaction's merged file names, in its footer under `REPLACES`, the files that it replaces. Where it died before it
had deleted these, rows are there twice: `unfinished_merges` recognises such files and `recover` deletes them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.errors import UsageError
from captionkit.inputs.ids import Ids
from captionkit.storage import Storage
from captionkit.table.lease import Lease, LeaseError
from captionkit.table.lease_files import LeaseFiles
from captionkit.table.table import CaptionTable

REPLACES = b"captionkit.replaces"
PREFIX = "compacted-"
"""What the names of merged files begin with, so that only these are asked what they replace."""


GATE = "starting a share: "
"""What runs of a share are called while they hold the lease of the whole table, for moments."""
GATE_SECONDS = 120.0
"""How long one waits for another run's such moments."""


class OpenTable(NamedTuple):
    """A table that may be written to."""

    table: CaptionTable
    lease: Lease
    recovered: list[str]
    """Files deleted that an earlier compaction, which died, had merged into another."""


@contextmanager
def open_for_writing(known: CaptionTable, run_id: str, share: str = "") -> Iterator[OpenTable]:
    """Take a table's lease, and look at the table again, now that nobody else can write to it.

    A run of a share ("3/16") has the lease of that share alone. It takes it while it holds the lease of the whole
    table, and whoever holds that one sees to it that no run of another kind is alive: so there is one run of the whole
    table, or one of each share, where the shares are of one count. What changes files that were there before belongs
    under `alone`.

    Raises:
        UsageError: another run holds the lease (`LeaseError`), or the folder holds Parquet files of another maker.
        StorageError: the table cannot be read or written.
    """
    uri, storage, schema = known.uri, known.storage, known.schema
    if not share:
        with Lease(uri, storage, run_id, schema=schema) as lease:
            _end_shares(uri, storage, run_id, schema, lambda _: True)
            table = CaptionTable(uri, storage)
            yield OpenTable(table, lease, recover(table))
        return
    lease = Lease(uri, storage, run_id, schema=schema, share=share)
    with _gate(uri, storage, run_id, schema):
        of = share.partition("/")[2]
        _end_shares(uri, storage, run_id, schema, lambda other: other.partition("/")[2] != of)
        lease.acquire()
        table = CaptionTable(uri, storage)
        # Under the gate nobody compacts, and no share's run touches older files.
        recovered = recover(table)
    try:
        yield OpenTable(table, lease, recovered)
    finally:
        lease.release()


@contextmanager
def alone(opened: OpenTable, run_id: str, share: str = "") -> Iterator[CaptionTable]:
    """The table as it stands now, for changing files that were there before: no other run does so meanwhile."""
    if not share:
        yield opened.table
        return
    table = opened.table
    with _gate(table.uri, table.storage, run_id, opened.lease.schema):
        opened.lease.check()
        yield CaptionTable(table.uri, table.storage)


@contextmanager
def _gate(uri: str, storage: Storage, run_id: str, schema: pa.Schema) -> Iterator[None]:
    """The lease of the whole table, for a moment; runs of shares wait for each other's."""
    end = time.monotonic() + GATE_SECONDS
    lease = Lease(uri, storage, GATE + run_id, schema=schema)
    while True:
        try:
            lease.acquire()
            break
        except LeaseError as err:
            if not err.holder.run_id.startswith(GATE) or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.1, 1.0))
    try:
        yield
    finally:
        lease.release()


def _end_shares(uri: str, storage: Storage, run_id: str, schema: pa.Schema, which: Callable[[str], bool]) -> None:
    """Make sure that no run of such a share is alive, nor comes back to life: one that was taken for dead finds out.

    Raises:
        LeaseError: one is.
    """
    for share in filter(which, LeaseFiles(uri, storage).shares()):
        seen = LeaseFiles(uri, storage, share).latest()
        if seen is not None and not seen.holder.released:
            with Lease(uri, storage, run_id, schema=schema, share=share):
                pass


def unfinished_merges(table: CaptionTable) -> dict[str, list[str]]:
    """Files that were put together with others but are still there, by the merged file: what a death leaves."""
    by_name = {file_name(uri): uri for uri in table.file_uris()}
    left_behind: dict[str, list[str]] = {}
    for name, uri in by_name.items():
        if not name.startswith(PREFIX):
            continue
        with table.storage.open(uri) as stream:
            try:
                metadata = pq.read_metadata(stream).metadata or {}
            except (pa.ArrowInvalid, OSError):
                continue  # whoever opens the table says so
        left = [by_name[old] for old in json.loads(metadata.get(REPLACES, b"[]")) if old in by_name]
        if left:
            left_behind[uri] = left
    return left_behind


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
    ids: Ids = read_file(table, uri, ["image_id"]).column(0).to_numpy()
    return ids


def read_file(table: CaptionTable, uri: str, columns: list[str] | None = None) -> Any:
    """A table file's rows, as an Arrow table."""
    with table.storage.open(uri) as stream:
        return pq.read_table(stream, columns=columns)


def file_name(uri: str) -> str:
    """The last part of an address."""
    return uri.rpartition("/")[2]
