"""The manifest: what is left to do, in units that one fetch task reads each.

Listing streams into it; what the table already holds is left out on the way (an anti-join on `image_id`). It lies
beside the table as small Arrow files, so that neither driver nor scheduler holds it in memory, and goes when the
run ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.fernet import Fernet
from numpy.typing import NDArray

from captionkit.inputs.ids import IdMap, Ids, IdSet, address_hashes, image_id, image_ids
from captionkit.inputs.images import Batch, Images, in_batches
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
    """`address_hashes` of `images`, kept where the table has rows."""
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
    maker = ManifestMaker(inputs, table, prefix)
    for batch in in_batches(inputs.pieces(), CHUNK):
        maker.add(batch)
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
        self._writer = UnitWriter(table.storage, prefix, inputs)
        self._copies = UnitWriter(table.storage, f"{prefix}-copies", inputs)
        self._manifest = Manifest()
        self._pages = UnitWriter(table.storage, f"{prefix}-pages", inputs)
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

    def add(self, batch: Batch) -> None:
        """Take inputs in, some thousands at a time."""
        each_page = self._inputs.options.frame == "each"
        if isinstance(batch, Images) and not each_page:
            self._add_images(batch.take(self._fresh(batch.names)))
            return
        items = list(batch.items()) if isinstance(batch, Images) else batch
        names = pa.array([item.name for item in items], pa.string())
        items = [items[at] for at in self._fresh(names).tolist()]
        if each_page:
            self._add_paged([item for item in items if item.kind == "image" and has_pages(item.name)])
            items = [item for item in items if item.kind != "image" or not has_pages(item.name)]
        self._add_images(Images.of([item for item in items if item.kind == "image"]))
        for item in items:
            if item.kind != "image":
                self._add_container(item)

    def _fresh(self, names: pa.Array) -> NDArray[np.int64]:
        """Places of the addresses that are of this run's share and come for the first time."""
        own = np.arange(len(names))
        if self._share is not None:
            own = np.flatnonzero(self._share.holds(image_ids(names, "")))
        fresh = self._seen.add(address_hashes(names.take(pa.array(own)) if len(own) < len(names) else names))
        self._manifest.duplicates += len(own) - int(fresh.sum())
        return own[fresh]

    def _add_images(self, images: Images) -> None:
        """Take in images that come for the first time."""
        manifest, chosen = self._manifest, self._chosen
        self._images += len(images)
        self.listed += len(images)
        manifest.listed += len(images)
        ids = image_ids(images.names, images.versions)
        anew = chosen.find(ids) >= 0
        manifest.anew += int(anew.sum())
        todo = anew | ~self._done.contains(ids)
        by_pages = np.zeros(len(ids), np.bool_)
        if self._has_pages:
            keys = zip(images.names.to_pylist(), images.versions.to_pylist(), strict=True)
            by_pages |= np.array([key in self._finished for key in keys], np.bool_)
            todo &= ~by_pages | anew
        manifest.done += len(images) - int(todo.sum())
        for at in np.flatnonzero(by_pages & ~todo).tolist():
            manifest.done += self._pages_done[images.names[at].as_py()] - 1
        same_as = ids
        if self._inputs.options.dedupe:
            eligible = np.ones(len(ids), np.bool_) if self._of_done else todo
            eligible &= ~by_pages  # pages have captions of their own, and their file none that could be copied
            same_as = _first_of_contents(self._contents, images, ids, eligible, self._inputs.storage)
        copied = todo & (same_as != ids)
        read = todo & ~copied
        manifest.copies += int(copied.sum())
        manifest.single += int(read.sum())
        self._writer.size = self._copies.size = self._pages.size = rows_per_unit(self._images)
        for writer, chosen_here in ((self._copies, copied), (self._writer, read)):
            at = np.flatnonzero(chosen_here)
            writer.images(images.take(at), ids[at], same_as[at] if writer is self._copies else None)
        if read.any():
            self._count_members(images.names.filter(pa.array(read)))
        if self.had_rows:
            manifest.pending.add(address_hashes(images.names.filter(pa.array(todo & ~anew))))

    def _count_members(self, names: pa.Array) -> None:
        """Remember which containers images to do lie in, as far as these are not to be read themselves."""
        for name in names.filter(pc.match_substring(names, "#")).to_pylist():
            if (container := container_of(name)) != name:
                known = container in self._manifest.containers_to_do or container in self._read_before
                self._manifest.overlap += known
                self._members[container] += not known

    def _add_container(self, item: InputItem) -> None:
        manifest, name = self._manifest, item.name
        self.listed += 1
        manifest.containers += 1
        if name not in self._chosen.containers and (name, item.version) in self._finished:
            manifest.finished_containers += 1
            return
        self._to_read(name, item.version)
        manifest.unknown += item.kind == "tar"
        self._writer.container(item, name)

    def _add_paged(self, items: list[InputItem]) -> None:
        """Take in files of which each page is to be a row; how many there are is found out when they are read."""
        manifest, chosen, images = self._manifest, self._chosen, Images.of(items)
        self._images += len(items)
        self.listed += len(items)
        manifest.listed += len(items)
        ids, names = image_ids(images.names, images.versions), images.names.to_pylist()
        is_chosen = chosen.find(ids) >= 0
        anew = is_chosen | np.array([name in chosen.containers for name in names], np.bool_)
        has_row = self._done.contains(ids) & ~anew
        keys = [(name, item.version) for name, item in zip(names, items, strict=True)]
        by_pages = np.array([key in self._finished for key in keys], np.bool_) & ~anew & ~has_row
        todo = ~has_row & ~by_pages
        manifest.done += int(has_row.sum())
        for place in np.flatnonzero(by_pages).tolist():
            manifest.done += self._pages_done[names[place]]
        manifest.anew += int(is_chosen.sum())  # single pages, whose rows are to be replaced
        manifest.single += int(is_chosen.sum())
        manifest.unknown += int(todo.sum())
        manifest.paged += int(todo.sum())
        at = np.flatnonzero(todo)
        for place in at.tolist():
            self._to_read(names[place], items[place].version)
        self._pages.images(images.take(at), ids[at], kind="pages")

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


def _first_of_contents(contents: IdMap, images: Images, ids: Ids, eligible: NDArray[np.bool_], storage: Storage) -> Ids:
    """For each image, the id of the first one with its contents, as far as these are known; else its own: (n,)."""
    keys = [content_key(item) if fine else None for item, fine in zip(images.items(), eligible.tolist(), strict=True)]
    uris = images.uris.to_pylist()
    on_disk = [at for at in np.flatnonzero(eligible).tolist() if "://" not in uris[at]]
    with ThreadPoolExecutor(READERS) as pool:
        hashed = pool.map(lambda at: _hash(uris[at], storage), on_disk)
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
                again |= pending.contains(address_hashes(uris))
            if containers or of_pages:
                within = pc.or_(pc.match_substring_regex(uris, HAS_MEMBER), pc.is_in(uris, shards))
                for at in np.flatnonzero(within.to_numpy(zero_copy_only=False)).tolist():
                    uri = uris[at].as_py()
                    version = containers.get(container_of(uri))
                    if page_of(uri) is not None:  # of a file that is to be one row now
                        again[at] |= bool(pending.contains(address_hashes(pa.array([container_of(uri)])))[0])
                    again[at] |= version is not None and int(ids[at]) != image_id(uri, version)
            stale.append(ids[again])
        outdated = np.unique(np.concatenate([*stale, np.empty(0, np.int64)]))
        if len(outdated):
            yield file, outdated


class _Rows(NamedTuple):
    """Rows of a manifest before it is known which columns are carried."""

    columns: pa.RecordBatch
    """`MANIFEST_COLUMNS`."""
    carried: list[dict[str, Any]]

    def slice(self, start: int, size: int) -> _Rows:
        return _Rows(self.columns.slice(start, size), self.carried[start : start + size])

    @classmethod
    def of(cls, columns: dict[str, Any], carried: Sequence[dict[str, Any]]) -> _Rows:
        """Rows of some columns, the others null."""
        count = len(carried)
        every = [
            pa.nulls(count, each.type) if (values := columns.get(each.name)) is None else pa.array(values, each.type)
            for each in MANIFEST_COLUMNS
        ]
        return cls(pa.RecordBatch.from_arrays(every, schema=pa.schema(MANIFEST_COLUMNS)), list(carried))

    @classmethod
    def single(cls, row: dict[str, Any]) -> _Rows:
        return cls.of({name: [value] for name, value in row.items()}, [{}])


class UnitWriter:
    """Gathers rows into units, units into Arrow files."""

    def __init__(self, storage: Storage, prefix: str, inputs: Inputs) -> None:
        self.storage, self.prefix, self.inputs = storage, prefix, inputs
        self.units: list[ReadUnit] = []
        self.rows = 0
        self.size = rows_per_unit(0)
        self._images: list[_Rows] = []
        self._gathered = 0
        self._batches: list[_Rows] = []
        self._files = 0
        self._key = Fernet.generate_key()

    def images(self, images: Images, ids: Ids, same_as: Ids | None = None, kind: str = "image") -> None:
        if not len(images):
            return
        uris, names = images.uris, images.names
        columns = {
            "uri": names,
            "version": images.versions,
            "image_id": ids,
            "read_uri": None if names is uris else pc.if_else(pc.equal(names, uris), None, uris),
            "size": images.sizes,
            "kind": pa.repeat(kind, len(ids)),
            "same_as": same_as,
        }
        self._images.append(_Rows.of(columns, images.carried or [{}] * len(ids)))
        self._gathered += len(ids)
        self.rows += len(ids)
        if self._gathered >= self.size:
            self._cut(whole=True)

    def container(self, item: InputItem, name: str) -> None:
        read_uri = None if name == item.uri else item.uri
        row = {"uri": name, "version": item.version, "kind": item.kind, "read_uri": read_uri}
        if item.kind == "tar" or item.broken:
            self._unit(_Rows.single(row))
            return
        first, total = 0, sum(item.row_groups)
        for group, rows in enumerate(item.row_groups):
            if rows:
                more = {"row_group": group, "first_row": first, "rows": rows, "container_rows": total}
                self._unit(_Rows.single({**row, **more}))
            first += rows
        self.rows += first

    def _cut(self, whole: bool) -> None:
        """Make units of the images gathered; whole ones only, or of the rest too."""
        table = pa.Table.from_batches([rows.columns for rows in self._images]).combine_chunks()
        rows = _Rows(table.to_batches()[0], [each for rows in self._images for each in rows.carried])
        count, size = self._gathered, self.size
        end = count - count % size if whole else count
        for start in range(0, end, size):
            self._unit(rows.slice(start, size))
        self._gathered = count - end
        self._images = [rows.slice(end, size)] if self._gathered else []

    def _unit(self, rows: _Rows) -> None:
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
                columns = [*rows.columns.columns, pa.array(rows.carried, carried)]
                file.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        secret = any(rows.columns["read_uri"].null_count < len(rows.carried) for rows in self._batches)
        data = sink.getvalue().to_pybytes()
        self.storage.write(uri, Fernet(self._key).encrypt(data) if secret else data)
        self.units += [ReadUnit(uri, index, self._key if secret else None) for index in range(len(self._batches))]
        self._files += 1
        self._batches = []

    def take(self) -> tuple[list[ReadUnit], int]:
        """The units since the last time, all written, and the number of their images."""
        if self._images:
            self._cut(whole=False)
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
