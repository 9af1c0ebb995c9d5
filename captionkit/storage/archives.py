"""Members of shards, read from front to back: tar, however it is compressed, tars one behind the other, and zip.

What a file is is told by its first bytes, whatever its name says.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.lfs import FIRST_LINE, LFS_POINTER, is_lfs_pointer
from captionkit.storage.addresses import spelled

ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowException,
)
"""What reading a damaged archive may raise, beside ValueError, ArithmeticError and LookupError for absurd headers."""
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
NAME_BYTES = 2**20
"""What the names and attributes of one member of a tar may take."""


class Member(NamedTuple):
    """A file in an archive. It can be read until the next member is asked for, and not after."""

    name: str
    size: int
    open: Callable[[], BinaryIO]


def begin(stream: BinaryIO, size: int) -> tuple[bytes, BinaryIO]:
    """What a stream begins with, up to `size` bytes, and the stream with that still to come. Not every web server lets
    one go back."""
    head = stream.read(size)
    if stream.seekable():
        stream.seek(0)
        return head, stream
    return head, cast("BinaryIO", io.BufferedReader(_Chained(head, stream)))


@contextmanager
def seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The stream, or a copy of it on disk where one cannot go back: for formats with their directory at the end."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield cast("BinaryIO", copy)


def open_parquet(stream: BinaryIO, **options: Any) -> pq.ParquetFile:
    """A Parquet file; options as of `pyarrow.parquet.ParquetFile`.

    Raises:
        pa.ArrowInvalid, OSError: it is none. A damaged footer raises OSError.
    """
    try:
        return pq.ParquetFile(stream, **options)
    except (pa.ArrowInvalid, OSError) as err:
        stream.seek(0)
        if is_lfs_pointer(stream.read(len(FIRST_LINE))):
            raise pa.ArrowInvalid(f"it is {LFS_POINTER}") from err
        raise


def uncompressed(stream: BinaryIO) -> BinaryIO:
    """A stream without its compression (gzip, bzip2, xz, zstd), or the stream itself where it has none."""
    head, stream = begin(stream, 6)
    if head.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    if head.startswith(b"BZh"):
        return cast("BinaryIO", bz2.BZ2File(stream))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast("BinaryIO", lzma.LZMAFile(stream))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return cast("BinaryIO", pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))
    return stream


def members(stream: BinaryIO) -> Iterator[Member]:
    """The files of an archive, in its order; folders, links and devices are left out.

    Raises:
        One of ARCHIVE_ERRORS, or ValueError, ArithmeticError, LookupError: the archive is damaged, or is none.
    """
    head, stream = begin(stream, len(FIRST_LINE))
    if is_lfs_pointer(head):
        raise tarfile.ReadError(f"it is {LFS_POINTER}")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with seekable(stream) as file:  # a zip's directory is at its end
            yield from _zip_members(file)
        return
    tail = _Tail(uncompressed(stream))
    for tar in _tars(tail):
        for header in tar:
            if header.isfile():
                yield Member(spelled(header.name), header.size, partial(_open_in_tar, tar, header))
    if any(tail.last):
        raise tarfile.ReadError("it ends without an end marker")


def listing(stream: BinaryIO) -> Iterator[Member]:
    """The same files as of `members`. Of a tar that is not packed only headers are read, and what is asked of a member.

    Raises:
        As `members`.
    """
    head, stream = begin(stream, tarfile.BLOCKSIZE)
    if not stream.seekable() or not _is_header(head):
        yield from members(stream)
        return
    while _is_header(head):
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar:
            while (header := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # `tarfile` would keep them all
                if header.isfile():
                    yield Member(spelled(header.name), header.size, partial(_open_in_tar, tar, header))
        while (head := stream.read(tarfile.BLOCKSIZE)) and not any(head):
            pass
        if head:
            stream.seek(-len(head), io.SEEK_CUR)


def _open_in_tar(tar: tarfile.TarFile, header: tarfile.TarInfo) -> BinaryIO:
    file = tar.extractfile(header)
    assert file is not None  # it is a file
    return cast("BinaryIO", file)


def _zip_members(stream: BinaryIO) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield Member(spelled(info.filename), info.file_size, partial(_open_in_zip, archive, info))


def _open_in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    try:
        return cast("BinaryIO", archive.open(info))
    except RuntimeError as err:  # encrypted, or compressed in a way that zipfile does not know
        raise zipfile.BadZipFile(str(err)) from err


def _tars(tail: _Tail) -> Iterator[tarfile.TarFile]:
    """The tars of a shard, one behind the other: `cat a.tar b.tar` makes a valid one of two.

    What lies behind an end marker and is no header is passed over, as GNU tar does.
    """
    stream: Any = tail
    while stream is not None:
        with tarfile.open(fileobj=cast("BinaryIO", stream), mode="r|", tarinfo=_Header) as tar:
            yield tar
            stream = _next_tar(tar.fileobj)


def _next_tar(rest: Any) -> Any:
    """The stream from the next header on, behind the zeros that end a tar; None where nothing comes."""
    while block := rest.read(tarfile.BLOCKSIZE):
        if not any(block):
            continue
        return _Chained(block, rest) if _is_header(block) else None
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class _Chained(io.RawIOBase):
    """A stream from which a block was read, with that block before it."""

    def __init__(self, block: bytes, rest: Any) -> None:
        self._block, self._rest = io.BytesIO(block), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._block.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Header(tarfile.TarInfo):
    """A header whose own data, a long name or such, is not read into memory where it claims to be a book."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError(f"a member claims {self.size:,} bytes")
        if self.type in _LONG_HEADERS and self.size > NAME_BYTES:
            raise tarfile.ReadError(f"a name or header in it claims {self.size:,} bytes")
        info: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]  # typeshed leaves it out
        return info


class _Tail:
    """A stream that remembers the end of what was read last.

    A tar ends with blocks of zeros. `tarfile` takes a missing end for a proper one, and so a shard whose upload was
    cut off for a whole one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.last = data[-512:] or self.last
        return data
