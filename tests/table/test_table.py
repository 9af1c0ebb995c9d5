from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captionkit.errors import UsageError
from captionkit.inputs.ids import image_id
from captionkit.pipeline.run_record import RunRecord
from captionkit.schema import SCHEMA, schema_with
from captionkit.storage import Storage
from captionkit.table.compact import compact
from captionkit.table.lease import Lease
from captionkit.table.table import CaptionTable
from tests.support.table_rows import rows, write

TEXT = st.text(max_size=20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(TEXT, max_size=8), max_size=5), st.integers(1, 12))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]], every: int) -> None:
    folder = tmp_path_factory.mktemp("table")
    table = write(folder, *(rows(part) for part in parts), every=every)
    expected = [uri for part in parts for uri in part]
    assert sorted(row["uri"] for row in table.rows()) == sorted(expected)
    assert len(table) == len(expected)
    assert len(table.files) <= len(parts)
    assert len(table.ids()) == len(set(expected))


def finished(folder: Path) -> Path:
    """A table of three rows with all that a finished run leaves beside them."""
    write(folder, rows(["/a.jpg"]), rows(["/b.jpg", "/c.jpg"]))
    RunRecord("r", {"beam": 3}, {}, status="succeeded").write(Storage(), str(folder / "_runs/r.parquet"))
    with Lease(str(folder), Storage(), "r"):
        pass
    beside = [file.suffix for file in folder.rglob("*") if file.is_file()]
    assert beside == [".parquet"] * 4
    return folder


def test_every_reader_reads_it_as_it_is(tmp_path: Path) -> None:
    folder = finished(tmp_path / "t")
    table = pq.read_table(folder)
    assert table.schema.names == SCHEMA.names
    assert table.schema.equals(SCHEMA)
    assert len(pd.read_parquet(folder)) == 3
    for pattern in ("*.parquet", "**/*.parquet"):
        query = f"SELECT count(*), max(alternatives[1].caption) FROM '{folder}/{pattern}'"
        assert duckdb.sql(query).fetchall() == [(3, "another")]
    assert pyarrow.dataset.dataset(folder).count_rows() == 3
    for spelling in (f"{folder}/", folder, f"{folder}/*.parquet", f"{folder}/**/*.parquet"):
        assert pl.scan_parquet(spelling).select(pl.len()).collect().item() == 3
    assert pl.read_parquet(f"{folder}/")["uri"].sort().to_list() == ["/a.jpg", "/b.jpg", "/c.jpg"]


def test_the_run_record_can_be_queried(tmp_path: Path) -> None:
    folder = finished(tmp_path / "t")
    query = f"SELECT decode(value)->>'$.options.beam' FROM parquet_kv_metadata('{folder}/_runs/*.parquet') "
    assert duckdb.sql(query + "WHERE decode(key) = 'captionkit.document'").fetchall() == [("3",)]


@pytest.mark.slow
def test_hugging_face_s_datasets_read_the_folder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")
    folder = str(finished(tmp_path / "t"))
    for address in ({"path": folder}, {"path": "parquet", "data_dir": folder}):
        found = datasets.load_dataset(**address, split="train", cache_dir=str(tmp_path / "cache"))
        assert sorted(found["uri"]) == ["/a.jpg", "/b.jpg", "/c.jpg"]


@pytest.mark.slow
def test_spark_reads_the_folder_as_it_is(tmp_path: Path) -> None:
    """Where pyspark and a Java are installed; half a gigabyte, so not by default."""
    spark = pytest.importorskip("pyspark.sql").SparkSession.builder.master("local[1]").getOrCreate()
    folder = finished(tmp_path / "t")
    assert sorted(row.uri for row in spark.read.parquet(str(folder)).collect()) == ["/a.jpg", "/b.jpg", "/c.jpg"]
    spark.stop()


def test_a_strange_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "mine.parquet")
    with pytest.raises(UsageError, match="captionkit did not write"):
        CaptionTable(str(tmp_path), Storage())


def test_a_torn_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1....")
    with pytest.raises(UsageError, match=r"torn\.parquet in the output folder is not a readable"):
        CaptionTable(str(tmp_path), Storage())


def test_no_table_yet(tmp_path: Path) -> None:
    table = CaptionTable(str(tmp_path / "nothing"), Storage())
    assert len(table) == 0
    assert len(table.ids()) == 0


def test_a_folder_with_wildcards_in_its_name(tmp_path: Path) -> None:
    write(tmp_path / "a[1]*?", rows(["/a.jpg"]))
    assert len(CaptionTable(str(tmp_path / "a[1]*?"), Storage())) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_drop_takes_just_those(tmp_path_factory: pytest.TempPathFactory, present: set[int], gone: set[int]) -> None:
    folder = tmp_path_factory.mktemp("table")
    uris = [f"/{n}.jpg" for n in sorted(present)]
    table = write(folder, rows(uris[::2]), rows(uris[1::2]))
    stale = np.sort(np.array([image_id(f"/{n}.jpg", "v1") for n in gone], np.int64))
    assert table.drop((file, stale) for file in list(table.files)) == len(present & gone)
    left = {f"/{n}.jpg" for n in present - gone}
    assert {row["uri"] for row in table.rows()} == left
    assert {row["uri"] for row in CaptionTable(str(folder), Storage()).rows()} == left
    assert all(file.rows for file in table.files)


def test_a_container_is_finished_when_all_its_rows_are_there(tmp_path: Path) -> None:
    first = rows(["/a.tar#1.jpg", "/a.tar#2.jpg"])
    table = write(tmp_path, first)
    assert ("/a.tar", "v1") not in table.finished_containers()  # its end was not seen
    last = rows(["/a.tar#3.jpg"], container_rows=3)
    table = write(tmp_path, last, run="r2")
    assert ("/a.tar", "v1") in table.finished_containers()
    assert ("/a.tar", "v2") not in table.finished_containers()
    assert ("/b.tar", "v1") not in table.finished_containers()
    (tmp_path / "captions-r-00000.parquet").unlink()
    assert ("/a.tar", "v1") not in CaptionTable(str(tmp_path), Storage()).finished_containers()


def missing(uris: list[str], kind: str = "not_found") -> pa.Table:
    return rows(uris, status="failed", caption=None, error_kind=kind)


@pytest.mark.parametrize(
    ("container", "members", "asked"),
    [
        ("/a.tar", ["1.jpg", "7"], missing(["/a.tar#9.jpg", "/a.tar#1"])),
        ("/a.tar", ["1.jpg", "2.tif"], rows(["/a.tar#2.tif#page=2", "/a.tar#2.tif#page=3"])),
        ("/a.parquet", ["0", "1"], missing(["/a.parquet#2", "/a.parquet#x"])),
        ("/a.tif", ["page=1", "page=2"], missing(["/a.tif#page=3", "/a.tif#page=9"], "no_such_page")),
        ("/a.tif", [""], rows(["/a.tif#page=1"])),
    ],
)
def test_rows_that_are_none_of_their_container_s_do_not_count(
    tmp_path: Path, container: str, members: list[str], asked: pa.Table
) -> None:
    own = [f"{container}#{member}" if member else container for member in members]
    some = rows(own[:1], container_rows=len(own))

    def is_finished() -> bool:
        return (container, "v1") in CaptionTable(str(tmp_path), Storage()).finished_containers()

    write(tmp_path, asked)
    assert is_finished() is False
    table = write(tmp_path, some, run="r2")
    assert is_finished() is (len(own) == 1)  # though as many rows stand there, or more
    table = write(tmp_path, *([rows(own[1:])] if own[1:] else []), run="r3")
    assert is_finished()
    assert compact(str(tmp_path), Storage()).merged
    assert is_finished()
    table = CaptionTable(str(tmp_path), Storage())
    ids = np.sort(np.array([image_id(uri, "v1") for uri in asked["uri"].to_pylist()]))
    assert table.drop([(table.files[0], ids)]) == len(asked)
    assert is_finished()


def test_dropping_a_row_reopens_its_container(tmp_path: Path) -> None:
    table = write(tmp_path, rows(["/a.tar#1.jpg", "/a.tar#2.jpg"], container_rows=2))
    assert ("/a.tar", "v1") in table.finished_containers()
    table.drop([(table.files[0], np.array([image_id("/a.tar#1.jpg", "v1")]))])
    assert ("/a.tar", "v1") not in CaptionTable(str(tmp_path), Storage()).finished_containers()


def test_carried_columns_follow_and_may_not_clash() -> None:
    assert schema_with({"label": pa.int64()}).names == [*SCHEMA.names, "label"]
    with pytest.raises(UsageError, match="--carry caption"):
        schema_with({"caption": pa.string()})


def test_a_broken_shards_row_taken_out_leaves_its_length_unknown(tmp_path: Path) -> None:
    # Seven images and the shard's own failed row: eight in all, as far as could be told.
    shard = "/a.tar"
    table = write(
        tmp_path, rows([f"{shard}#{number}.jpg" for number in range(7)]), rows([shard], container_rows=8), every=100
    )
    assert (shard, "v1") in table.finished_containers()
    (file,) = table.files
    table.drop([(file, np.array([image_id(shard, "v1")], np.int64))])
    table = write(tmp_path, rows([f"{shard}#7.jpg"]), run="later")
    assert len(table) == 8
    assert (shard, "v1") not in table.finished_containers()
