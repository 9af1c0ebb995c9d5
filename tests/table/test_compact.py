"""Merging table files, with real processes killed at each step of it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.errors import UsageError
from captionkit.schema import FAILED
from captionkit.storage import Storage, StorageError
from captionkit.table.compact import compact, plan, remove_duplicate_rows
from captionkit.table.lease import Lease, LeaseError, LeaseLost
from captionkit.table.table import CaptionTable, Container, Footer, TableFile
from captionkit.table.writer import TableWriter, stored_columns
from captionkit.table.writing import recover, unfinished_merges
from tests.support.table_rows import FOOTER, rows, write

STORAGE = Storage()
TAR = "/a.tar"


def small_files(folder: Path) -> list[dict[str, Any]]:
    """A table of four files, with a shard that spans two; its rows."""
    write(
        folder,
        rows(["/1.jpg", "/2.jpg"]),
        rows(["/3.jpg", f"{TAR}#1.jpg"]),
        rows([f"{TAR}#2.jpg"], container_rows=2),
        rows(["/4.jpg"], status=FAILED, caption=None, score=None, alternatives=None, error_kind="truncated", error="!"),
    )
    return read(folder)


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows as a reader that knows nothing of captionkit sees them."""
    found = pq.read_table(folder).to_pylist()
    return sorted(found, key=lambda row: row["uri"])


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.parquet"))


def test_small_files_become_one_with_the_same_rows(tmp_path: Path) -> None:
    before = small_files(tmp_path)
    report = compact(str(tmp_path), STORAGE)
    assert read(tmp_path) == before
    assert len(files(tmp_path)) == 1
    assert (report.files_before, report.files_after, report.rows, report.merged) == (4, 1, 6, 4)
    table = CaptionTable(str(tmp_path), STORAGE)
    assert table.files[0].footer == Footer("ck-0", {"beam": 3}, {}, {TAR: Container("v1", 2, 2)})
    assert (TAR, "v1") in table.finished_containers()
    assert pq.read_schema(tmp_path / files(tmp_path)[0]).names == [*before[0]]
    again = compact(str(tmp_path), STORAGE)
    assert (again.files_before, again.files_after, again.merged) == (1, 1, 0)
    assert "1 file before, 1 now, 6 rows" in again.text()


def test_merged_files_are_merged_again_as_more_come(tmp_path: Path) -> None:
    expected: list[str] = []
    for run in range(4):
        write(tmp_path, rows([f"/{run}-1.jpg"]), rows([f"/{run}-2.jpg"]), run=f"r{run}")
        expected += [f"/{run}-1.jpg", f"/{run}-2.jpg"]
        compact(str(tmp_path), STORAGE, target_rows=6)
        assert [row["uri"] for row in read(tmp_path)] == expected
    assert len(files(tmp_path)) < 4


FILES = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(["ck-0", "ck-1"]), st.sampled_from([None, "v1", "v2"])), max_size=30
)


@settings(deadline=None)
@given(FILES, st.integers(1, 60))
def test_groups_hold_what_belongs_together(made: list[tuple[int, str, str | None]], target: int) -> None:
    table = [
        TableFile(
            f"/{n:03d}.parquet", count, Footer(model, {}, {}, {TAR: Container(version, count)} if version else {})
        )
        for n, (count, model, version) in enumerate(made)
    ]
    groups = list(plan(table, target))
    chosen = [file.uri for group in groups for file in group]
    assert len(chosen) == len(set(chosen))
    for group in groups:
        assert len(group) > 1
        assert sum(file.rows for file in group) <= target
        assert len({file.footer.model for file in group}) == 1
        assert len({part.version for file in group for part in file.footer.containers.values()}) <= 1
    if all(version is None for _, _, version in made):
        # Of each kind at most one small file is left, or one beside a full one.
        for model in ("ck-0", "ck-1"):
            small = [file for file in table if file.footer.model == model and file.rows < target / 2]
            sizes = [sum(file.rows for file in group) for group in groups if group[0].footer.model == model]
            sizes += [file.rows for file in small if file.uri not in chosen]
            assert sum(size < target / 2 for size in sizes) <= len(sizes) / 2 + 1


def test_nothing_to_merge_is_an_error_only_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no caption table"):
        compact(str(tmp_path / "nothing"), STORAGE)
    with pytest.raises(UsageError, match="--target-rows"):
        compact(str(tmp_path), STORAGE, target_rows=0)


def test_a_table_that_is_written_to_is_left_alone(tmp_path: Path) -> None:
    before = small_files(tmp_path)
    names = files(tmp_path)
    with Lease(str(tmp_path), STORAGE, "a-run"), pytest.raises(LeaseError, match="a-run"):
        compact(str(tmp_path), STORAGE)
    assert files(tmp_path) == names
    compact(str(tmp_path), STORAGE)
    assert read(tmp_path) == before


def is_table_file(uri: str) -> bool:
    return uri.endswith(".parquet") and "/_lease/" not in uri


def test_a_lost_lease_stops_it_before_anything_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(tmp_path)
    names = files(tmp_path)
    real = Storage.write

    def lose(self: Storage, uri: str, data: bytes) -> None:
        real(self, uri, data)
        if is_table_file(uri):
            for file in (tmp_path / "_lease").iterdir():
                file.unlink()

    monkeypatch.setattr(Storage, "write", lose)
    with pytest.raises(LeaseLost):
        compact(str(tmp_path), STORAGE)
    assert set(names) < set(files(tmp_path))


def test_what_reads_back_wrong_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(tmp_path)
    names = files(tmp_path)
    real = Storage.write

    def other(self: Storage, uri: str, data: bytes) -> None:
        real(self, uri, (tmp_path / names[0]).read_bytes() if is_table_file(uri) else data)

    monkeypatch.setattr(Storage, "write", other)
    with pytest.raises(StorageError, match="reads back as something else"):
        compact(str(tmp_path), STORAGE)
    assert set(names) < set(files(tmp_path))


# Deaths


def _die(folder: str, step: int) -> None:
    """Compact, and be killed before the write or deletion of a table file with this number."""
    steps = itertools.count()

    def deadly(real: Callable[..., None]) -> Callable[..., None]:
        def act(self: Storage, uri: str, *data: bytes) -> None:
            if is_table_file(uri) and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, uri, *data)

        return act

    Storage.write = deadly(Storage.write)  # type: ignore[method-assign]
    Storage.delete = deadly(Storage.delete)  # type: ignore[method-assign]
    compact(folder, Storage())


def die(folder: Path, step: int) -> bool:
    """Whether a process that compacts died at a step; False where it had ended before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.table.test_compact"])
    process = context.Process(target=_die, args=(str(folder), step))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize("doubled", [False, True])
def test_no_death_loses_a_row_and_the_next_one_mends_what_is_double(tmp_path: Path, doubled: bool) -> None:
    for first in itertools.count():
        folder = tmp_path / str(first)
        whole = small_files(folder)
        if doubled:
            write(folder, rows(["/1.jpg", "/3.jpg"]), run="overlap")
        if not die(folder, first):
            break
        seen = read(folder)
        assert [row for row in seen if row in whole] == seen
        assert {row["uri"] for row in seen} == {row["uri"] for row in whole}
        die(folder, 2 * first % 5)  # the next one dies as well
        assert {row["uri"] for row in read(folder)} == {row["uri"] for row in whole}
        compact(str(folder), STORAGE)
        assert read(folder) == whole
        assert len(files(folder)) == 1
        assert (TAR, "v1") in CaptionTable(str(folder), STORAGE).finished_containers()
    assert first == (8 if doubled else 5)  # every write and deletion there is


def test_what_a_death_leaves_is_recognised_and_taken_away(tmp_path: Path) -> None:
    whole = small_files(tmp_path)
    names = files(tmp_path)
    assert die(tmp_path, 3)  # one write, two deletions
    table = CaptionTable(str(tmp_path), STORAGE)
    merged = next(name for name in files(tmp_path) if name not in names)
    assert unfinished_merges(table) == {f"{tmp_path}/{merged}": [f"{tmp_path}/{name}" for name in names[2:]]}
    assert sorted(recover(table)) == [f"{tmp_path}/{name}" for name in names[2:]]
    assert [file.uri for file in table.files] == [f"{tmp_path}/{merged}"]
    assert read(tmp_path) == whole
    assert unfinished_merges(table) == {}
    assert recover(table) == []


def test_a_replaced_file_with_rows_of_its_own_is_not_deleted(tmp_path: Path) -> None:
    small_files(tmp_path)
    assert die(tmp_path, 1)
    old = files(tmp_path)[0]
    (tmp_path / old).unlink()
    write(tmp_path, rows(["/new.jpg"]))  # somebody put another file at that name
    assert "/new.jpg" in {row["uri"] for row in pq.read_table(tmp_path / old).to_pylist()}
    with pytest.raises(UsageError, match="lacks 1 of its rows"):
        compact(str(tmp_path), STORAGE)
    assert "/new.jpg" in {row["uri"] for row in read(tmp_path)}


# Doubles


def doubles(folder: Path, *parts: pa.Table) -> list[tuple[str, str | None]]:
    table = write(folder, *parts)
    before = len(table)
    dropped = remove_duplicate_rows(table)
    found = [(row["uri"], row["caption"]) for row in read(folder)]
    assert len(found) == before - dropped == len(table) == len(CaptionTable(str(folder), STORAGE))
    assert len({uri for uri, _ in found}) == len(found)
    return found


def day(number: int) -> datetime:
    return datetime(2026, 1, number, tzinfo=timezone.utc)


def test_of_double_rows_the_best_of_the_newest_version_stays(tmp_path: Path) -> None:
    failed: dict[str, Any] = {"status": FAILED, "caption": None}
    assert doubles(
        tmp_path,
        rows(["/a", "/only"], caption="old", captioned_at=day(1)),
        rows(["/a"], caption="new", captioned_at=day(2)),
        rows(["/b"], caption="said", captioned_at=day(1)),
        rows(["/b"], captioned_at=day(2), **failed),
        rows(["/c", "/c"], version="v1", caption="of the old version", captioned_at=day(3)),
        rows(["/c"], version="v2", captioned_at=day(4), **failed),
    ) == [("/a", "new"), ("/b", "said"), ("/c", None), ("/only", "old")]
    # The file all of whose rows were double is gone.
    assert len(files(tmp_path)) == 4


def test_doubles_within_one_file(tmp_path: Path) -> None:
    assert doubles(tmp_path, rows(["/a", "/a", "/b"])) == [("/a", "caption of /a"), ("/b", "caption of /b")]


def test_a_shard_whose_doubles_are_gone_is_finished(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        rows([f"{TAR}#1.jpg", f"{TAR}#2.jpg"]),
        rows([f"{TAR}#2.jpg", f"{TAR}#3.jpg"], container_rows=3, captioned_at=day(2)),
    )
    assert (TAR, "v1") not in table.finished_containers()
    compact(str(tmp_path), STORAGE)
    assert (TAR, "v1") in CaptionTable(str(tmp_path), STORAGE).finished_containers()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=6), max_size=6))
def test_any_doubles_leave_one_row_each(tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]]) -> None:
    found = doubles(tmp_path_factory.mktemp("t"), *(rows([f"/{n}" for n in part]) for part in parts))
    assert {uri for uri, _ in found} == {f"/{n}" for part in parts for n in part}


def test_on_s3(bucket: str) -> None:
    table = CaptionTable(f"s3://{bucket}/t", STORAGE)
    writer = TableWriter(table, "r", FOOTER, stored_columns({}), flush_rows=1, flush_seconds=1e9)
    for n in range(3):
        writer.add(rows([f"/{n}.jpg"]))
    report = compact(f"s3://{bucket}/t", STORAGE)
    assert (report.files_before, report.files_after) == (3, 1)
    assert sorted(row["uri"] for row in CaptionTable(f"s3://{bucket}/t", STORAGE).rows()) == [
        "/0.jpg",
        "/1.jpg",
        "/2.jpg",
    ]
