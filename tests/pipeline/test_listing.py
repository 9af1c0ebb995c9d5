"""Captioning that starts while listing goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from captionkit.cli import BROKEN, OK, USAGE, main
from captionkit.errors import UsageError
from captionkit.inputs.images import Images, one_by_one
from captionkit.inputs.kinds import InputItem
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline import listing as listing_module
from captionkit.pipeline.listing import Listing
from captionkit.pipeline.manifest import ManifestMaker, read_unit
from captionkit.storage import Storage
from captionkit.storage.documents import from_document
from captionkit.table.check import check
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder, tar_bytes

STORAGE = Storage()


class Slow(Inputs):
    """Inputs whose listing waits for `gate` after the first items, and may break behind it."""

    def __init__(self, folder: Path, first: int, error: Exception | None = None) -> None:
        super().__init__(InputOptions((str(folder),)), STORAGE)
        self.gate, self.first, self.error = Event(), first, error

    def pieces(self) -> Iterator[Images | InputItem]:
        for number, item in enumerate(one_by_one(super().pieces())):
            if number == self.first:
                assert self.gate.wait(60)
                if self.error:
                    raise self.error
            yield item


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts may be small and come at once."""
    monkeypatch.setattr(listing_module, "AHEAD_SECONDS", 0.0)
    monkeypatch.setattr(listing_module, "AHEAD_IMAGES", 1)
    monkeypatch.setattr(listing_module, "CHUNK", 2)


def listing(inputs: Inputs, tmp_path: Path, **more: Any) -> Listing:
    maker = ManifestMaker(inputs, CaptionTable(str(tmp_path / "t"), STORAGE), str(tmp_path / "m"))
    return Listing(inputs, maker, **more)


def names(units: list[Any]) -> list[str]:
    return [row["uri"].rpartition("/")[2] for unit in units for row in read_unit(unit, STORAGE).to_pylist()]


def test_parts_come_while_listing_goes_on_and_make_up_the_whole(folder: Folder, tmp_path: Path) -> None:
    for number in range(7):
        folder.add(f"{number}.jpg", b"%d" % number)
    inputs = Slow(folder.path, first=4)
    with listing(inputs, tmp_path) as found:
        parts = [found.next(4)]
        assert not found.finished
        assert (parts[0].listed, parts[0].images, parts[0].single) == (4, 4, 4)
        inputs.gate.set()
        parts.append(found.next(100))
        assert found.finished
    assert sorted(names([unit for part in parts for unit in part.units])) == [f"{number}.jpg" for number in range(7)]
    assert (found.total.listed, found.total.images, found.total.single) == (7, 7, 7)
    assert len({unit.file for unit in found.units}) == len(list(tmp_path.glob("m-*.arrow"))) == 2


def test_what_was_listed_and_not_taken_is_known_for_its_deletion(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captionkit.pipeline.manifest.UNITS_PER_FILE", 1)
    monkeypatch.setattr("captionkit.pipeline.manifest.rows_per_unit", lambda listed: 2)
    for number in range(6):
        folder.add(f"{number}.jpg", b"%d" % number)
    inputs = Slow(folder.path, first=4)
    with listing(inputs, tmp_path) as found:
        while found.maker.listed < 4:
            time.sleep(0.01)
    inputs.gate.set()
    assert {unit.file for unit in found.units} == {str(file) for file in tmp_path.glob("m-*.arrow")} != set()


def test_all_of_it_is_awaited_where_that_is_asked(folder: Folder, tmp_path: Path) -> None:
    for number in range(5):
        folder.add(f"{number}.jpg", b"%d" % number)
    with listing(Inputs(InputOptions((str(folder.path),)), STORAGE), tmp_path, ahead=False) as found:
        assert found.next(0).listed == 5
        assert found.finished


def test_what_breaks_the_listing_is_raised_where_it_is_asked(folder: Folder, tmp_path: Path) -> None:
    for number in range(5):
        folder.add(f"{number}.jpg", b"%d" % number)
    inputs = Slow(folder.path, first=4, error=UsageError("no such list"))
    with listing(inputs, tmp_path) as found:
        found.next(1)
        found.check()
        inputs.gate.set()
        with pytest.raises(UsageError, match="no such list"):
            found.next(100)
        with pytest.raises(UsageError, match="no such list"):
            found.check()


def caption(folder: Folder, output: Path, *more: str) -> int:
    args = ["--input", str(folder.path), "--output", str(output), "--beam", "1", "--actors", "1", *more]
    return main(["caption", *args])


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_the_first_captions_are_there_before_all_is_listed(
    folder: Folder, tmp_path: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        folder.add(f"{number:02d}.jpg", pictures[number % 12])
    folder.add("x.tar", tar_bytes([(f"{number}.jpg", pictures[number]) for number in range(5)]))
    folder.add("broken.jpg", b"none")
    output, there = tmp_path / "out", list[int]()
    original = Inputs.pieces

    def pieces(self: Inputs) -> Iterator[Images | InputItem]:
        for number, item in enumerate(one_by_one(original(self))):
            if number in (10, 24):  # in a real archive these are hours
                deadline = time.monotonic() + 120
                while len(list(output.glob("*.parquet"))) < 1 + (number > 10) and time.monotonic() < deadline:
                    time.sleep(0.05)
                there.append(len(CaptionTable(str(output), STORAGE)))
            yield item

    monkeypatch.setattr(Inputs, "pieces", pieces)
    assert caption(folder, output, "--max-failed", "0.1") == OK
    monkeypatch.setattr(Inputs, "pieces", original)
    assert there[0] >= 1
    assert there[1] > there[0]
    report = check(str(output), STORAGE, members=True)
    assert report.ok, report.text()
    assert (report.rows, report.failed) == (36, 1)
    [record] = [from_document(file.read_bytes()) for file in (output / "_runs").glob("*.parquet")]
    assert (record["counts"]["listed"], record["counts"]["containers"], record["counts"]["captioned"]) == (31, 1, 35)
    assert sorted(record["files"]) == sorted(str(file) for file in output.glob("*.parquet"))
    assert not list(output.glob("_runs/*.arrow"))
    assert caption(folder, output, "--share", "1/2") == OK


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_listing_that_breaks_ends_the_run_and_keeps_what_is_captioned(
    folder: Folder, tmp_path: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        folder.add(f"{number:02d}.jpg", pictures[number % 12])
    output, original = tmp_path / "out", Inputs.pieces

    def pieces(self: Inputs) -> Iterator[Images | InputItem]:
        for number, item in enumerate(one_by_one(original(self))):
            if number == 12:
                deadline = time.monotonic() + 120
                while not list(output.glob("*.parquet")) and time.monotonic() < deadline:
                    time.sleep(0.05)
                raise UsageError("the second list is none")
            yield item

    monkeypatch.setattr(Inputs, "pieces", pieces)
    assert caption(folder, output) in (USAGE, BROKEN)
    monkeypatch.setattr(Inputs, "pieces", original)
    assert len(CaptionTable(str(output), STORAGE)) >= 1
    assert caption(folder, output) == OK
    assert check(str(output), STORAGE).ok
