"""The manifest: what is left to do, in units that one fetch task reads each.

Listing streams into it; what the table already holds is left out on the way (an anti-join on `image_id`). It lies
beside the table as small Arrow files, so that neither driver nor scheduler holds it in memory, and goes when the
run ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.fernet import Fernet
from numpy.typing import NDArray

from captionkit.inputs.ids import IdMap, Ids, IdSet, image_id
from captionkit.inputs.kinds import InputItem, content_key
from captionkit.inputs.listing import Inputs
from captionkit.inputs.share import Share
from captionkit.schema import HAS_MEMBER, MANIFEST_COLUMNS
from captionkit.storage import Storage, StorageOptions
from captionkit.table.recaption import Chosen
from captionkit.table.table import CaptionTable, TableFile, container_of

CHUNK = 8192
UNITS_PER_FILE = 32


@dataclass(frozen=True)
class ReadUnit:
    """What one fetch task reads: images by address, or one shard, or one row group."""

    file: str
    """Manifest file that holds it."""
    index: int
    """Its record batch in there."""
    key: bytes | None = field(default=None, repr=False)
    """What the file is encrypted with, where addresses in it hold secrets: the key is nowhere but in memory."""


@dataclass
class Manifest:
    """What is to be done, and what was found out on the way there."""

    units: list[ReadUnit] = field(default_factory=list)
    copy_units: list[ReadUnit] = field(default_factory=list)
    """Images that are not read, for their contents are those of others; in units as well."""
    copies: int = 0
    """How many these are."""
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
    anew: int = 0
    """Images (not those in containers) to do whose captions stay until new ones take their places."""
    images: int = 0
    """Images to do, as far as known before shards are read."""
    single: int = 0
    """Images of these that lie in no container."""
    unknown: int = 0
    """Shards to read whose number of images is not known."""
    partial: list[str] = field(default_factory=list)
    """Containers to read some of whose rows stand in the table."""
    pending: IdSet = field(default_factory=IdSet)
    """Hashes of the addresses of `images`, kept where the table has rows."""
    containers_to_do: dict[str, str] = field(default_factory=dict)
    """Addresses and versions of the containers to read."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files of folders that are no inputs, by suffix."""


def rows_per_unit(listed: int) -> int:
    """Images in a unit, growing with the archive: small ones keep few cores busy, large ones keep Ray's own
    bookkeeping of tasks small (a hundred million images in 100,000 units)."""
    return 128 if listed < 100_000 else 256 if listed < 1_000_000 else 1024


def make_manifest(
    inputs: Inputs,
    table: CaptionTable,
    prefix: str,
    progress: Callable[[int], None] = lambda _: None,
    share: Share | None = None,
    chosen: Chosen | None = None,
    of_done: bool = True,
) -> Manifest:
    """List the inputs, leave out what the table holds, write the rest.

    Args:
        prefix: What the addresses of the manifest's files begin with.
        progress: Called with the number of inputs listed so far, every `CHUNK` of them.
        share: The share of the addresses that is this run's; the others are passed over. Of a container, its own.
        chosen: Rows of the table to caption anew; these are not left out.
        of_done: Whether captions that the table holds will do for images of the same contents (`--dedupe`).
    """
    chosen = chosen or Chosen()
    manifest = Manifest()
    done = table.ids()
    seen = IdSet()
    writer, copies = _Writer(table.storage, prefix, inputs), _Writer(table.storage, f"{prefix}-copies", inputs)
    contents = IdMap()
    items = inputs.items()
    while chunk := [(item, item.name) for item in islice(items, CHUNK)]:
        names = np.array([image_id(name, "") for _, name in chunk], np.int64)
        if share is not None:
            own = np.flatnonzero(share.holds(names)).tolist()
            chunk, names = [chunk[at] for at in own], names[own]
        fresh = seen.add(names)
        manifest.duplicates += len(chunk) - int(fresh.sum())
        single = np.array([item.kind == "image" for item, _ in chunk])
        images = [chunk[at] for at in np.flatnonzero(fresh & single).tolist()]
        manifest.listed += len(images)
        ids = np.array([image_id(name, item.version) for item, name in images], np.int64)
        anew = chosen.find(ids) >= 0
        manifest.anew += int(anew.sum())
        todo = anew | ~done.contains(ids)
        manifest.done += len(images) - int(todo.sum())
        same_as = ids
        if inputs.options.dedupe:
            same_as = _first_of_contents(contents, images, ids, todo if not of_done else np.ones(len(ids), np.bool_))
        copied = todo & (same_as != ids)
        manifest.copies += int(copied.sum())
        manifest.single += int(todo.sum() - copied.sum())
        writer.size = copies.size = rows_per_unit(manifest.listed)
        for at in np.flatnonzero(todo).tolist():
            item, name = images[at]
            if copied[at]:
                copies.image(item, name, int(ids[at]), int(same_as[at]))
            else:
                writer.image(item, name, int(ids[at]))
        if len(table):
            manifest.pending.add(names[fresh & single][todo & ~anew])
        for at in np.flatnonzero(fresh & ~single).tolist():
            item, name = chunk[at]
            manifest.containers += 1
            if name not in chosen.containers and table.finished(name, item.version):
                manifest.finished_containers += 1
                continue
            manifest.containers_to_do[name] = item.version
            manifest.unknown += item.kind == "tar"
            writer.container(item, name)
        progress(manifest.listed + manifest.containers)
    writer.close()
    copies.close()
    manifest.units, manifest.images = writer.units, writer.rows
    manifest.copy_units = copies.units
    manifest.passed_over = inputs.ignored
    return manifest


def _first_of_contents(
    contents: IdMap, images: list[tuple[InputItem, str]], ids: Ids, eligible: NDArray[np.bool_]
) -> Ids:
    """For each image, the id of the first one with its contents, as far as these are known; else its own: (n,)."""
    keys = [content_key(item) if fine else None for (item, _), fine in zip(images, eligible.tolist(), strict=True)]
    known = np.flatnonzero([key is not None for key in keys])
    first: Ids = ids.copy()
    hashes = np.array([image_id(key, "") for key in keys if key is not None], np.int64)
    first[known] = contents.setdefault(hashes, ids[known])
    return first


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
    shards = pa.array(list(containers), pa.string())
    for file in list(table.files):
        stale: list[Ids] = []
        for _, batch in table.batches(["uri", "image_id"], [file]):
            uris, ids = batch.column(0), batch.column(1).to_numpy()
            again = np.zeros(len(batch), np.bool_)
            if len(pending):
                again |= pending.contains(np.array([image_id(uri, "") for uri in uris.to_pylist()], np.int64))
            if containers:
                within = pc.or_(pc.match_substring_regex(uris, HAS_MEMBER), pc.is_in(uris, shards))
                for at in np.flatnonzero(within.to_numpy(zero_copy_only=False)).tolist():
                    uri = uris[at].as_py()
                    version = containers.get(container_of(uri))
                    again[at] |= version is not None and int(ids[at]) != image_id(uri, version)
            stale.append(ids[again])
        found = np.unique(np.concatenate([*stale, np.empty(0, np.int64)]))
        if len(found):
            yield file, found


_Row = tuple[Any, ...]
"""The columns `MANIFEST_COLUMNS`, then a dictionary of the carried ones. A plain tuple: millions of them are made."""
READ_URI = [column.name for column in MANIFEST_COLUMNS].index("read_uri")
_NO_GROUP = (None, None, None, None)


def _batch(rows: list[_Row], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(values, column.type) for values, column in zip(zip(*rows, strict=True), schema, strict=False)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Writer:
    """Gathers rows into units, units into Arrow files."""

    def __init__(self, storage: Storage, prefix: str, inputs: Inputs) -> None:
        self.storage, self.prefix, self.inputs = storage, prefix, inputs
        self.units: list[ReadUnit] = []
        self.rows = 0
        self.size = rows_per_unit(0)
        self._images: list[_Row] = []
        self._batches: list[list[_Row]] = []
        self._files = 0
        self._key = Fernet.generate_key()

    def image(self, item: InputItem, name: str, number: int, same_as: int | None = None) -> None:
        address = None if name == item.uri else item.uri
        row = (name, item.version, number, address, item.size, "image", *_NO_GROUP, same_as, item.carried)
        self._images.append(row)
        self.rows += 1
        if len(self._images) >= self.size:
            self._unit(self._images)
            self._images = []

    def container(self, item: InputItem, name: str) -> None:
        row = (name, item.version, None, None if name == item.uri else item.uri, None, item.kind)
        if item.kind == "tar" or item.broken:
            self._unit([(*row, *_NO_GROUP, None, {})])
            return
        first, total = 0, sum(item.row_groups)
        for group, rows in enumerate(item.row_groups):
            if rows:
                self._unit([(*row, group, first, rows, total, None, {})])
            first += rows
        self.rows += first

    def _unit(self, rows: list[_Row]) -> None:
        self._batches.append(rows)
        if len(self._batches) >= UNITS_PER_FILE:
            self._write()

    def _write(self) -> None:
        if not self._batches:
            return
        carried = pa.struct([pa.field(*column) for column in self.inputs.carry_types.items()])
        # Not columns of their own: their names may be the manifest's.
        schema = pa.schema([*MANIFEST_COLUMNS, pa.field("carried", carried)])
        uri = f"{self.prefix}-{self._files:06d}.arrow"
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
            for rows in self._batches:
                file.write_batch(_batch(rows, schema))
        secret = any(row[READ_URI] is not None for rows in self._batches for row in rows)
        data = sink.getvalue().to_pybytes()
        self.storage.write(uri, Fernet(self._key).encrypt(data) if secret else data)
        self.units += [ReadUnit(uri, index, self._key if secret else None) for index in range(len(self._batches))]
        self._files += 1
        self._batches = []

    def close(self) -> None:
        if self._images:
            self._unit(self._images)
            self._images = []
        self._write()


@lru_cache(maxsize=2)  # the units of one file often come to one worker
def _open(options: StorageOptions, file: str, key: bytes | None) -> pa.ipc.RecordBatchFileReader:
    data = Storage(options).read(file)
    return pa.ipc.open_file(pa.BufferReader(data if key is None else Fernet(key).decrypt(data)))


def read_unit(unit: ReadUnit, storage: Storage) -> pa.RecordBatch:
    """A unit's rows, with the columns `MANIFEST_COLUMNS` and `carried`."""
    return _open(storage.without_scheme_limit().options, unit.file, unit.key).get_batch(unit.index)


def delete_manifest(units: Iterable[ReadUnit], storage: Storage) -> None:
    """Remove the manifest's files."""
    for file in sorted({unit.file for unit in units}):
        storage.delete(file)
