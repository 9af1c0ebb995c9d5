"""Fetch and decode: manifest units in, rows of pixels out. One Ray Data read task a unit.

A row that cannot be fetched or decoded leaves as a row with its reason; it never raises, since an error in Ray Data
costs the whole block. Only what would fail every row alike (no such bucket, wrong credentials) does raise.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from captionkit.images import DECODE_SECONDS, DECODER, ImageError, Limits, Preprocessing, Sandbox, shared_sandbox
from captionkit.pipeline.ids import Ids, image_id
from captionkit.pipeline.inputs import IMAGE_SUFFIXES, KEY_COLUMN, Item, image_column
from captionkit.pipeline.manifest import Unit, read_unit
from captionkit.storage import Storage, StorageError, StorageOptions, join_member

CHUNK = 64
"""Rows yielded at once, at most; also how many a task reads ahead of what it has yielded."""

CHUNK_BYTES = 64 * 2**20
"""Encoded bytes of a chunk aimed at: where images are large, chunks have fewer rows (one a thread at least)."""

PIXELS = [
    pa.field("uri", pa.string()),
    pa.field("image_id", pa.int64()),
    pa.field("pixels", pa.binary()),  # size × size × 3 uint8, RGB, row by row; null in a failed row
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("error_kind", pa.string()),
    pa.field("error", pa.string()),
    pa.field("total", pa.int64()),  # rows of the row's container, where known by now
    pa.field("version", pa.string()),
    pa.field("bytes", pa.int64()),
    pa.field("fetch_s", pa.float32()),
    pa.field("decode_s", pa.float32()),  # of processor time
]
"""What travels from fetch to captioner; carried columns follow."""


@dataclass(frozen=True)
class FetchOptions:
    """All that a fetch task needs to know; travels with each."""

    storage: StorageOptions
    preprocessing: Preprocessing
    limits: Limits
    threads: int
    image_column: str | None
    carry: tuple[tuple[str, pa.DataType], ...]
    done: ray.ObjectRef | None
    """Sorted ids of the rows that stand already of containers to be read again."""
    decode_seconds: float = DECODE_SECONDS
    """Time limit of one image's decoding."""
    decoder: str = DECODER
    """What decodes, as "module:function"."""


class _Source(NamedTuple):
    """One image on its way: where it is from, and how to get its bytes."""

    uri: str
    image_id: int
    version: str
    get: Callable[[], bytes]
    total: int | None = None
    carried: dict[str, Any] = {}  # noqa: RUF012  (never written to)


class UnitSource(Datasource):  # type: ignore[misc]  # Ray publishes no types
    """The manifest's units as a Ray Data source, each a read task of its own."""

    def __init__(self, units: list[Unit], options: FetchOptions) -> None:
        super().__init__()
        self._units, self._options = units, options

    def get_name(self) -> str:
        return "FetchAndDecode"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """One task a unit, whatever parallelism Ray would choose."""
        # Unknown rows and sizes: a shard tells only when it is read.
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(fetch_unit, unit, self._options), metadata) for unit in self._units]


def fetch_unit(unit: Unit, options: FetchOptions) -> Iterator[pa.Table]:
    """Read and decode one unit, in tables of at most `CHUNK` rows with the columns of `PIXELS`.

    Raises:
        StorageError: of a kind that would fail every row alike.
    """
    storage = Storage(options.storage)
    rows = read_unit(unit, storage).to_pylist()
    sources: Iterable[_Source | _Failure]
    if rows[0]["kind"] == "image":
        names = [name for name, _ in options.carry]
        sources = (
            _Source(
                row["uri"],
                row["image_id"],
                row["version"],
                partial(_read, storage, row["uri"], row["size"], options.limits),
                carried={name: row[name] for name in names},
            )
            for row in rows
        )
    else:
        done: Ids = np.empty(0, np.int64) if options.done is None else ray.get(options.done)
        read = _tar if rows[0]["kind"] == "tar" else _row_group
        sources = read(rows[0], storage, options, done)
    # Ray gives a worker process one task at a time: the next one finds this child running.
    sandbox = shared_sandbox(
        options.preprocessing,
        options.limits,
        min(options.threads, _cores()),
        options.decode_seconds,
        options.decoder,
    )
    length = min(CHUNK, options.threads)  # until it is known how large images are here
    left = iter(sources)
    # Two decode by turns, so that the child has the next chunk when it has finished one.
    with ThreadPoolExecutor(options.threads) as readers, ThreadPoolExecutor(2) as decoders:

        def submit() -> Future[pa.Table] | None:
            reads = [readers.submit(_fetch, item) for item in islice(left, length)]
            return decoders.submit(_decode, reads, sandbox, options) if reads else None

        ahead = submit()
        while ahead:
            # Ahead by one chunk: while one waits downstream the next is being read.
            current, ahead = ahead, submit()
            table = current.result()
            del current  # the table is downstream's to free
            mean = pc.mean(table["bytes"]).as_py() or 0
            length = max(min(CHUNK, options.threads), min(CHUNK, int(CHUNK_BYTES / max(1, mean))))
            yield table


def encoded_images(item: Item, options: FetchOptions) -> Iterator[bytes]:
    """An input's images as they are stored, one by one: for a look at what there is.

    Raises:
        ImageError: too large to be read.
        StorageError: it cannot be read, or its container has broken.
    """
    storage = Storage(options.storage)
    if item.kind == "image":
        yield _read(storage, item.uri, item.size, options.limits)
        return
    row = {"uri": item.uri, "version": item.version, "row_group": 0, "first_row": 0, "total": sum(item.row_groups)}
    for source in (_tar if item.kind == "tar" else _row_group)(row, storage, options, np.empty(0, np.int64)):
        if isinstance(source, _Failure):
            raise StorageError(source.kind, source.error)
        yield source.get()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Failure(NamedTuple):
    """A container that broke: the row of the container itself."""

    uri: str
    image_id: int
    version: str
    kind: str
    error: str
    total: int


def _in(done: Ids, number: int) -> bool:
    at = int(np.searchsorted(done, number))
    return at < len(done) and int(done[at]) == number


def _tar(row: dict[str, Any], storage: Storage, options: FetchOptions, done: Ids) -> Iterator[_Source | _Failure]:
    """The images of a tar shard that are not done, read once from front to back.

    The last one knows how many rows the shard has, done ones included.
    """
    shard, version = row["uri"], row["version"]
    keyed = any(name == KEY_COLUMN for name, _ in options.carry)
    count = 0
    last: _Source | None = None
    seen: set[str] = set()
    try:
        with storage.open(shard) as stream:
            tail = _Tail(gzip.GzipFile(fileobj=stream) if shard.endswith("gz") else stream)
            with tarfile.open(fileobj=cast("BinaryIO", tail), mode="r|") as tar:  # it only ever reads
                for member in tar:
                    name = member.name
                    if not member.isfile() or name in seen or not _is_image(name):
                        continue
                    seen.add(name)
                    uri = join_member(shard, name)
                    number = image_id(uri, version)
                    if not _in(done, number):
                        data = _body(tar, member, options.limits.max_bytes)
                        if last is not None:
                            yield last
                        carried = {KEY_COLUMN: _sample_key(name)} if keyed else {}
                        last = _Source(uri, number, version, partial(bytes, data), None, carried)
                    count += 1
            if any(tail.last):
                raise tarfile.ReadError("it ends without an end marker")
    # OSError is what gzip and local disks raise, zlib's error what broken compression does.
    except (tarfile.TarError, EOFError, OSError, zlib.error, StorageError) as err:
        if isinstance(err, StorageError) and err.hopeless:
            raise
        if last is not None:
            yield last
        kind = err.kind if isinstance(err, StorageError) else "truncated"
        reason = f"the shard broke after {count} images: {err}"
        yield _Failure(shard, image_id(shard, version), version, kind, reason, count + 1)
    else:
        if last is not None:
            yield last._replace(total=count)


class _Tail:
    """A stream that remembers the end of what was read last.

    A tar ends with blocks of zeros. `tarfile` takes a missing end for a proper one, and so a shard whose upload was
    cut off for a whole one.
    """

    def __init__(self, stream: BinaryIO | gzip.GzipFile) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.last = data[-512:] or self.last
        return data


def _body(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    """A member's bytes; of one over the limit, one byte more than that: it tells the decoder so."""
    body = tar.extractfile(member)
    assert body is not None  # it is a file
    wanted = min(member.size, limit + 1)
    data = body.read(wanted)
    if len(data) < wanted:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _is_image(name: str) -> bool:
    base = name.rpartition("/")[2]
    return not base.startswith(".") and base.lower()[base.rfind(".") :] in IMAGE_SUFFIXES


def _sample_key(name: str) -> str:
    """WebDataset's key of a member: its path up to the first dot of its file name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _row_group(row: dict[str, Any], storage: Storage, options: FetchOptions, done: Ids) -> Iterator[_Source]:
    """The images of one row group of a Parquet file that are not done."""
    file, version = row["uri"], row["version"]
    with storage.open(file) as stream:
        parquet = pq.ParquetFile(stream)
        column = image_column(parquet.schema_arrow, options.image_column)
        names = [name for name, _ in options.carry if name in parquet.schema_arrow.names]
        number = row["first_row"]
        batches = parquet.iter_batches(CHUNK, row_groups=[row["row_group"]], columns=[column, *names])
        for batch in batches:
            images = batch.column(batch.schema.get_field_index(column))
            if pa.types.is_struct(images.type):
                images = images.field("bytes")
            carried = batch.select(names).to_pylist() if names else [{}] * len(batch)
            for image, extra in zip(images, carried, strict=True):
                uri = join_member(file, str(number))
                number += 1
                key = image_id(uri, version)
                if not _in(done, key):
                    yield _Source(uri, key, version, partial(bytes, image.as_py() or b""), row["total"], extra)


def _read(storage: Storage, uri: str, size: int | None, limits: Limits) -> bytes:
    """An image's bytes; one that is listed as too large is not read to find that out."""
    if size is not None and size > limits.max_bytes:
        raise ImageError("too_many_bytes", f"{size:,} bytes, and {limits.max_bytes:,} are allowed")
    return storage.read(uri)


def _fetch(item: _Source | _Failure) -> tuple[dict[str, Any], bytes | None]:
    """A row as far as it goes without pixels, and its image's bytes where they could be had."""
    row: dict[str, Any] = {
        "uri": item.uri,
        "image_id": item.image_id,
        "version": item.version,
        "total": item.total,
    }
    if isinstance(item, _Failure):
        return {**row, "error_kind": item.kind, "error": item.error}, None
    row.update(item.carried)
    start = time.perf_counter()
    try:
        data = item.get()
    except (StorageError, ImageError) as err:
        if isinstance(err, StorageError) and err.hopeless:
            raise
        return {**row, "error_kind": err.kind, "error": str(err), "fetch_s": time.perf_counter() - start}, None
    row.update(bytes=len(data), fetch_s=time.perf_counter() - start)
    return row, data


def _decode(
    reads: list[Future[tuple[dict[str, Any], bytes | None]]], sandbox: Sandbox, options: FetchOptions
) -> pa.Table:
    """A chunk's table, once all of it is read."""
    rows = [future.result() for future in reads]
    reads.clear()
    read = [(row, data) for row, data in rows if data is not None]
    for (row, _), outcome in zip(read, sandbox.decode_many([data for _, data in read]), strict=True):
        if isinstance(outcome, ImageError):
            row.update(error_kind=outcome.kind, error=str(outcome))
        else:
            # A view: Arrow makes the copy.
            row.update(pixels=outcome.pixels.data.cast("B"), width=outcome.width, height=outcome.height)
        row["decode_s"] = outcome.seconds
    return _table([row for row, _ in rows], options)


def _table(rows: list[dict[str, Any]], options: FetchOptions) -> pa.Table:
    schema = pa.schema([*PIXELS, *(pa.field(name, kind) for name, kind in options.carry)])
    return pa.Table.from_pylist(rows, schema)
