"""The manifest: what is left to do, in units that one fetch task reads each.

Listing streams into it; what the table already holds is left out on the way (an anti-join on `image_id`). It lies
beside the table as small Arrow files, so that neither driver nor scheduler holds it in memory, and goes when the
run ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
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
from captionkit.storage import Storage, StorageError, StorageOptions, has_pages, page_of
from captionkit.table.recaption import Chosen
from captionkit.table.table import CaptionTable, TableFile, container_of

CHUNK = 8192
READERS = 16
"""Files on disk that are hashed at a time."""
COUNTS = (
    "listed", "containers", "duplicates", "done", "finished_containers", "replaced", "anew", "images", "single",
    "overlap", "unknown", "paged", "copies",
)  # fmt: skip
"""Those of a manifest's fields that are numbers."""
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
    """Units of the images that are not read, for their contents are those of others; not among `units`."""
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
    """Images of these that are read one by one."""
    overlap: int = 0
    """Images of `single` that a container to read has too, as where a list names a shard and a member of it."""
    unknown: int = 0
    """Shards, and files of pages, to read whose number of images is not known."""
    paged: int = 0
    """Of these, files each of whose pages is to be an image."""
    partial: list[str] = field(default_factory=list)
    """Containers to read some of whose rows stand in the table."""
    pending: IdSet = field(default_factory=IdSet)
    """Hashes of the addresses of `images`, kept where the table has rows."""
    containers_to_do: dict[str, str] = field(default_factory=dict)
    """Addresses and versions of the containers to read."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files of folders that are no inputs, by suffix."""

    def count(self, other: Manifest) -> None:
        """Add another part's numbers to this one's."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.passed_over += other.passed_over


def rows_per_unit(listed: int) -> int:
    """Images in a unit, growing with the archive: small ones keep few cores busy, large ones keep Ray's own
    bookkeeping of tasks small (a hundred million images in 100,000 units)."""
    return 128 if listed < 100_000 else 256 if listed < 1_000_000 else 1024


def make_manifest(
    inputs: Inputs, table: CaptionTable, prefix: str, progress: Callable[[int], None] = lambda _: None
) -> Manifest:
    """List the inputs, leave out what the table holds, write the rest; `ManifestMaker` in one go.

    Args:
        prefix: What the addresses of the manifest's files begin with.
        progress: Called with the number of inputs listed so far, every `CHUNK` of them.
    """
    maker, items = ManifestMaker(inputs, table, prefix), inputs.items()
    while chunk := list(islice(items, CHUNK)):
        maker.add(chunk)
        progress(maker.listed)
    return maker.take()


class ManifestMaker:
    """Makes a manifest of inputs as they are listed, in one part or several.

    Args:
        table: As it stands when listing begins.
        prefix: What the addresses of the manifest's files begin with.
        share: The share of the addresses that is this run's; the others are passed over. Of a container, its own.
        chosen: Rows of the table to caption anew; these are not left out.
        of_done: Whether captions that the table holds will do for images of the same contents (`--dedupe`).
    """

    def __init__(
        self,
        inputs: Inputs,
        table: CaptionTable,
        prefix: str,
        share: Share | None = None,
        chosen: Chosen | None = None,
        of_done: bool = True,
    ) -> None:
        self._inputs, self._share, self._chosen, self._of_done = inputs, share, chosen or Chosen(), of_done
        self._table = copy(table)
        self._table.files = list(table.files)  # of the table itself others may change it meanwhile
        self._done, self._seen, self._contents = table.ids(), IdSet(), IdMap()
        self._writer = _Writer(table.storage, prefix, inputs)
        self._copies = _Writer(table.storage, f"{prefix}-copies", inputs)
        self._manifest = Manifest()
        self._pages = _Writer(table.storage, f"{prefix}-pages", inputs)
        self._finished = table.finished_containers()
        self._has_pages = any(has_pages(uri) for uri, _ in self._finished)
        """Whether pages of files have rows of their own by now."""
        self._pages_done = Counter[str]()
        """How many such rows each file of pages has."""
        for uri, part in ((uri, part) for file in table.files for uri, part in file.footer.containers.items()):
            if part.total is not None and (uri, part.version) in self._finished and has_pages(uri):
                self._pages_done[uri] = part.total
        self._members = Counter[str]()
        """Images to do one by one, by the container that they lie in."""
        self._read_before = set[str]()
        """Containers to read of the parts that were taken."""
        self._passed_over = Counter[str]()
        self.listed = 0
        """Images and containers so far."""
        self._images = 0

    @property
    def had_rows(self) -> bool:
        """Whether the table held anything when listing began."""
        return len(self._table) > 0

    @property
    def to_do(self) -> int:
        """Images to do since the last `take`, a shard counted as one."""
        return self._writer.rows + self._manifest.unknown

    def add(self, items: list[InputItem]) -> None:
        """Take inputs in, some thousands at a time."""
        manifest, chosen = self._manifest, self._chosen
        chunk = [(item, item.name) for item in items]
        names = np.array([image_id(name, "") for _, name in chunk], np.int64)
        if self._share is not None:
            own = np.flatnonzero(self._share.holds(names)).tolist()
            chunk, names = [chunk[at] for at in own], names[own]
        fresh = self._seen.add(names)
        hashes = names.tolist()
        manifest.duplicates += len(chunk) - int(fresh.sum())
        single = np.array([item.kind == "image" for item, _ in chunk], np.bool_)
        if self._inputs.options.frame == "each":
            paged = fresh & single & np.array([has_pages(name) for _, name in chunk], np.bool_)
            self._add_paged([chunk[at] for at in np.flatnonzero(paged).tolist()])
            fresh &= ~paged
        singles = np.flatnonzero(fresh & single).tolist()
        images = [chunk[at] for at in singles]
        self._images += len(images)
        manifest.listed += len(images)
        ids = np.array(
            [
                image_id(name, item.version) if item.version else hashes[at]  # which is the same
                for (item, name), at in zip(images, singles, strict=True)
            ],
            np.int64,
        )
        anew = chosen.find(ids) >= 0
        manifest.anew += int(anew.sum())
        todo = anew | ~self._done.contains(ids)
        by_pages = np.zeros(len(ids), np.bool_)
        if self._has_pages:
            by_pages |= np.array([(name, item.version) in self._finished for item, name in images], np.bool_)
            todo &= ~by_pages | anew
        manifest.done += len(images) - int(todo.sum())
        for at in np.flatnonzero(by_pages & ~todo).tolist():
            manifest.done += self._pages_done[images[at][1]] - 1
        same_as = ids
        if self._inputs.options.dedupe:
            eligible = np.ones(len(ids), np.bool_) if self._of_done else todo
            eligible &= ~by_pages  # pages have captions of their own, and their file none that could be copied
            same_as = _first_of_contents(self._contents, images, ids, eligible, self._inputs.storage)
        copied = todo & (same_as != ids)
        manifest.copies += int(copied.sum())
        manifest.single += int(todo.sum() - copied.sum())
        self._writer.size = self._copies.size = self._pages.size = rows_per_unit(self._images)
        for at in np.flatnonzero(todo).tolist():
            item, name = images[at]
            if copied[at]:
                self._copies.image(item, name, int(ids[at]), int(same_as[at]))
            else:
                self._writer.image(item, name, int(ids[at]))
                if "#" in name and (container := container_of(name)) != name:
                    known = container in manifest.containers_to_do or container in self._read_before
                    manifest.overlap += known
                    self._members[container] += not known
        if self.had_rows:
            manifest.pending.add(names[fresh & single][todo & ~anew])
        for at in np.flatnonzero(fresh & ~single).tolist():
            item, name = chunk[at]
            manifest.containers += 1
            if name not in chosen.containers and (name, item.version) in self._finished:
                manifest.finished_containers += 1
                continue
            self._to_read(name, item.version)
            manifest.unknown += item.kind == "tar"
            self._writer.container(item, name)
        self.listed += len(images) + int((fresh & ~single).sum())

    def _add_paged(self, items: list[tuple[InputItem, str]]) -> None:
        """Take in files of which each page is to be a row; how many there are is found out when they are read."""
        manifest, chosen = self._manifest, self._chosen
        self._images += len(items)
        self.listed += len(items)
        manifest.listed += len(items)
        ids = np.array([image_id(name, item.version) for item, name in items], np.int64)
        anew = (chosen.find(ids) >= 0) | np.array([name in chosen.containers for _, name in items], np.bool_)
        done = self._done.contains(ids) & ~anew
        for (item, name), number, again, whole in zip(items, ids.tolist(), anew.tolist(), done.tolist(), strict=True):
            if whole or ((name, item.version) in self._finished and not again):
                manifest.done += 1 if whole else self._pages_done[name]
                continue
            if again and chosen.find(np.array([number]))[0] >= 0:  # a single page, whose row is to be replaced
                manifest.anew += 1
                manifest.single += 1
            self._to_read(name, item.version)
            manifest.unknown += 1
            manifest.paged += 1
            self._pages.image(item, name, number, kind="pages")

    def _to_read(self, container: str, version: str) -> None:
        self._manifest.containers_to_do[container] = version
        self._manifest.overlap += self._members.pop(container, 0)

    @property
    def written(self) -> list[ReadUnit]:
        """Units that lie in storage and were not taken yet."""
        return [*self._writer.units, *self._copies.units, *self._pages.units]

    def take(self) -> Manifest:
        """What was added since the last time."""
        part, self._manifest = self._manifest, Manifest()
        self._members.clear()
        self._read_before.update(part.containers_to_do)
        part.units, part.images = self._writer.take()
        part.copy_units, _ = self._copies.take()
        part.units += self._pages.take()[0]
        before, self._passed_over = self._passed_over, self._inputs.ignored.copy()
        part.passed_over = self._passed_over - before
        return part


def _first_of_contents(
    contents: IdMap, images: list[tuple[InputItem, str]], ids: Ids, eligible: NDArray[np.bool_], storage: Storage
) -> Ids:
    """For each image, the id of the first one with its contents, as far as these are known; else its own: (n,)."""
    keys = [content_key(item) if fine else None for (item, _), fine in zip(images, eligible.tolist(), strict=True)]
    on_disk = [at for at in np.flatnonzero(eligible).tolist() if "://" not in images[at][0].uri]
    with ThreadPoolExecutor(READERS) as pool:
        hashed = pool.map(lambda at: _hash(images[at][0].uri, storage), on_disk)
        for at, key in zip(on_disk, hashed, strict=True):
            keys[at] = key
    known = np.flatnonzero([key is not None for key in keys])
    first: Ids = ids.copy()
    hashes = np.array([image_id(key, "") for key in keys if key is not None], np.int64)
    first[known] = contents.setdefault(hashes, ids[known])
    return first


def _hash(uri: str, storage: Storage) -> str | None:
    """What files of the same bytes have in common; None for one that cannot be read, as its row will say."""
    hashed = blake2b(digest_size=16)
    try:
        with storage.open(uri) as file:
            while part := file.read(2**20):
                hashed.update(part)
    except (StorageError, OSError):
        return None
    return hashed.hexdigest()


def replace_changed(manifest: Manifest, table: CaptionTable) -> None:
    """Take out of the table the rows of images that have changed since; the manifest has them to be captioned anew.

    Before the new captions come, not after: a run that dies in between leaves an image without a row, which the
    next one captions, and never an image with two.
    """
    containers = manifest.containers_to_do
    if len(table) and (len(manifest.pending) or containers):
        manifest.replaced = table.drop(_stale(table, manifest.pending, containers))
        known = set[str]().union(*(file.footer.containers for file in table.files))
        manifest.partial = [uri for uri in containers if uri in known]


def _stale(table: CaptionTable, pending: IdSet, containers: dict[str, str]) -> Iterator[tuple[TableFile, Any]]:
    """Rows of the table that stand for an earlier version of something that is to be captioned now."""
    shards = pa.array(list(containers), pa.string())
    of_pages = any(has_pages(uri) for file in table.files for uri in file.footer.containers)
    for file in list(table.files):
        stale: list[Ids] = []
        for _, batch in table.batches(["uri", "image_id"], [file]):
            uris, ids = batch.column(0), batch.column(1).to_numpy()
            again = np.zeros(len(batch), np.bool_)
            if len(pending):
                again |= pending.contains(np.array([image_id(uri, "") for uri in uris.to_pylist()], np.int64))
            if containers or of_pages:
                within = pc.or_(pc.match_substring_regex(uris, HAS_MEMBER), pc.is_in(uris, shards))
                for at in np.flatnonzero(within.to_numpy(zero_copy_only=False)).tolist():
                    uri = uris[at].as_py()
                    version = containers.get(container_of(uri))
                    if page_of(uri) is not None:  # of a file that is to be one row now
                        again[at] |= bool(pending.contains(np.array([image_id(container_of(uri), "")], np.int64))[0])
                    again[at] |= version is not None and int(ids[at]) != image_id(uri, version)
            stale.append(ids[again])
        outdated = np.unique(np.concatenate([*stale, np.empty(0, np.int64)]))
        if len(outdated):
            yield file, outdated


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

    def image(self, item: InputItem, name: str, number: int, same_as: int | None = None, kind: str = "image") -> None:
        address = None if name == item.uri else item.uri
        row = (name, item.version, number, address, item.size, kind, *_NO_GROUP, same_as, item.carried)
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

    def take(self) -> tuple[list[ReadUnit], int]:
        """The units since the last time, all written, and the number of their images."""
        if self._images:
            self._unit(self._images)
            self._images = []
        self._write()
        taken = self.units, self.rows
        self.units, self.rows = [], 0
        return taken


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
