"""Fetch and decode: manifest units in, rows of pixels out. One Ray Data read task a unit.

A row that cannot be fetched or decoded leaves as a row with its reason; it never raises, since an error in Ray Data
costs the whole block. Only what would fail every row alike (no such bucket, wrong credentials) does raise.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from captionkit.images import (
    COUNTER,
    DECODE_SECONDS,
    DECODER,
    ImageError,
    Limits,
    Preprocessing,
    Sandbox,
    shared_sandbox,
)
from captionkit.inputs.containers import (
    BrokenContainer,
    ContainerOptions,
    EncodedImage,
    is_in,
    page_addresses,
    raised,
    read_image,
    read_row_group,
    read_tar,
)
from captionkit.inputs.ids import Ids, image_id
from captionkit.inputs.kinds import InputItem, content_key
from captionkit.pipeline.contents import first_with_contents
from captionkit.pipeline.manifest import ReadUnit, read_unit
from captionkit.schema import PIXELS, RETRIES
from captionkit.storage import FAULTS, AddressError, Storage, StorageError, StorageOptions, page_of, retry_counts

CHUNK = 64
"""Rows read and decoded at once, at most."""

BLOCK_BYTES = 32 * 2**20
"""Pixels of a block on its way to an actor, about: some 200 images at 224 × 224."""
CHUNKS_PER_BLOCK = 3

MAX_PAGES = 10_000
"""Rows that one file may become: a small file can claim millions of pages."""

CHUNK_BYTES = 64 * 2**20
"""Encoded bytes of a chunk aimed at: where images are known to be large, or not known to be small, chunks have fewer
rows (one a thread at least)."""


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
    renamed: dict[str, str] = field(default_factory=dict)
    """As in `ContainerOptions`."""
    skip: str | None = None
    """The carried column with the caption that an image brings: where there is one, the image is not decoded."""
    each_page: bool = False
    """Whether each page of a file is a row."""
    contents: ray.actor.ActorHandle | None = None
    """`captionkit.pipeline.contents.Contents`, to be asked for images whose listing does not tell what they hold
    (`--dedupe`)."""

    @property
    def containers(self) -> ContainerOptions:
        count = self.count_pages if self.each_page else None
        return ContainerOptions(self.limits, self.image_column, self.carry, self.renamed, count)

    def count_pages(self, data: bytes) -> int:
        """How many pages a file has, as a child process finds.

        Raises ImageError for more than `MAX_PAGES`, and for a file whose pages cannot be counted: its first may be
        whole, and the others would be missing without a word.
        """
        one_pixel = Preprocessing(1, 1)
        (outcome,) = shared_sandbox(one_pixel, self.limits, 1, self.decode_seconds, COUNTER).decode_many([data])
        if isinstance(outcome, ImageError):
            raise outcome
        if outcome.width > MAX_PAGES:
            message = f"{outcome.width:,} pages or frames, and of one file {MAX_PAGES:,} at most become rows; split it"
            raise ImageError("unsupported_format", message)
        return outcome.width

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's pixels."""
        return self.preprocessing.size**2 * 3

    @property
    def step(self) -> int:
        """Rows by which chunks grow: one a thread."""
        return min(self.threads, CHUNK)

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk, at most: whole steps, and few enough that `CHUNKS_PER_BLOCK` make a block."""
        most = min(CHUNK, BLOCK_BYTES // (CHUNKS_PER_BLOCK * self.image_bytes))
        return max(1, most // self.step) * self.step

    @property
    def block_rows(self) -> int:
        """Rows of every table that a fetch task yields, but for its last one."""
        return CHUNKS_PER_BLOCK * self.chunk_rows

    @property
    def block_bytes(self) -> int:
        """What to give Ray Data as the size of a block, for it to take tables as they are.

        It puts together what is not larger, and slices what is larger than half as much again. A failed row has as many
        bytes of pixels as any, so that only texts as long as half an image could make it slice.
        """
        return self.block_rows * self.image_bytes - 1


class ManifestDatasource(Datasource):  # type: ignore[misc]  # Ray publishes no types
    """The manifest's units as a Ray Data source, each a read task of its own."""

    def __init__(self, units: list[ReadUnit], options: FetchOptions) -> None:
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


def fetch_unit(unit: ReadUnit, options: FetchOptions) -> Iterator[pa.Table]:
    """Read and decode one unit, in tables of `block_rows` rows, with the columns of `PIXELS`; the last has fewer.

    Where a machine is lost, Ray runs this again elsewhere and takes the lost blocks by their numbers: so which rows a
    table has must not depend on what is read, how long it takes, or what fails.

    Raises:
        StorageError: of a kind that would fail every row alike.
    """
    retries = _RetriesSince()
    storage = Storage(options.storage)
    rows = read_unit(unit, storage).to_pylist()
    sources: Iterable[EncodedImage | BrokenContainer]
    done: Ids = np.empty(0, np.int64)
    if rows[0]["kind"] != "image" and options.done is not None:
        done = ray.get(options.done)
    if rows[0]["kind"] == "image":
        sources = (
            EncodedImage(
                row["uri"],
                row["image_id"],
                row["version"],
                partial(read_image, storage, row["read_uri"] or row["uri"], row["size"], options.limits),
                carried=row["carried"] or {},
                size=row["size"],
            )
            for row in rows
        )
    elif rows[0]["kind"] == "pages":
        sources = _pages(rows, storage, options, done)
    else:
        read = read_tar if rows[0]["kind"] == "tar" else read_row_group
        sources = read(rows[0], storage, options.containers, done)
    # Ray gives a worker process one task at a time: the next one finds this child running.
    sandbox = shared_sandbox(
        options.preprocessing,
        options.limits,
        min(options.threads, _cores()),
        options.decode_seconds,
        options.decoder,
    )
    left = chunks(sources, options)
    untold = _untold(rows) if options.contents is not None else frozenset()
    fetch = _fetch if options.skip is None else partial(_fetch_lacking, options.skip)
    # Two decode by turns, so that the child has the next chunk when it has finished one.
    with ThreadPoolExecutor(options.threads) as readers, ThreadPoolExecutor(2) as decoders:

        def submit() -> Future[pa.Table] | None:
            reads = [readers.submit(fetch, item) for item in next(left, ())]
            return decoders.submit(_decode, reads, sandbox, options, untold) if reads else None

        block: list[pa.Table] = []
        ahead = submit()
        while ahead:
            # Ahead by one chunk: while one waits downstream the next is being read.
            current, ahead = ahead, submit()
            table = current.result()
            del current  # the table is downstream's to free
            block.append(table.append_column(RETRIES, retries.column(len(table))))
            del table
            if sum(map(len, block)) == options.block_rows or not ahead:
                yield pa.concat_tables(block)
                block.clear()


def _pages(rows: list[dict[str, Any]], storage: Storage, options: FetchOptions, done: Ids) -> Iterator[EncodedImage]:
    """The pages of files that are not done. As many files are read ahead as there are threads."""

    def read(row: dict[str, Any]) -> tuple[Callable[[], bytes], int, int | None]:
        """How to get a file's bytes, its pages, its size."""
        try:
            data = read_image(storage, row["read_uri"] or row["uri"], row["size"], options.limits)
            return partial(bytes, data), options.count_pages(data), len(data)
        except (StorageError, ImageError, AddressError) as err:
            return partial(raised, err), 1, None

    waiting: deque[tuple[dict[str, Any], Future[tuple[Callable[[], bytes], int, int | None]]]] = deque()
    left, ahead = iter(rows), 0
    with ThreadPoolExecutor(options.threads) as readers:
        while True:
            while len(waiting) < options.threads and (ahead < CHUNK_BYTES or not waiting):
                row = next(left, None)
                if row is None:
                    break
                waiting.append((row, readers.submit(read, row)))
                ahead += row["size"] or 0
            if not waiting:
                return
            row, future = waiting.popleft()
            ahead -= row["size"] or 0
            get, count, size = future.result()
            carried = row["carried"] or {}
            for place, uri in enumerate(page_addresses(row["uri"], count)):
                number = image_id(uri, row["version"])
                if not is_in(done, number):
                    yield EncodedImage(
                        uri, number, row["version"], get, count, carried=carried, size=size, again=place > 0
                    )


def chunks(
    sources: Iterable[EncodedImage | BrokenContainer], options: FetchOptions
) -> Iterator[list[EncodedImage | BrokenContainer]]:
    """A unit's images in lists to be read together, some of which make up `block_rows` to the row."""
    left, step, rows = iter(sources), options.step, 0
    while chunk := list(islice(left, step)):
        most = min(options.chunk_rows, options.block_rows - rows % options.block_rows)
        while len(chunk) + step <= most and _size(chunk) * (len(chunk) + step) / len(chunk) <= CHUNK_BYTES:
            more = list(islice(left, step))
            if not more:
                break
            chunk += more
        rows += len(chunk)
        yield chunk


def _size(chunk: list[EncodedImage | BrokenContainer]) -> float:
    """Encoded bytes of some images; infinite where those of one are not known."""
    sizes = [0 if isinstance(item, BrokenContainer) else item.size for item in chunk]
    return sum(math.inf if size is None else size for size in sizes)


def sum_retries(rows: pa.Table) -> Counter[str]:
    """By fault, what the column `RETRIES` adds up to."""
    retries = rows.filter(rows["retries"].is_valid())["retries"]
    counts = {fault: pc.sum(pc.struct_field(retries, fault)).as_py() for fault in FAULTS} if len(retries) else {}
    return Counter({fault: count for fault, count in counts.items() if count})


class _RetriesSince:
    """What this process has tried again since it was last asked. Ray gives it one task at a time, so that is a task's.

    Counts of a block that is lost on its way are lost with it.
    """

    def __init__(self) -> None:
        self._before = Counter(retry_counts())

    def column(self, length: int) -> pa.Array:
        now = Counter(retry_counts())
        since, self._before = now - self._before, now
        return pa.array([since or None, *[None] * (length - 1)], RETRIES.type)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fetch(item: EncodedImage | BrokenContainer) -> tuple[dict[str, Any], bytes | None]:
    """A row as far as it goes without pixels, and its image's bytes where they could be had."""
    row: dict[str, Any] = {
        "uri": item.uri,
        "image_id": item.image_id,
        "version": item.version,
        "container_rows": item.container_rows,
        "duplicate_members": item.duplicate_members or None,
        "passed_over": json.dumps(item.passed_over) if item.passed_over else None,
        "odd_texts": json.dumps(item.odd_texts) if item.odd_texts else None,
    }
    if isinstance(item, BrokenContainer):
        return {**row, "error_kind": item.kind, "error": item.error}, None
    row.update(item.carried)
    start = time.perf_counter()
    try:
        data = item.get()
    except (StorageError, ImageError, AddressError) as err:
        if isinstance(err, StorageError) and err.fatal:
            raise
        return {**row, "error_kind": err.kind, "error": str(err), "fetch_s": time.perf_counter() - start}, None
    row.update(bytes=None if item.again else len(data), fetch_s=time.perf_counter() - start)
    return row, data


def _fetch_lacking(column: str, item: EncodedImage | BrokenContainer) -> tuple[dict[str, Any], bytes | None]:
    """As `_fetch`, but of an image with a caption in this carried column no byte: its row has neither pixels nor an
    error."""
    if isinstance(item, BrokenContainer) or not (item.carried.get(column) or "").strip():
        return _fetch(item)
    return _fetch(item._replace(get=bytes))[0] | {"bytes": None}, None


def _untold(rows: list[dict[str, Any]]) -> frozenset[int]:
    """Ids of a unit's images of which neither listing nor disk has told what they hold."""
    items = [(row["image_id"], InputItem(row["uri"], row["version"], row["size"], row["kind"])) for row in rows]
    return frozenset(
        number for number, item in items if item.kind == "image" and "://" in item.uri and content_key(item) is None
    )


def _decode(
    reads: list[Future[tuple[dict[str, Any], bytes | None]]],
    sandbox: Sandbox,
    options: FetchOptions,
    untold: frozenset[int],
) -> pa.Table:
    """A chunk's table, once all of it is read.

    Args:
        untold: Ids of images that are not decoded where another one of the same bytes is.
    """
    rows = [future.result() for future in reads]
    reads.clear()
    read = [(row, data) for row, data in rows if data is not None]
    if asked := [(row, data) for row, data in read if row["image_id"] in untold]:
        first = first_with_contents(
            options.contents, [data for _, data in asked], [row["image_id"] for row, _ in asked]
        )
        for (row, _), same_as in zip(asked, first, strict=True):
            row["same_as"] = None if same_as == row["image_id"] else same_as
        read = [(row, data) for row, data in read if row.get("same_as") is None]
    pages = [page_of(row["uri"]) for row, _ in read]
    numbers = [None if page is None else page - 1 for page in pages]
    for (row, _), outcome in zip(read, sandbox.decode_many([data for _, data in read], numbers), strict=True):
        if isinstance(outcome, ImageError):
            row.update(error_kind=outcome.kind, error=str(outcome))
        else:
            row.update(pixels=outcome.pixels, width=outcome.width, height=outcome.height)
        row["decode_s"] = outcome.seconds
    return _table([row for row, _ in rows], options)


def _table(rows: list[dict[str, Any]], options: FetchOptions) -> pa.Table:
    schema = pa.schema([*PIXELS[:-1], *(pa.field(name, kind) for name, kind in options.carry)])
    columns = [
        _pixels([row.get(name) for row in rows], options.image_bytes)
        if name == "pixels"
        else pa.array([row.get(name) for row in rows], kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _pixels(images: list[NDArray[np.uint8] | None], size: int) -> pa.Array:
    """A column of binary values of `size` bytes from images, null where there is none; one copy.

    A null has its bytes too (zeros), so that a table's size tells nothing of what failed: see `block_bytes`.

    Of memoryviews pyarrow would make it by itself, and keep each of them for ever (26.0.1: an image leaked a row).
    """
    valid = np.array([image is not None for image in images])
    offsets = np.arange(len(images) + 1, dtype=np.int32) * size
    flat = [np.zeros(size, np.uint8) if image is None else image.reshape(-1) for image in images]
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(np.concatenate([np.empty(0, np.uint8), *flat]))]
    return pa.Array.from_buffers(pa.binary(), len(images), buffers, null_count=int((~valid).sum()))
