"""Images inside shards and Parquet files: read front to back, without those whose rows stand already."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.counting import counted
from captionkit.pipeline.ids import Ids, image_id
from captionkit.pipeline.inputs import IMAGE_SUFFIXES, KEY_COLUMN, image_column
from captionkit.storage import AddressError, Storage, StorageError, UsageError, join_member, redact, spelled

if TYPE_CHECKING:
    from captionkit.pipeline.fetch import FetchOptions

BREAKS = (
    StorageError,
    tarfile.TarError,
    pa.ArrowException,
    OSError,  # local disks and gzip
    EOFError,
    zlib.error,
    ValueError,  # tarfile's, of numbers and names that are none; and UsageError
    ArithmeticError,
    LookupError,
)
"""What reading a container from a stranger may raise."""
BATCH = 64
"""Rows of a Parquet file held at once."""
NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
NAME_BYTES = 2**20
"""What the names and attributes of one member of a tar may take."""


class Source(NamedTuple):
    """One image on its way: where it is from, and how to get its bytes."""

    uri: str
    image_id: int
    version: str
    get: Callable[[], bytes]
    total: int | None = None
    again: int = 0
    """Members that came again, in a shard's last row."""
    carried: dict[str, Any] = {}  # noqa: RUF012  (never written to)


class Broken(NamedTuple):
    """What is lost of a container that broke: the row of a shard itself, or of one image of a Parquet file."""

    uri: str
    image_id: int
    version: str
    kind: str
    error: str
    total: int
    again: int = 0


def _in(done: Ids, number: int) -> bool:
    at = int(np.searchsorted(done, number))
    return at < len(done) and int(done[at]) == number


def read_tar(row: dict[str, Any], storage: Storage, options: FetchOptions, done: Ids) -> Iterator[Source | Broken]:
    """The images of a tar shard that are not done, read once from front to back.

    The last one knows how many rows the shard has, done ones included, and how many members came again: of several of
    one name the first counts.
    """
    shard, version = row["uri"], row["version"]
    keyed = any(name == KEY_COLUMN for name, _ in options.carry)
    count = again = 0
    last: Source | None = None
    seen: set[str] = set()
    try:
        with storage.open(row["address"] or shard) as stream:
            tail = _Tail(gzip.GzipFile(fileobj=stream) if shard.endswith("gz") else stream)
            stream_of_members = cast("BinaryIO", tail)  # it only ever reads
            with tarfile.open(fileobj=stream_of_members, mode="r|", tarinfo=_Member) as tar:
                for member in tar:
                    name = spelled(member.name)
                    if not member.isfile() or not is_image(name):
                        continue
                    if name in seen:
                        again += 1
                        continue
                    seen.add(name)
                    uri = join_member(shard, name)
                    number = image_id(uri, version)
                    if not _in(done, number):
                        data = _body(tar, member, options.limits.max_bytes)
                        if last is not None:
                            yield last
                        carried = {KEY_COLUMN: _sample_key(name)} if keyed else {}
                        last = Source(uri, number, version, partial(bytes, data), carried=carried)
                    count += 1
            if any(tail.last):
                raise tarfile.ReadError("it ends without an end marker")
    except BREAKS as err:
        kind = _kind(err)
        if last is not None:
            yield last
        reason = f"the shard broke after {counted(count, 'image')}: {_said(err)}"
        yield Broken(shard, image_id(shard, version), version, kind, reason, count + 1, again)
    else:
        if last is not None:
            yield last._replace(total=count, again=again)


class _Member(tarfile.TarInfo):
    """A header whose own data, a long name or such, is not read into memory where it claims to be a book."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError(f"a member claims {self.size:,} bytes")
        if self.type in NAMES and self.size > NAME_BYTES:
            raise tarfile.ReadError(f"a name or header in it claims {self.size:,} bytes")
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]  # typeshed leaves it out
        return found


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


def is_image(name: str) -> bool:
    base = name.rpartition("/")[2]
    return not base.startswith(".") and base.lower()[base.rfind(".") :] in IMAGE_SUFFIXES


def _sample_key(name: str) -> str:
    """WebDataset's key of a member: its path up to the first dot of its file name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def read_row_group(
    row: dict[str, Any], storage: Storage, options: FetchOptions, done: Ids
) -> Iterator[Source | Broken]:
    """The images of one row group of a Parquet file that are not done.

    How many there are was found out when the file was listed: where it breaks, each one left is a row of its own. A
    file that could not even be opened then (it has no row group) is one row.
    """
    file, version = row["uri"], row["version"]
    first, group = row["first_row"] or 0, row["row_group"]
    count = 0
    try:
        with storage.open(row["address"] or file) as stream:
            parquet = pq.ParquetFile(stream)
            column = image_column(parquet.schema_arrow, options.image_column)
            names = [name for name, _ in options.carry if name in parquet.schema_arrow.names]
            groups = [group] if group is not None else []
            for batch in parquet.iter_batches(BATCH, row_groups=groups, columns=[column, *names]):
                images = batch.column(batch.schema.get_field_index(column))
                if pa.types.is_struct(images.type):
                    images = images.field("bytes")
                carried = batch.select(names).to_pylist() if names else [{}] * len(batch)
                for image, extra in zip(images, carried, strict=True):
                    uri = join_member(file, str(first + count))
                    count += 1
                    key = image_id(uri, version)
                    if not _in(done, key):
                        data = partial(bytes, image.as_py() or b"")
                        yield Source(uri, key, version, data, row["total"], carried=extra)
    except BREAKS as err:
        kind = _kind(err)
        if group is None:
            reason = f"not a readable Parquet file: {_said(err)}"
            yield Broken(file, image_id(file, version), version, kind, reason, 1)
            return
        reason = f"the file broke at row {first + count}: {_said(err)}"
        for number in range(first + count, first + row["rows"]):
            uri = join_member(file, str(number))
            key = image_id(uri, version)
            if not _in(done, key):
                yield Broken(uri, key, version, kind, reason, row["total"])


def _kind(error: Exception) -> str:
    """The kind of failure that a break is; raised again where it is no single container's."""
    if isinstance(error, StorageError) and error.hopeless:
        raise error
    if isinstance(error, (StorageError, AddressError)):
        return error.kind
    if isinstance(error, UsageError):
        raise error
    return "truncated"


def _said(error: Exception) -> str:
    return redact(" ".join(str(error).split()))[:300]
