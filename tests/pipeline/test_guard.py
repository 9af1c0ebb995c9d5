"""One row per input although Ray hands out blocks twice, or other ones than were lost."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captionkit.cli import BROKEN, OK, main
from captionkit.inputs.kinds import InputItem
from captionkit.inputs.listing import Inputs
from captionkit.pipeline import listing as listing_module
from captionkit.pipeline.job import CaptionJob
from captionkit.storage import Storage
from captionkit.storage.documents import from_document
from captionkit.table.check import check
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder, tar_bytes

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Altered:
    """A dataset whose rows come as a function changes them."""

    def __init__(self, dataset: Any, change: Callable[[pa.Table], pa.Table]) -> None:
        self._dataset, self._change = dataset, change

    def iter_batches(self, **options: Any) -> Iterator[pa.Table]:
        for rows in self._dataset.iter_batches(**options):
            yield self._change(rows)


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[pa.Table], pa.Table]], None]:
    """Changes the rows of all jobs from now on."""
    dataset = CaptionJob._dataset

    def alter(change: Callable[[pa.Table], pa.Table]) -> None:
        monkeypatch.setattr(CaptionJob, "_dataset", lambda self, *args: Altered(dataset(self, *args), change))

    return alter


def caption(folder: Folder, output: Path) -> int:
    return main(["caption", "--input", str(folder.path), "--output", str(output), "--beam", "1"])


def newest_record(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = from_document(sorted((output / "_runs").glob("*.parquet"))[-1].read_bytes())
    return record


def test_rows_that_come_twice_are_written_once(
    folder: Folder, tmp_path: Path, altered: Callable[[Callable[[pa.Table], pa.Table]], None]
) -> None:
    for number in range(9):
        folder.add(f"{number}.jpg", number)
    altered(lambda rows: pa.concat_tables([rows, rows.slice(3)]))
    assert caption(folder, tmp_path / "out") == OK
    record = newest_record(tmp_path / "out")
    assert (record["counts"]["captioned"], record["counts"]["came_again"]) == (9, 6)
    report = check(str(tmp_path / "out"), Storage())
    assert report.ok, report.text()
    assert report.rows == 9


def test_rows_that_are_lost_end_the_run_with_an_error_and_come_with_the_next(
    folder: Folder,
    tmp_path: Path,
    pictures: list[bytes],
    altered: Callable[[Callable[[pa.Table], pa.Table]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(5):
        folder.add(f"{number}.jpg", number)
    # What was left of a shard could be read one time and not the other: the end of one, and the middle of the other.
    shard = folder.add("s.tar", tar_bytes([(f"{n}.jpg", pictures[n]) for n in range(12)]))

    def lose(rows: pa.Table) -> pa.Table:
        uris = rows["uri"].to_pylist()
        kept = rows.filter(pa.array([not uri.endswith(("/3.jpg", "#7.jpg", "#8.jpg")) for uri in uris]))
        if f"{shard}#11.jpg" in uris:
            broken = kept.slice(0, 1).to_pylist()[0] | {
                "uri": shard,
                "image_id": 77,
                "status": "failed",
                "caption": None,
                "container_rows": 8,
                "version": rows["version"][uris.index(f"{shard}#11.jpg")].as_py(),
            }
            kept = pa.concat_tables([pa.Table.from_pylist([broken], kept.schema), kept])
        return kept

    with monkeypatch.context() as patch:
        patch.setattr("captionkit.pipeline.guard.image_id", lambda *_: 77)
        altered(lose)
        assert caption(folder, tmp_path / "out") == BROKEN
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("captionkit: 1 image and 1 shard or file lack rows: machines were lost")
    assert newest_record(tmp_path / "out")["status"] == "broken"
    table = CaptionTable(str(tmp_path / "out"), Storage())
    assert shard not in {row["uri"] for row in table.rows()}
    assert len(table) == 4 + 10
    altered(lambda rows: rows)
    assert caption(folder, tmp_path / "out") == OK
    report = check(str(tmp_path / "out"), Storage())
    assert report.ok, report.text()
    assert (report.rows, report.captioned) == (17, 17)


def run(*words: str | Path) -> int:
    return main(["caption", *map(str, words), "--beam", "1", "--max-failed", "1"])


def states(output: Path, cut: str) -> dict[str, str | None]:
    rows = list(CaptionTable(str(output), Storage()).rows(["uri", "error_kind"]))
    found = {row["uri"].removeprefix(cut): row["error_kind"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1])
def test_members_and_pages_that_are_not_there_are_failed_rows_beside_those_of_their_container(
    folder: Folder, tmp_path: Path, pictures: list[bytes], order: int
) -> None:
    cut = f"{folder.path}/"
    frame = Image.open(io.BytesIO(pictures[0]))
    for count in (1, 3):
        frame.save(folder.path / f"{count}.tif", save_all=True, append_images=[frame] * (count - 1))
    folder.add("s.tar", tar_bytes([("0.jpg", pictures[0]), ("1.jpg", pictures[1])]))
    parquet = pa.table({"image": pa.array(pictures[:2], pa.binary())})
    pq.write_table(parquet, folder.path / "p.parquet")
    names = ["s.tar", "s.tar#9.jpg", "p.parquet", "p.parquet#2", "p.parquet#1"]
    names += ["1.tif", "1.tif#page=1", "1.tif#page=2", "3.tif", "3.tif#page=9", "3.tif#page=2"]
    listing = folder.add("list.txt", "\n".join(names[::order]).encode())
    output = tmp_path / "out"
    assert run("--input", listing, "--output", output, "--frame", "each") == OK
    whole = {
        **dict.fromkeys(["s.tar#0.jpg", "s.tar#1.jpg", "p.parquet#0", "p.parquet#1", "1.tif", "1.tif#page=1"]),
        **dict.fromkeys(["3.tif#page=1", "3.tif#page=2", "3.tif#page=3"]),
        **dict.fromkeys(["s.tar#9.jpg", "p.parquet#2"], "not_found"),
        **dict.fromkeys(["1.tif#page=2", "3.tif#page=9"], "no_such_page"),
    }
    assert states(output, cut) == whole
    finished = {uri.removeprefix(cut) for uri, _ in CaptionTable(str(output), Storage()).finished_containers()}
    assert finished == {"s.tar", "p.parquet", "1.tif", "3.tif"}
    # The failed rows come again, and nothing else.
    assert run("--input", listing, "--output", output, "--frame", "each", "--retry-failed") == OK
    record = newest_record(output)
    assert (record["counts"]["captioned"], record["counts"]["failed"]) == (0, 4)
    assert states(output, cut) == whole
    finished = {uri.removeprefix(cut) for uri, _ in CaptionTable(str(output), Storage()).finished_containers()}
    assert finished == {"s.tar", "p.parquet", "1.tif", "3.tif"}
    report = check(str(output), Storage())
    assert report.ok, report.text()


@pytest.mark.slow
def test_pages_within_a_shard_are_rows_beside_those_of_the_shard(
    folder: Folder, tmp_path: Path, pictures: list[bytes]
) -> None:
    frame, file = Image.open(io.BytesIO(pictures[0])), io.BytesIO()
    frame.save(file, "TIFF", save_all=True, append_images=[frame])
    folder.add("s.tar", tar_bytes([("a.tif", file.getvalue())]))
    listing = folder.add("list.txt", b"s.tar\ns.tar#a.tif#page=2\n")
    assert run("--input", listing, "--output", tmp_path / "out") == OK
    assert states(tmp_path / "out", f"{folder.path}/") == {"s.tar#a.tif": None, "s.tar#a.tif#page=2": None}


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1])
def test_a_member_or_page_in_another_part_of_the_listing_than_its_container_is_one_row(
    folder: Folder, tmp_path: Path, pictures: list[bytes], order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "AHEAD_SECONDS", 0.0)
    monkeypatch.setattr(listing_module, "AHEAD_IMAGES", 1)
    monkeypatch.setattr(listing_module, "CHUNK", 2)
    frame = Image.open(io.BytesIO(pictures[0]))
    frame.save(folder.path / "3.tif", save_all=True, append_images=[frame] * 2)
    folder.add("s.tar", tar_bytes([("0.jpg", pictures[0]), ("1.jpg", pictures[1])]))
    names = ["s.tar#1.jpg", "3.tif#page=2", "s.tar", "3.tif"][::order]
    listing = folder.add("list.txt", "\n".join(names).encode())
    original, there = Inputs.items, list[int]()

    def items(self: Inputs) -> Iterator[InputItem]:
        for number, item in enumerate(original(self)):
            deadline = time.monotonic() + 60
            while number == 2 and not list((tmp_path / "out").glob("*.parquet")) and time.monotonic() < deadline:
                time.sleep(0.05)
            there.append(len(list((tmp_path / "out").glob("*.parquet"))))
            yield item

    monkeypatch.setattr(Inputs, "items", items)
    assert run("--input", listing, "--output", tmp_path / "out", "--frame", "each") == OK
    assert there[-1] == 1  # so there were two parts
    names = ["s.tar#0.jpg", "s.tar#1.jpg", "3.tif#page=1", "3.tif#page=2", "3.tif#page=3"]
    assert states(tmp_path / "out", f"{folder.path}/") == dict.fromkeys(names)
    monkeypatch.setattr(Inputs, "items", original)
    report = check(str(tmp_path / "out"), Storage())
    assert report.ok, report.text()
