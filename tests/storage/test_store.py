"""The one door: other schemes, options, many addresses."""

from __future__ import annotations

import errno
import json
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captionkit.errors import UsageError
from captionkit.storage import Entry, Storage, StorageError, StorageOptions

STORAGE = Storage()


@pytest.fixture
def memory() -> str:
    """A folder of fsspec's filesystem in memory, standing for every scheme without a backend of its own."""
    return f"memory://{uuid.uuid4().hex}"


def test_any_fsspec_scheme(memory: str) -> None:
    for name in ("a.jpg", "p/b b#.jpg", "p/q/c.png", "p/.d.jpg"):
        STORAGE.write(f"{memory}/{name}", name.encode())
    found = {entry.uri.removeprefix(f"{memory}/"): entry for entry in STORAGE.list(memory)}
    assert sorted(found) == ["a.jpg", "p/b b#.jpg", "p/q/c.png"]
    for name, entry in found.items():
        assert STORAGE.read(entry.uri) == name.encode()
        assert STORAGE.stat(entry.uri) == entry
        assert entry.version
    assert [e.uri for e in STORAGE.glob(f"{memory}/**/*.png")] == [f"{memory}/p/q/c.png"]
    assert [e.uri for e in STORAGE.list(f"{memory}/a.jpg")] == [f"{memory}/a.jpg"]
    with STORAGE.open(f"{memory}/a.jpg") as file:
        assert file.read() == b"a.jpg"
    assert STORAGE.is_folder(f"{memory}/p")
    STORAGE.delete(f"{memory}/a.jpg")
    STORAGE.delete(f"{memory}/a.jpg")
    for action in (STORAGE.read, STORAGE.stat, lambda uri: list(STORAGE.list(uri))):
        with pytest.raises(StorageError) as caught:
            action(f"{memory}/a.jpg")
        assert caught.value.kind == "not_found"


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("gs://bucket/a.jpg", "pip install gcsfs"),
        ("az://container/a.jpg", "pip install adlfs"),
        ("abfs://container/a.jpg", "pip install adlfs"),
        ("sftp://host/a.jpg", "pip install paramiko"),
        ("gopher://host/a.jpg", "unknown kind of address gopher://"),
        ("zip://a.jpg", "cannot stand alone"),
        ("simplecache::s3://bucket/a.jpg", "chained"),
        ("", "empty"),
    ],
)
def test_addresses_that_cannot_work_say_what_to_do(address: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        STORAGE.read(address)


def test_options() -> None:
    options = StorageOptions(endpoint_url="https://minio.example", region="eu", path_style=True)
    assert Storage(options).options == options
    assert StorageOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    options = StorageOptions(schemes=("s3", "file"), retries=3, retry_seconds=1.5)
    assert StorageOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    for wrong in (
        {"endpoint_url": "minio:9000"},
        {"endpoint_url": "https://ann:hunter2@minio.example"},
        {"anonymous": True, "profile": "x"},
        {"secret": "x"},
        {"retries": -1},
        {"timeout_seconds": 0},
        {"schemes": ["s3://"]},
    ):
        with pytest.raises(UsageError) as caught:
            StorageOptions.from_json(wrong)
        assert "hunter2" not in str(caught.value)


def test_only_the_schemes_that_are_allowed(tmp_path: Path, memory: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    STORAGE.write(f"{memory}/a.jpg", b"a")
    local, here = str(tmp_path / "a.jpg"), f"{memory}/a.jpg"
    only = Storage(StorageOptions(schemes=("memory",)))
    assert only.read(here) == b"a"
    for action in (
        only.read,
        only.stat,
        only.exists,
        only.open,
        only.delete,
        only.is_folder,
        only.arrow,
        lambda uri: only.write(uri, b""),
        lambda uri: list(only.list(uri)),
        lambda uri: list(only.glob(f"{uri}*")),
    ):
        for uri in (local, f"file://{local}", f"local://{local}", f"FILE://{local}"):
            with pytest.raises(StorageError, match="file is not among the schemes allowed: memory") as caught:
                action(uri)
            assert (caught.value.kind, caught.value.fatal) == ("forbidden", False)
    assert [entry.size for entry in only.stat_many([here, local, "/etc/passwd", here])] == [1, None, None, 1]
    assert only.without_scheme_limit().read(local) == b"a"
    assert Storage(StorageOptions(schemes=("file",))).read(local) == b"a"
    with pytest.raises(StorageError, match="https is not among"):
        Storage(StorageOptions(schemes=("file",))).read("https://169.254.169.254/latest/meta-data")


def test_other_storage_is_asked_again_too(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

    monkeypatch.setattr("captionkit.storage.retrying.FIRST_PAUSE_S", 0.001)
    data = bytes(range(256)) * 20_000
    failing = [0]

    def flaky(function: Any, error: OSError) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            failing[0] += 1
            if failing[0] % 3:
                raise error
            return function(*args, **kwargs)

        return call

    reset = ConnectionResetError(104, "Connection reset by peer")
    for name in ("pipe_file", "cat_file", "info", "ls"):
        monkeypatch.setattr(MemoryFileSystem, name, flaky(getattr(MemoryFileSystem, name), reset))
    STORAGE.write(f"{memory}/p/a.bin", data)
    assert STORAGE.read(f"{memory}/p/a.bin") == data
    assert STORAGE.stat(f"{memory}/p/a.bin").size == len(data)
    assert [entry.uri for entry in STORAGE.list(memory)] == [f"{memory}/p/a.bin"]
    monkeypatch.setattr(MemoryFile, "read", flaky(MemoryFile.read, reset), raising=False)
    with STORAGE.open(f"{memory}/p/a.bin") as file:
        assert b"".join(iter(lambda: file.read(100_001), b"")) == data
        assert file.seek(1000) == 1000
        assert file.read(10) == data[1000:1010]


def test_pickling_keeps_the_options() -> None:
    options = StorageOptions(anonymous=True)
    assert pickle.loads(pickle.dumps(Storage(options))).options == options


def test_stat_many_of_members_asks_each_archive_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from captionkit.storage.local import LocalBackend

    asked = []
    stat = LocalBackend.stat

    def counted(self: LocalBackend, address: str) -> Entry:
        asked.append(address)
        return stat(self, address)

    monkeypatch.setattr(LocalBackend, "stat", counted)
    for shard in ("a.tar", "b.tar"):
        (tmp_path / shard).write_bytes(b"x")
    uris = [f"{tmp_path}/{shard}#{n}.jpg" for shard in ("a.tar", "b.tar", "none.tar") for n in range(100)]
    found = list(STORAGE.stat_many(uris))
    assert [entry.uri for entry in found] == uris
    assert len(asked) == 3
    assert {entry.size for entry in found} == {None}
    assert [bool(entry.version) for entry in found] == [True] * 200 + [False] * 100


def test_stat_many_stops_when_nobody_listens_any_more(tmp_path: Path) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield str(tmp_path / "x")

    answers: Any = STORAGE.stat_many(endless(), concurrency=2)
    assert next(answers).size is None
    answers.close()


def test_local_work_does_not_wait_for_s3fs() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from captionkit.storage import Storage; Storage().read(sys.executable);"
        "print([name for name in ('s3fs', 'aiohttp', 'botocore') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def _half(uri: str, error: Exception) -> None:
    """Write half a file, then fail."""
    with STORAGE.create(uri) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_file_that_is_written_bit_by_bit_is_whole_or_absent(where: str, tmp_path: Path, memory: str) -> None:
    uri = f"{tmp_path if where == 'disk' else memory}/deep/er/a.bin"
    with STORAGE.create(uri) as file:
        for number in range(3):
            file.write(bytes([number]) * 70_000)
        assert not STORAGE.exists(uri)
    assert STORAGE.read(uri) == b"".join(bytes([number]) * 70_000 for number in range(3))
    with pytest.raises(ZeroDivisionError):
        _half(uri, ZeroDivisionError())
    assert len(STORAGE.read(uri)) == 210_000
    assert [entry.uri for entry in STORAGE.list(uri.rpartition("/")[0])] == [STORAGE.normalize(uri)]


def test_a_disk_that_fills_while_a_file_is_written_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk") as caught:
        _half(str(tmp_path / "a"), OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.kind == "write_error"
    assert list(tmp_path.iterdir()) == []
