"""Each way in which a table can fall short of its promise, and that it is found."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.cli import OK, main
from captionkit.config import to_config
from captionkit.errors import UsageError
from captionkit.images import Limits, Preprocessing
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.fetch import FetchOptions, fetch_unit
from captionkit.pipeline.manifest import make_manifest
from captionkit.pipeline.options import CaptionOptions, OutputOptions
from captionkit.pipeline.run_record import RunRecord
from captionkit.schema import FAILED, SCHEMA
from captionkit.storage import Storage, StorageOptions
from captionkit.table.check import check
from captionkit.table.check_report import CheckReport
from captionkit.table.compact import compact
from captionkit.table.failures import failed_rows, failures
from captionkit.table.lease import Lease
from captionkit.table.table import CaptionTable, Container, Footer, to_parquet
from captionkit.table.writer import TableWriter, stored_columns
from tests.support.archive import Folder, jpeg, tar_bytes
from tests.support.table_rows import FOOTER, rows, write

STORAGE = Storage()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "table"


def versioned(*uris: str, **extra: Any) -> pa.Table:
    """TableIndex of files as they are now."""
    return pa.concat_tables([rows([uri], STORAGE.stat(uri).version, **extra) for uri in uris])


def failed(table: pa.Table, kind: str | None = "truncated") -> pa.Table:
    made = [{**row, "status": FAILED, "caption": None, "error_kind": kind, "error": "!"} for row in table.to_pylist()]
    return pa.Table.from_pylist(made, table.schema)


def record(output: Path, *inputs: str | Path, run: str = "r", status: str = "succeeded", **options: Any) -> None:
    """The record of a run over these inputs, as the run writes it."""
    told = CaptionOptions(
        InputOptions(input=tuple(map(str, inputs)), **options.pop("inputs", {})),
        OutputOptions(output=str(output), **options),
    )
    made = RunRecord(run, to_config(told), {}, status=status, started_at=f"2026-01-01T00:00:00-{run}")
    made.write(STORAGE, f"{output}/_runs/{run}.parquet")


def problems(output: Path, **options: Any) -> dict[str, int]:
    return {name: found.count for name, found in check(str(output), STORAGE, **options).problems.items()}


def notes(output: Path) -> dict[str, int]:
    found = check(str(output), STORAGE)
    assert found.ok
    return {name: finding.count for name, finding in found.notes.items()}


def whole(folder: Folder, output: Path) -> CheckReport:
    """A finished table over images, shards and a Parquet file."""
    loose = [folder.add(f"{n}.jpg", b"%d" % n) for n in range(3)]
    shard, broken, empty = (folder.add(f"{name}.tar", tar_bytes([])) for name in ("shard", "broken", "empty"))
    images = folder.add("images.parquet", b"")
    pq.write_table(pa.table({"image": [b"1", b"2"]}), images)

    def inside(base: str, *members: str, **extra: Any) -> pa.Table:
        return rows([f"{base}#{member}" for member in members], STORAGE.stat(base).version, **extra)

    write(
        output,
        versioned(*loose[:2]),
        failed(versioned(loose[2])),
        inside(shard, "1.jpg"),
        inside(shard, "2.jpg", "3.jpg", container_rows=3),
        failed(versioned(broken, container_rows=1)),
        inside(images, "0", "1", container_rows=2),
    )
    record(output, folder.path)
    assert STORAGE.exists(empty)
    return check(str(output), STORAGE)


def test_a_finished_table_is_proven(folder: Folder, output: Path) -> None:
    found = whole(folder, output)
    assert found.problems == {}
    assert found.notes == {}
    assert (found.files, found.rows, found.captioned, found.failed, found.listed) == (6, 9, 7, 2, 7)
    assert found.models == ["ck-0"]
    assert "9 rows: 7 captioned, 2 failed" in found.text()
    assert found.text().endswith("ok: 7 inputs listed, and each has exactly one row (a shard, all of its)")
    assert json.loads(json.dumps(found.to_json()))["ok"] is True
    compact(str(output), STORAGE)
    again = check(str(output), STORAGE, every_column=True)
    assert again.ok
    assert (again.files, again.rows, again.listed) == (1, 9, 7)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (0, {"missing": 2}),
        (1, {"missing": 1}),
        (2, {"unfinished": 1}),
        (3, {"unfinished": 1}),
        (5, {"unfinished": 1}),
    ],
)
def test_a_lost_file_is_missed(folder: Folder, output: Path, lost: int, expected: dict[str, int]) -> None:
    whole(folder, output)
    sorted(output.glob("*.parquet"))[lost].unlink()
    assert problems(output) == expected
    assert problems(output, coverage=False) == {}


def test_what_is_missing_is_named(folder: Folder, output: Path) -> None:
    whole(folder, output)
    new = folder.add("new.jpg", b"n")
    shard = folder.add("new.tar", tar_bytes([("a.jpg", b"x")]))
    found = check(str(output), STORAGE)
    assert found.problems["missing"].examples == [new]
    assert found.problems["unfinished"].examples == [f"{shard}: 0 rows, and its end was not reached"]
    assert "problem: 1 input has no row" in found.text()
    assert found.text().endswith("not ok")
    means = found.to_json()["problems"]["missing"]["means"]
    assert "have no row" in means


def test_what_changed_or_went_is_no_fault(folder: Folder, output: Path) -> None:
    whole(folder, output)
    os.utime(folder.path / "0.jpg", ns=(0, 1))
    os.utime(folder.path / "shard.tar", ns=(0, 1))
    (folder.path / "1.jpg").unlink()
    (folder.path / "images.parquet").unlink()
    found = check(str(output), STORAGE)
    assert found.ok
    assert found.notes["changed"].count == 2
    assert found.notes["extra"].count == 3
    assert any(example.startswith(f"{folder.path}/1.jpg in ") for example in found.notes["extra"].examples)


def test_an_address_with_two_rows(folder: Folder, output: Path) -> None:
    a, b = folder.add("a.jpg", b"1"), folder.add("b.jpg", b"2")
    write(output, versioned(a, b), versioned(a), rows([b], "of an earlier version"))
    record(output, folder.path)
    found = check(str(output), STORAGE)
    assert {name: finding.count for name, finding in found.problems.items()} == {"duplicates": 2}
    assert "extra" not in found.notes
    assert {example.partition(" in ")[0] for example in found.problems["duplicates"].examples} == {a, b}
    compact(str(output), STORAGE)
    assert problems(output) == {}


def test_rows_that_are_neither_caption_nor_failure(folder: Folder, output: Path) -> None:
    uris = [folder.add(f"{n}.jpg", b"") for n in range(6)]
    good, *bad = [versioned(uri) for uri in uris]
    write(
        output,
        good,
        failed(bad[0], None),
        failed(bad[1], "tired"),
        versioned(uris[3], status=FAILED, error_kind="truncated"),
        versioned(uris[4], caption=None),
        versioned(uris[5], status="done"),
    )
    record(output, folder.path)
    assert problems(output) == {"rules": 5}


def chunk_start(file: Path, column: int) -> int:
    chunk = pq.ParquetFile(file).metadata.row_group(0).column(column)
    return int(chunk.dictionary_page_offset or chunk.data_page_offset)


def test_files_that_cannot_be_read_or_are_something_else(folder: Folder, output: Path) -> None:
    whole(folder, output)
    files = sorted(output.glob("*.parquet"))
    sound = files[0].read_bytes()
    pages = min(chunk_start(files[0], column) for column in range(len(SCHEMA))), 400
    files[0].write_bytes(sound[: pages[0]] + bytes(pages[1]) + sound[sum(pages) :])
    (output / "compacted-footer.parquet").write_bytes(sound[:-400] + bytes(300) + sound[-100:])
    (output / "torn.parquet").write_bytes(b"PAR1...")
    pq.write_table(pa.table({"n": [1]}), output / "mine.parquet")
    other = pa.table({"uri": ["/x"], "image_id": [1]})
    (output / "narrow.parquet").write_bytes(to_parquet(other, Footer("ck-0", {"beam": 3}, {})))
    found = check(str(output), STORAGE)
    names = {example.split(": ")[0].rpartition("/")[2] for example in found.problems["unreadable"].examples}
    assert names == {files[0].name, "compacted-footer.parquet", "torn.parquet", "mine.parquet", "narrow.parquet"}
    assert found.problems["schema"].count == 1
    assert found.problems["missing"].count == 2
    assert found.rows == 7


def test_a_torn_column_that_the_promise_is_not_about(output: Path) -> None:
    write(output, rows([f"/{n}.jpg" for n in range(500)]))
    file = next(output.glob("*.parquet"))
    data = bytearray(file.read_bytes())
    chunk = pq.ParquetFile(file).metadata.row_group(0).column(SCHEMA.get_field_index("alternatives"))
    start = chunk_start(file, SCHEMA.get_field_index("alternatives"))
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    file.write_bytes(data)
    assert problems(output, coverage=False) == {}
    assert problems(output, coverage=False, every_column=True) == {"unreadable": 1}


def test_a_footer_that_counts_wrong(output: Path) -> None:
    write(output, rows(["/a.tar#1.jpg", "/a.tar#2.jpg"], container_rows=2))
    file = next(output.glob("*.parquet"))
    wrong = Footer("ck-0", {"beam": 3}, {}, {"/a.tar": Container("v1", 3, 3)})
    file.write_bytes(to_parquet(pq.read_table(file), wrong))
    found = check(str(output), STORAGE, coverage=False)
    assert found.problems["footers"].examples == [f"{file}: 3 of /a.tar, and holds 2"]


def test_carried_columns_belong_to_the_schema(output: Path) -> None:
    table = rows(["/a.jpg"]).select(SCHEMA.names).append_column("label", pa.array(["x"]))
    for carry in ({"label": "string"}, {}, {"label": "int64"}):
        STORAGE.write(f"{output}/t.parquet", to_parquet(table, Footer("ck-0", {"beam": 3}, carry)))
        found = check(str(output), STORAGE, coverage=False)
        if carry == {"label": "string"}:
            assert found.ok
        else:
            assert found.problems["schema"].examples == [f"{output}/t.parquet: label"]


def test_two_models_are_one_too_many_unless_asked_for(folder: Folder, output: Path) -> None:
    a, b = folder.add("a.jpg", b"1"), folder.add("b.jpg", b"2")
    write(output, versioned(a), versioned(b, model="ck-9"))
    record(output, folder.path)
    found = check(str(output), STORAGE)
    assert found.problems["models"].examples == ["ck-0", "ck-9"]
    record(output, folder.path, run="s", mixed=True)
    assert problems(output) == {}


def test_what_a_dead_compaction_left_is_no_double_row(folder: Folder, output: Path) -> None:
    whole(folder, output)
    first = sorted(output.glob("*.parquet"))[0]
    saved = first.read_bytes()
    compact(str(output), STORAGE)
    first.write_bytes(saved)
    found = check(str(output), STORAGE)
    assert list(found.problems) == ["replaced"]
    assert found.problems["replaced"].examples[0].startswith(f"{first} (by ")
    compact(str(output), STORAGE)
    assert problems(output) == {}


def test_a_table_that_is_being_written_to_says_so(folder: Folder, output: Path) -> None:
    whole(folder, output)
    with Lease(str(output), STORAGE, "the-run"):
        found = check(str(output), STORAGE)
    assert found.notes["writing"].examples[0].startswith("the-run on host ")
    assert notes(output) == {}


def test_inputs_that_can_no_longer_be_listed_are_no_proof(folder: Folder, output: Path) -> None:
    a = folder.add("a.jpg", b"1")
    write(output, versioned(a))
    assert problems(output) == {"coverage": 1}  # no record
    assert "its inputs were not listed" in check(str(output), STORAGE, coverage=False).text()
    record(output, folder.path / "gone")
    found = check(str(output), STORAGE)
    assert "those of run r" in found.problems["coverage"].examples[0]
    assert "no such file or folder" in found.problems["coverage"].examples[0]
    assert "extra" not in found.notes
    record(output, folder.path, run="s")
    assert notes(output) == {"coverage": 1}  # of an earlier night
    assert "note: 1 input could not be listed" in check(str(output), STORAGE).text()


def test_inputs_of_all_nights_that_ended_count(folder: Folder, output: Path) -> None:
    first, second, third = (folder.add(f"{n}/a.jpg", b"1") for n in range(3))
    write(output, versioned(first, second))
    record(output, f"{folder.path}/0", run="a")
    record(output, f"{folder.path}/2", run="b", status="broken")  # mistyped, say
    record(output, f"{folder.path}/1", run="c")
    record(output, f"{folder.path}/1", run="d")
    found = check(str(output), STORAGE)
    assert (found.ok, found.listed, found.notes) == (True, 2, {})
    record(output, f"{folder.path}/2", run="e", status="stopped")
    assert check(str(output), STORAGE).problems["missing"].examples == [third]


def test_list_rows_without_an_address_are_told(folder: Folder, output: Path) -> None:
    a = folder.add("a.jpg", b"1")
    listing = folder.add("l.csv", f'link\n{a}\n""\n'.encode())
    write(output, versioned(a))
    record(output, listing, inputs={"uri_column": "link"})
    assert notes(output) == {"blank": 1}


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no caption table"):
        check(str(tmp_path), STORAGE)


def test_a_table_whose_files_are_gone_is_told_from_none(output: Path) -> None:
    made = RunRecord("r", {}, {}, files=[f"{output}/captions-r-00000.parquet"])
    write(output, rows(["/a.jpg"]))
    made.write(STORAGE, f"{output}/_runs/r.parquet")
    (output / "captions-r-00000.parquet").unlink()
    for look in (check, compact, failures):
        with pytest.raises(UsageError) as error:
            look(str(output), STORAGE)
        assert "holds no caption table any more: of 1 file that its runs wrote (captions-r-00000" in str(error.value)


def test_on_s3_with_the_endpoint_that_the_run_was_told(bucket: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    STORAGE.write(f"s3://{bucket}/photos/a.jpg", b"1")
    base = f"s3://{bucket}/t"
    table = versioned(f"s3://{bucket}/photos/a.jpg").select(SCHEMA.names)
    STORAGE.write(f"{base}/t.parquet", to_parquet(table, Footer("ck-0", {}, {})))
    told = CaptionOptions(
        InputOptions(input=(f"s3://{bucket}/photos",)),
        OutputOptions(output=base),
        storage=StorageOptions(endpoint_url=s3.endpoint),
    )
    RunRecord("r", to_config(told), {}).write(STORAGE, f"{base}/_runs/r.parquet")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    found = check(base, Storage(StorageOptions(endpoint_url=s3.endpoint)))
    assert (found.ok, found.listed) == (True, 1)


def caption(folder: Folder, output: Path) -> int:
    """What a run does, from listing over real fetching to the table, but for the captioner and Ray; the rows made."""
    table = CaptionTable(str(output), STORAGE)
    manifest = make_manifest(
        Inputs(InputOptions(input=(str(folder.path),)), STORAGE), table, f"{output}/_runs/{len(table)}"
    )
    done = len(table)
    fetching = FetchOptions(
        storage=StorageOptions(),
        preprocessing=Preprocessing(size=8, resize=8),
        limits=Limits(),
        threads=2,
        image_column=None,
        carry=(),
        done=None,
    )
    writer = TableWriter(table, f"r{done}", FOOTER, stored_columns({}), flush_rows=1, flush_seconds=1e9)
    for unit in manifest.units:
        for fetched in fetch_unit(unit, fetching):
            for row in fetched.to_pylist():
                made = rows([row["uri"]], row["version"], container_rows=row["container_rows"])
                assert made["image_id"].to_pylist() == [row["image_id"]]
                writer.add(failed(made, row["error_kind"]) if row["error_kind"] else made)
    writer.flush()
    record(output, folder.path, run=f"r{done}")
    return len(CaptionTable(str(output), STORAGE)) - done


def test_what_real_fetching_makes_is_proven(folder: Folder, output: Path) -> None:
    folder.add("a.jpg", 1)
    folder.add("bad.jpg", b"no picture")
    folder.add("s.tar", tar_bytes([("1.jpg", jpeg(2)), ("2.jpg", b"neither")]))
    folder.add("cut.tar", tar_bytes([("1.jpg", jpeg(3))])[:700])
    folder.add("empty.tar", tar_bytes([("notes.txt", b"hello"), ("._mac.jpg", b"")]))
    pq.write_table(pa.table({"image": [jpeg(4), jpeg(5), b""]}), folder.path / "p.parquet", row_group_size=2)
    assert caption(folder, output) == 9
    found = check(str(output), STORAGE, every_column=True)
    assert (found.problems, found.notes) == ({}, {})
    assert (found.rows, found.failed, found.listed) == (9, 5, 6)
    compact(str(output), STORAGE)
    assert caption(folder, output) == 0
    assert problems(output) == {}
    # Failed rows that are taken out are missing, and so will come again.
    table = CaptionTable(str(output), STORAGE)
    assert table.drop(failed_rows(table)) == 5
    found = check(str(output), STORAGE)
    assert {name: finding.count for name, finding in found.problems.items()} == {"missing": 1, "unfinished": 4}
    assert [example.split(" ")[0] for example in found.problems["missing"].examples] == [f"{folder.path}/bad.jpg"]


def test_images_in_shards_and_parquet_files_are_looked_for_by_name(folder: Folder, output: Path) -> None:
    names = ("a.jpg", "b.jpg", "hash4711", "label.txt")
    one = tar_bytes([("a.jpg", b"1"), ("b.jpg", b"2"), ("hash4711", jpeg(1)), ("label.txt", b"cat")])
    shard = folder.add("one.tar", one + tar_bytes([("behind.jpg", b"3")]))
    packed = folder.add("packed.tar", gzip.compress(one))
    images = folder.add("images.parquet", b"")
    pq.write_table(pa.table({"image": [b"1", b"2"]}), images)

    def caption_members(base: str, *members: str) -> pa.Table:
        made = [f"{base}#{member}" for member in members]
        return rows(made, STORAGE.stat(base).version, container_rows=len(members))

    # As a captionkit would have written it that knew neither names without suffix nor tars behind one another; and one
    # that took another row of the Parquet file for the second.
    write(output, caption_members(shard, *names[:2]), caption_members(packed, *names[:3]))
    write(output, caption_members(images, "0", "7"), run="s")
    record(output, folder.path)
    assert problems(output) == {}
    found = check(str(output), STORAGE, members=True)
    assert {name: problem.count for name, problem in found.problems.items()} == {"members": 3}
    assert found.problems["members"].examples == [f"{images}#1", f"{shard}#hash4711", f"{shard}#behind.jpg"]
    assert found.notes["passed_over"].count == 2
    assert f"1 file: 1 × .txt in {shard}" in found.notes["passed_over"].examples
    write(output, caption_members(shard, "hash4711", "behind.jpg"), caption_members(images, "1"), run="t")
    assert problems(output, members=True) == {}


def test_a_shard_that_breaks_now_is_no_proof(folder: Folder, output: Path) -> None:
    whole = tar_bytes([("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    shard = folder.add("s.tar", whole[:-8000])
    write(output, rows([f"{shard}#a.jpg"], STORAGE.stat(shard).version, container_rows=1))
    record(output, shard)
    assert problems(output) == {}
    found = check(str(output), STORAGE, members=True)
    assert list(found.problems) == ["coverage"]
    assert found.problems["coverage"].examples[0].startswith(f"{shard}: ")
    write(output, failed(rows([shard], STORAGE.stat(shard).version, container_rows=2)), run="s")
    assert problems(output, members=True) == {}


def test_inputs_that_the_run_never_heard_of_can_be_named(folder: Folder, output: Path) -> None:
    """As where one of two --input was lost before the run began."""
    one, two = folder.add("one/a.jpg", b"1"), folder.add("two/b.jpg", b"2")
    write(output, versioned(two))
    record(output, folder.path / "two")
    assert problems(output) == {}
    both = (f"{folder.path}/one", f"{folder.path}/two")
    found = check(str(output), STORAGE, inputs=both)
    assert found.problems["missing"].examples == [one]
    assert found.notes == {}
    gone = check(str(output), STORAGE, inputs=(f"{folder.path}/three",))
    assert gone.problems["coverage"].examples == [f"--input {folder.path}/three: no such file or folder"]


def test_what_is_passed_over_and_odd_in_lists_is_told(folder: Folder, output: Path) -> None:
    a, b = folder.add("a.jpg", b"1"), folder.add("b.jpg", b"2")
    folder.add("notes.txt", b"x")
    listing = folder.add("list.csv", f'uri,label\n{a},"open\n{b},c\n'.encode())
    write(output, versioned(a))
    record(output, f"{folder.path}/*.jpg", listing, folder.path)
    found = check(str(output), STORAGE)
    assert found.problems["missing"].examples[0] == b
    assert found.notes["lists"].count == 1
    assert "a quote that is never closed" in found.notes["lists"].examples[0]
    # The list is no file that is passed over: another --input names it.
    assert found.notes["passed_over"].examples == ["1 file: 1 × .txt in the inputs of run r"]


@pytest.mark.parametrize("encoding", ["latin-1", "shift_jis", "utf-8"])
@pytest.mark.parametrize("packed", [False, True])
def test_members_named_in_any_encoding_have_addresses_that_can_be_read_again(
    folder: Folder, output: Path, encoding: str, packed: bool
) -> None:
    names = ["café.jpg", "cafè.jpg"] if encoding == "latin-1" else ["日本.jpg", "日木.jpg"]
    sent = {name.encode(encoding).decode("utf-8", "surrogateescape"): jpeg(n) for n, name in enumerate(names)}
    shard = folder.add("s.tar", gzip.compress(tar_bytes(sent.items())) if packed else tar_bytes(sent.items()))
    assert caption(folder, output) == 2
    found = check(str(output), STORAGE, members=True)
    assert (found.problems, found.notes, found.failed) == ({}, {}, 0)
    uris = [row["uri"] for row in CaptionTable(str(output), STORAGE).rows(["uri"])]
    if encoding == "utf-8":
        assert uris == [f"{shard}#{name}" for name in names]
    assert "".join(uris).isprintable()
    for uri, picture in zip(uris, sent.values(), strict=True):
        assert STORAGE.read(STORAGE.normalize(uri)) == picture  # as `attention` and an `--input` list read it
        [item] = Inputs(InputOptions(input=(uri,)), STORAGE).items()
        assert item.name == uri
    page = output.parent / "page.html"
    assert main(["gallery", str(output), "--page", str(page)]) == OK
    assert page.read_text("utf-8").count("data:image/") == 2
