"""One row per input although Ray hands out blocks twice, or other ones than were lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from captionkit.cli import BROKEN, OK, main
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
