"""The manifest: what is left to do, in units that one fetch task reads each.

Listing streams into it; what the table already holds is left out on the way (an anti-join on `image_id`). It lies
beside the table as small Arrow files, so that neither driver nor scheduler holds it in memory, and goes when the
run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from captionkit.pipeline.ids import IdSet, image_id
from captionkit.pipeline.inputs import Inputs, Item
from captionkit.pipeline.table import CaptionTable, TableFile, container_of
from captionkit.storage import Storage, StorageOptions

CHUNK = 8192
UNITS_PER_FILE = 32
FIXED = [
    pa.field("uri", pa.string()),
    pa.field("version", pa.string()),
    pa.field("image_id", pa.int64()),
    pa.field("size", pa.int64()),  # bytes, where known
    pa.field("kind", pa.string()),
    pa.field("row_group", pa.int32()),
    pa.field("first_row", pa.int64()),  # of the row group, in its file
    pa.field("total", pa.int64()),  # rows of the whole container, where known
]


@dataclass(frozen=True)
class Unit:
    """What one fetch task reads: images by address, or one shard, or one row group."""

    file: str
    """Manifest file that holds it."""
    index: int
    """Its record batch in there."""


@dataclass
class Manifest:
    """What is to be done, and what was found out on the way there."""

    units: list[Unit] = field(default_factory=list)
    listed: int = 0
    """Images listed one by one."""
    containers: int = 0
    """Shards and Parquet files listed."""
    duplicates: int = 0
    """Addresses that came again; each gets one row."""
    done: int = 0
    """Images (not those in containers) whose row stands already."""
    finished_containers: int = 0
    replaced: int = 0
    """Rows of images that have changed since, taken out of the table to be captioned anew."""
    images: int = 0
    """Images to do, as far as known before shards are read."""
    unknown: int = 0
    """Shards to read whose number of images is not known."""
    partial: list[str] = field(default_factory=list)
    """Containers to read some of whose rows stand in the table."""
    pending: IdSet = field(default_factory=IdSet)
    """Hashes of the addresses of `images`, kept where the table has rows."""
    containers_to_do: dict[str, str] = field(default_factory=dict)
    """Addresses and versions of the containers to read."""


def rows_per_unit(listed: int) -> int:
    """Images in a unit, growing with the archive: small ones keep few cores busy, large ones keep Ray's own
    bookkeeping of tasks small (a hundred million images in 100,000 units)."""
    return 128 if listed < 100_000 else 256 if listed < 1_000_000 else 1024


def make_manifest(
    inputs: Inputs, table: CaptionTable, prefix: str, progress: Callable[[int], None] = lambda _: None
) -> Manifest:
    """List the inputs, leave out what the table holds, write the rest.

    Args:
        prefix: What the addresses of the manifest's files begin with.
        progress: Called with the number of inputs listed so far, every `CHUNK` of them.
    """
    manifest = Manifest()
    done = table.ids()
    seen = IdSet()
    writer = _Writer(table.storage, prefix, inputs)
    items = inputs.items()
    while chunk := list(islice(items, CHUNK)):
        fresh = seen.add(np.array([image_id(item.uri, "") for item in chunk], np.int64))
        manifest.duplicates += len(chunk) - int(fresh.sum())
        chunk = [item for item, new in zip(chunk, fresh.tolist(), strict=True) if new]
        images = [item for item in chunk if item.kind == "image"]
        manifest.listed += len(images)
        ids = np.array([image_id(item.uri, item.version) for item in images], np.int64)
        todo = ~done.contains(ids)
        manifest.done += len(images) - int(todo.sum())
        writer.size = rows_per_unit(manifest.listed)
        for item, number, new in zip(images, ids.tolist(), todo.tolist(), strict=True):
            if new:
                writer.image(item, number)
        if len(table):
            left = [item for item, new in zip(images, todo.tolist(), strict=True) if new]
            manifest.pending.add(np.array([image_id(item.uri, "") for item in left], np.int64))
        for item in chunk:
            if item.kind == "image":
                continue
            manifest.containers += 1
            if table.finished(item.uri, item.version):
                manifest.finished_containers += 1
                continue
            manifest.containers_to_do[item.uri] = item.version
            manifest.unknown += item.kind == "tar"
            writer.container(item)
        progress(manifest.listed + manifest.containers)
    writer.close()
    manifest.units, manifest.images = writer.units, writer.rows
    return manifest


def replace_changed(manifest: Manifest, table: CaptionTable) -> None:
    """Take out of the table the rows of images that have changed since; the manifest has them to be captioned anew.

    Before the new captions come, not after: a run that dies in between leaves an image without a row, which the
    next one captions, and never an image with two.
    """
    containers = manifest.containers_to_do
    if len(table) and (len(manifest.pending) or containers):
        manifest.replaced = table.drop(_stale(table, manifest.pending, containers))
        manifest.partial = [uri for uri in containers if any(uri in file.footer.containers for file in table.files)]


def _stale(table: CaptionTable, pending: IdSet, containers: dict[str, str]) -> Iterator[tuple[TableFile, Any]]:
    """Rows of the table that stand for an earlier version of something that is to be captioned now."""
    for file in list(table.files):
        stale: list[int] = []
        for _, batch in table.batches(["uri", "image_id"], [file]):
            uris, ids = batch.column(0).to_pylist(), batch.column(1).to_pylist()
            again = pending.contains(np.array([image_id(uri, "") for uri in uris], np.int64))
            for uri, number, changed in zip(uris, ids, again.tolist(), strict=True):
                version = containers.get(container_of(uri)) if containers else None
                if changed or (version is not None and number != image_id(uri, version)):
                    stale.append(number)
        if stale:
            yield file, np.unique(np.array(stale, np.int64))


class _Writer:
    """Gathers rows into units, units into Arrow files."""

    def __init__(self, storage: Storage, prefix: str, inputs: Inputs) -> None:
        self.storage, self.prefix, self.inputs = storage, prefix, inputs
        self.units: list[Unit] = []
        self.rows = 0
        self.size = rows_per_unit(0)
        self._images: list[dict[str, Any]] = []
        self._batches: list[list[dict[str, Any]]] = []
        self._files = 0

    def image(self, item: Item, number: int) -> None:
        row = {"uri": item.uri, "version": item.version, "image_id": number, "size": item.size, "kind": "image"}
        self._images.append(row | item.carried)
        self.rows += 1
        if len(self._images) >= self.size:
            self._unit(self._images)
            self._images = []

    def container(self, item: Item) -> None:
        row: dict[str, Any] = {"uri": item.uri, "version": item.version, "kind": item.kind}
        if item.kind == "tar":
            self._unit([row])
            return
        first = 0
        for group, rows in enumerate(item.row_groups):
            if rows:
                part = {"row_group": group, "first_row": first, "total": sum(item.row_groups)}
                self._unit([{**row, **part}])
            first += rows
        self.rows += first

    def _unit(self, rows: list[dict[str, Any]]) -> None:
        self._batches.append(rows)
        if len(self._batches) >= UNITS_PER_FILE:
            self._write()

    def _write(self) -> None:
        if not self._batches:
            return
        schema = pa.schema([*FIXED, *(pa.field(*column) for column in self.inputs.carry_types.items())])
        uri = f"{self.prefix}-{self._files:06d}.arrow"
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
            for rows in self._batches:
                file.write_batch(pa.RecordBatch.from_pylist(rows, schema))
        self.storage.write(uri, sink.getvalue().to_pybytes())
        self.units += [Unit(uri, index) for index in range(len(self._batches))]
        self._files += 1
        self._batches = []

    def close(self) -> None:
        if self._images:
            self._unit(self._images)
            self._images = []
        self._write()


@lru_cache(maxsize=2)  # the units of one file often come to one worker
def _open(options: StorageOptions, file: str) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.BufferReader(Storage(options).read(file)))


def read_unit(unit: Unit, storage: Storage) -> pa.RecordBatch:
    """A unit's rows, with the columns `FIXED` and the carried ones."""
    return _open(storage.trusting().options, unit.file).get_batch(unit.index)


def delete_manifest(units: Iterable[Unit], storage: Storage) -> None:
    """Remove the manifest's files."""
    for file in sorted({unit.file for unit in units}):
        storage.delete(file)
