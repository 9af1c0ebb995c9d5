"""Members of tars and rows of Parquet files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.errors import UsageError
from captionkit.storage import Storage, StorageError

STORAGE = Storage()


@pytest.fixture(params=["shard.tar", "shard.tar.gz", "shard.tgz"])
def tar(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / request.param
    with tarfile.open(path, "w" if request.param == "shard.tar" else "w:gz") as archive:
        for name in ("./first.jpg", "folder/a #1 é.jpg", "folder/last.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode("latin-1")))
        folder = tarfile.TarInfo("folder/sub")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return str(path)


def test_tar_members(tar: str) -> None:
    assert STORAGE.read(f"{tar}#folder/a #1 é.jpg") == "folder/a #1 é.jpg".encode("latin-1")
    assert STORAGE.read(f"{tar}#first.jpg") == b"./first.jpg"
    assert STORAGE.read(f"{tar}#./first.jpg") == b"./first.jpg"
    for missing in ("nobody.jpg", "folder/sub", ""):
        with pytest.raises(StorageError) as caught:
            STORAGE.read(f"{tar}#{missing}")
        assert caught.value.kind == "not_found"
        assert f"{tar}#{missing}" in str(caught.value)


def test_members_have_their_archives_version(tar: str) -> None:
    member = STORAGE.stat(f"{tar}#first.jpg")
    assert (member.uri, member.size) == (f"{tar}#first.jpg", None)
    assert member.version == STORAGE.stat(tar).version


@pytest.mark.parametrize("name", ["cut.tar", "cut.tgz", "noise.tar", "cut.parquet", "noise.parquet"])
def test_broken_archives(name: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    if name.endswith("parquet"):
        pq.write_table(pa.table({"image": [b"x" * 5000]}), buffer)
        member = "0"
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if name.endswith("tgz") else "w") as archive:
            info = tarfile.TarInfo("a.jpg")
            info.size = 5000
            archive.addfile(info, io.BytesIO(bytes(range(250)) * 20))
        member = "a.jpg"
    data = buffer.getvalue()
    (tmp_path / name).write_bytes(b"noise" * 200 if "noise" in name else data[: min(len(data) // 2, 2000)])
    with pytest.raises(StorageError) as caught:
        STORAGE.read(f"{tmp_path / name}#{member}")
    assert caught.value.kind == "read_error"


def test_a_missing_archive(tmp_path: Path) -> None:
    for name in ("a.tar#x.jpg", "a.parquet#0"):
        with pytest.raises(StorageError) as caught:
            STORAGE.read(str(tmp_path / name))
        assert caught.value.kind == "not_found"


def test_parquet_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "t.parquet")
    rows = [f"picture {number}".encode() for number in range(10)]
    rows[7] = None  # type: ignore[call-overload]
    table = pa.table({"id": list(range(10)), "image": rows, "other": [b"?"] * 10})
    pq.write_table(table, path, row_group_size=3)
    assert STORAGE.read(f"{path}#0") == b"picture 0"
    assert STORAGE.read(f"{path}#8") == b"picture 8"
    assert STORAGE.read(f"{path}#8", column="other") == b"?"
    for missing in ("7", "10", "-1", "x", ""):
        with pytest.raises(StorageError) as caught:
            STORAGE.read(f"{path}#{missing}")
        assert caught.value.kind == "not_found"
    with pytest.raises(UsageError, match="image, other"):
        STORAGE.read(f"{path}#0", column="id")


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])]
)
def test_kinds_of_image_columns(kind: pa.DataType, tmp_path: Path) -> None:
    path = str(tmp_path / "t.parquet")
    value = {"bytes": b"x", "path": None} if pa.types.is_struct(kind) else b"x"
    pq.write_table(pa.table({"what": pa.array([value], kind)}), path)
    assert STORAGE.read(f"{path}#0") == b"x"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["text"]}, "no column of image bytes"),
        ({"a": [b"x"], "b": [b"y"]}, r"several columns hold bytes \(a, b\)"),
    ],
)
def test_columns_that_are_not_evident(columns: dict[str, list[object]], message: str, tmp_path: Path) -> None:
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UsageError, match=message):
        STORAGE.read(f"{path}#0")
