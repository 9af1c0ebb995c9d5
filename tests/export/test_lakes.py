"""Tables of Lance, Delta Lake and Iceberg, read back by their own libraries."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from captionkit.errors import OutsideError, UsageError
from captionkit.export import lakes
from captionkit.storage import StorageError
from tests.export.table import STORAGE, id_of, make_table, run

FORMATS = ("lance", "delta", "iceberg")
CAPTIONS = {"/p/a.jpg": "a dog", "/p/b.jpg": None, "/p/c.jpg": 'a "cat", asleep 🐕'}


def read_lance(uri: str, **options: str) -> pa.Table:
    return pytest.importorskip("lance").dataset(uri, storage_options=options).to_table()


def read_delta(uri: str, **options: str) -> pa.Table:
    deltalake = pytest.importorskip("deltalake")
    return pa.table(deltalake.DeltaTable(uri, storage_options=options).to_pyarrow_table())


def read_iceberg(uri: str, **options: str) -> pa.Table:
    tables = pytest.importorskip("pyiceberg.table")
    hint = STORAGE.read(f"{uri}/metadata/version-hint.text").decode()
    return tables.StaticTable.from_metadata(f"{uri}/metadata/{hint}.metadata.json").scan().to_arrow()


READERS: dict[str, Callable[..., pa.Table]] = {"lance": read_lance, "delta": read_delta, "iceberg": read_iceberg}


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"lance": "lance", "delta": "deltalake", "iceberg": "pyiceberg"}[request.param])
    return str(request.param)


@pytest.fixture
def table(tmp_path: Path) -> str:
    carry: dict[str, list[Any]] = {
        "old": ["a wolf", None, "kitty"],
        "tags": [["x"], None, []],
        "year": [1999, None, 2001],
    }
    return make_table(tmp_path / "t", CAPTIONS, carry).uri


def rows_of(found: pa.Table) -> list[dict[str, Any]]:
    return sorted(found.to_pylist(), key=lambda row: row["uri"])


def test_every_column_is_read_back_with_its_type(format: str, table: str, tmp_path: Path) -> None:
    report = run(table, tmp_path / "out", format)
    assert (report.written, report.left_out, report.ok) == (2, {"without a caption": 1}, True)
    found = READERS[format](str(tmp_path / "out"))
    a, c = rows_of(found)
    assert (a["uri"], a["image_id"], a["caption"]) == ("/p/a.jpg", id_of("/p/a.jpg"), "a dog")
    assert (a["old"], a["tags"], a["year"]) == ("a wolf", '["x"]', 1999)
    assert a["score"] == pytest.approx(-0.5)
    assert a["alternatives"] == [{"caption": "another", "score": -1.0}]
    assert (a["captioned_at"].year, a["captioned_at"].utcoffset().total_seconds()) == (2026, 0)
    assert c["caption"] == CAPTIONS["/p/c.jpg"]


def test_rows_and_columns_can_be_chosen_and_failed_ones_kept(format: str, table: str, tmp_path: Path) -> None:
    columns = ("uri,alt=caption,file_name",)
    run(
        table, tmp_path / "out", format, columns=columns, where="caption is null or caption like '%dog%'", failed="keep"
    )
    assert rows_of(READERS[format](str(tmp_path / "out"))) == [
        {"uri": "/p/a.jpg", "alt": "a dog", "file_name": "a.jpg"},
        {"uri": "/p/b.jpg", "alt": None, "file_name": "b.jpg"},
    ]
    assert run(table, tmp_path / "dry", format, dry_run=True).written == 2
    assert not (tmp_path / "dry").exists()


def test_what_is_there_stays_unless_told_otherwise(format: str, table: str, tmp_path: Path) -> None:
    run(table, tmp_path / "out", format)
    with pytest.raises(UsageError, match="is there already"):
        run(table, tmp_path / "out", format)
    run(table, tmp_path / "out", format, where="caption = 'a dog'", columns=("uri,caption,new=year",), overwrite=True)
    (row,) = rows_of(READERS[format](str(tmp_path / "out")))
    assert (row["uri"], row["caption"], row["new"]) == ("/p/a.jpg", "a dog", 1999)


def test_an_export_that_breaks_leaves_no_table_and_says_why(
    format: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise StorageError("read_error", "the bucket has burnt down")

    monkeypatch.setattr(lakes, "_array", breaks)
    with pytest.raises(StorageError, match="burnt down"):
        run(table, tmp_path / "out", format)
    with pytest.raises(Exception):  # noqa: B017, PT011  (each library has its own)
        READERS[format](str(tmp_path / "out"))


def test_what_the_library_says_ends_the_command_with_a_line(
    format: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lakes, "_array", lambda values, field: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(table, tmp_path / "out", format)
    monkeypatch.undo()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((OutsideError, UsageError)):
        run(table, tmp_path / "file/below", format)


@pytest.mark.slow
def test_a_bucket_holds_one_as_a_folder_does(format: str, table: str, bucket: str) -> None:
    run(table, f"s3://{bucket}/out", format)
    names = [entry.uri for entry in STORAGE.list(f"s3://{bucket}/out")]
    assert names
    with pytest.raises(UsageError, match="is there already"):
        run(table, f"s3://{bucket}/out", format)
    run(table, f"s3://{bucket}/out", format, overwrite=True)
    assert len(list(STORAGE.list(f"s3://{bucket}/out"))) > len(names)


@pytest.mark.parametrize("format", FORMATS)
def test_without_its_library_the_error_says_how_to_get_it(
    format: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lance", "deltalake", "pyiceberg.catalog.sql"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match={"lance": "pip install pylance"}.get(format, "pip install")):
        run(table, tmp_path / "out", format)


def test_a_table_of_a_catalog_is_filled(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyiceberg.catalog.sql")
    address = f"sqlite:///{tmp_path}/catalog.db"
    for name, value in {"TYPE": "sql", "URI": address, "WAREHOUSE": f"file://{tmp_path}/warehouse"}.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__OURS__{name}", value)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", pytest.importorskip("pyiceberg.utils.config").Config())
    catalog = sql.SqlCatalog("ours", uri=address, warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("archive")
    run(table, "catalog:ours/archive.captions", "iceberg")
    assert len(catalog.load_table("archive.captions").scan().to_arrow()) == 2
    with pytest.raises(UsageError, match="is there already"):
        run(table, "catalog:ours/archive.captions", "iceberg")
    run(table, "catalog:ours/archive.captions", "iceberg", where="year = 1999", overwrite=True)
    assert len(catalog.load_table("archive.captions").scan().to_arrow()) == 1
    with pytest.raises(UsageError, match=r"NAMESPACE\.TABLE"):
        run(table, "catalog:ours", "iceberg")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lakes, "ICEBERG_FILE_BYTES", 2**20)
    peaks = []
    for count in (20_000, 60_000):
        table = make_long(tmp_path / str(count), count)
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        assert run(table, tmp_path / f"out{count}", format).written == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pa.total_allocated_bytes() - before < 2**20
    assert peaks[1] < peaks[0] * 1.3


def make_long(folder: Path, count: int) -> str:
    from tests.support.table_rows import rows, write

    return write(folder, rows([f"/p/{number}.jpg" for number in range(count)])).uri
