"""Shards are told by their content, and read to their end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import pyarrow as pa
import pytest

from captionkit.storage.archives import begin, members, seekable

FILES = {"a.jpg": b"first", "b/c.txt": b"second" * 1000, "ä.png": b""}


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("b")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("b") if hasattr(archive, "mkdir") else None
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Forward(io.BytesIO):
    """A stream that cannot go back, as of a web server without ranges."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("File or stream is not seekable.")


def read(stream: BinaryIO) -> dict[str, bytes]:
    return {member.name: member.open().read() for member in members(stream)}


@pytest.mark.parametrize("kind", [io.BytesIO, Forward])
@pytest.mark.parametrize(
    "pack",
    [tar, zipped, *(lambda files, by=by: by(tar(files)) for by in (gzip.compress, bz2.compress, lzma.compress))],
    ids=["tar", "zip", "gzip", "bzip2", "xz"],
)
def test_what_a_shard_is_its_bytes_say(pack: Callable[[dict[str, bytes]], bytes], kind: type[io.BytesIO]) -> None:
    assert read(kind(pack(FILES))) == FILES


def test_zstd() -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(tar(FILES))
    assert read(io.BytesIO(sink.getvalue().to_pybytes())) == FILES


def test_tars_put_together_are_read_to_their_end() -> None:
    more = {"d.jpg": b"third"}
    assert read(io.BytesIO(tar(FILES) + tar(more))) == FILES | more
    assert read(io.BytesIO(gzip.compress(tar(FILES)) + gzip.compress(tar(more)))) == FILES | more
    assert read(io.BytesIO(tar(FILES) + bytes(2**20) + tar(more))) == FILES | more


def test_what_is_no_tar_behind_the_end_is_passed_over() -> None:
    assert read(io.BytesIO(tar(FILES) + b"signature" * 200 + bytes(512))) == FILES


@pytest.mark.parametrize("cut", [100, 600, 3000])
def test_a_cut_tar_is_an_error(cut: int) -> None:
    with pytest.raises(tarfile.TarError):
        read(io.BytesIO(tar(FILES)[:cut]))


def test_a_pointer_of_git_lfs_is_called_that() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    with pytest.raises(tarfile.ReadError, match="git lfs pull"):
        read(io.BytesIO(pointer))


def test_an_encrypted_member_is_an_error() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"secret")
    data = bytearray(buffer.getvalue())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + flags] |= 1
    with pytest.raises(zipfile.BadZipFile, match="encrypted"):
        read(io.BytesIO(bytes(data)))


def test_a_stream_that_cannot_go_back_is_begun_without_loss() -> None:
    head, rest = begin(Forward(b"0123456789"), 4)
    assert (head, rest.read()) == (b"0123", b"0123456789")
    with seekable(Forward(b"0123456789")) as copy:
        copy.seek(8)
        assert copy.read() == b"89"
