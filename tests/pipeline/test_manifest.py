import os
from pathlib import Path
from typing import Any

import pytest

from captionkit.inputs.ids import IdSet, image_id
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.guard import Guard
from captionkit.pipeline.job import _summary
from captionkit.pipeline.manifest import (
    Manifest,
    ManifestMaker,
    delete_manifest,
    make_manifest,
    read_unit,
    replace_changed,
    rows_per_unit,
)
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder, tar_bytes
from tests.support.table_rows import rows, write

STORAGE = Storage()


def plan(table: CaptionTable, folder: Path, *addresses: str, **options: Any) -> Manifest:
    return make_manifest(Inputs(InputOptions(input=addresses, **options), STORAGE), table, str(folder / "manifest"))


def listed(manifest: Manifest) -> list[str]:
    return [row["uri"] for unit in manifest.units for row in read_unit(unit, STORAGE).to_pylist()]


def empty(tmp_path: Path) -> CaptionTable:
    return CaptionTable(str(tmp_path / "table"), STORAGE)


def test_every_image_is_in_one_unit(folder: Folder, tmp_path: Path) -> None:
    uris = [folder.add(f"{n:03d}.jpg", b"%d" % n) for n in range(300)]
    manifest = plan(empty(tmp_path), tmp_path, str(folder.path))
    assert sorted(listed(manifest)) == uris
    assert [len(read_unit(unit, STORAGE)) for unit in manifest.units] == [128, 128, 44]
    assert (manifest.listed, manifest.images, manifest.done) == (300, 300, 0)
    row = read_unit(manifest.units[0], STORAGE).to_pylist()[0]
    assert row["image_id"] == image_id(row["uri"], row["version"])
    delete_manifest(manifest.units, STORAGE)
    assert not list(tmp_path.glob("**/*.arrow"))


def test_units_grow_with_the_archive() -> None:
    sizes = [rows_per_unit(n) for n in (0, 10_000, 200_000, 10_000_000)]
    assert sizes == sorted(sizes)
    assert 100_000_000 / sizes[-1] < 100_000


def test_an_address_listed_again_is_one_row(folder: Folder, tmp_path: Path) -> None:
    a = folder.add("a.jpg", b"1")
    listing = folder.add("list.txt", f"{a}\n{a}\n".encode())
    manifest = plan(empty(tmp_path), tmp_path, str(folder.path), a, listing)
    assert listed(manifest) == [a]
    assert manifest.duplicates == 3


@pytest.mark.parametrize("order", [1, -1])
def test_a_member_in_another_part_than_its_shard_is_written_once(
    folder: Folder, tmp_path: Path, pictures: list[bytes], order: int
) -> None:
    shard = folder.add("s.tar", tar_bytes([("0.jpg", pictures[0]), ("1.jpg", pictures[1])]))
    found = {address: list(Inputs(InputOptions((address,)), STORAGE).items()) for address in (shard, f"{shard}#1.jpg")}
    maker = ManifestMaker(Inputs(InputOptions((shard,)), STORAGE), empty(tmp_path), str(tmp_path / "m"))
    seen = IdSet()
    for address in list(found)[::order]:
        maker.add(found[address])
        part, table = maker.take(), empty(tmp_path)
        guard = Guard(table, part, seen)
        uris = [f"{shard}#0.jpg", f"{shard}#1.jpg"] if address == shard else [address]
        version = found[shard][0].version
        come = rows(uris, version, container_rows=2 if address == shard else None)
        fresh = guard.fresh(come)
        write(tmp_path / "table", fresh, run=f"r{len(address)}")
        table.files = empty(tmp_path).files
        guard.demand_all(len(fresh))
    assert len(seen) == len(empty(tmp_path)) == 2
    assert empty(tmp_path).finished_containers() == {(shard, version)}


def test_what_the_table_holds_is_left_out(folder: Folder, tmp_path: Path) -> None:
    a, b = folder.add("a.jpg", b"1"), folder.add("b.jpg", b"2")
    version = STORAGE.stat(a).version
    table = write(tmp_path / "table", rows([a], version), rows(["/elsewhere.jpg"]))
    manifest = plan(table, tmp_path, str(folder.path))
    assert listed(manifest) == [b]
    assert manifest.done == 1
    replace_changed(manifest, table)
    assert manifest.replaced == 0
    assert len(table) == 2  # rows of other inputs stay


def test_a_changed_image_loses_its_row_and_is_listed(folder: Folder, tmp_path: Path) -> None:
    a, b = folder.add("a.jpg", b"1"), folder.add("b.jpg", b"2")
    table = write(tmp_path / "table", rows([a], STORAGE.stat(a).version), rows([b], STORAGE.stat(b).version))
    folder.add("a.jpg", b"changed")
    manifest = plan(table, tmp_path, str(folder.path))
    assert listed(manifest) == [a]
    replace_changed(manifest, table)
    assert manifest.replaced == 1
    assert [row["uri"] for row in CaptionTable(table.uri, STORAGE).rows()] == [b]


def test_finished_shards_are_not_read_again(folder: Folder, tmp_path: Path) -> None:
    done, half, changed = (folder.add(f"{n}.tar", tar_bytes([("1.jpg", b"x")])) for n in ("done", "half", "changed"))
    version = STORAGE.stat(done).version
    table = write(
        tmp_path / "table",
        rows([f"{done}#1.jpg"], version, container_rows=1),
        rows([f"{half}#1.jpg"], STORAGE.stat(half).version),
        rows([f"{changed}#1.jpg"], STORAGE.stat(changed).version, container_rows=1),
    )
    os.utime(changed, ns=(0, 12345))
    manifest = plan(table, tmp_path, str(folder.path))
    assert sorted(listed(manifest)) == sorted([half, changed])
    assert (manifest.containers, manifest.finished_containers, manifest.unknown) == (3, 1, 2)
    replace_changed(manifest, table)
    assert manifest.replaced == 1
    assert manifest.partial == [half]
    assert table.ids_within(manifest.partial).tolist() == [image_id(f"{half}#1.jpg", STORAGE.stat(half).version)]


def test_progress_is_told(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captionkit.pipeline.manifest.CHUNK", 4)
    uris = [folder.add(f"{n}.jpg", b"x") for n in range(10)]
    told: list[int] = []
    inputs = Inputs(InputOptions(input=(folder.add("list.txt", "\n".join(uris).encode()),)), STORAGE)
    make_manifest(inputs, empty(tmp_path), str(tmp_path / "m"), told.append)
    assert told == [4, 8, 10]


def test_files_whose_pages_all_have_rows_are_not_read_again(folder: Folder, tmp_path: Path) -> None:
    done, half, changed, single, plain = (folder.add(f"{n}.tif", b"x") for n in ("a", "b", "c", "d", "e"))
    version = {uri: STORAGE.stat(uri).version for uri in (done, half, changed, single, plain)}
    table = write(
        tmp_path / "table",
        rows([f"{done}#page=1", f"{done}#page=2"], version[done], container_rows=2),
        rows([f"{half}#page=2"], version[half], container_rows=2),
        rows([f"{changed}#page=1", f"{changed}#page=2"], version[changed], container_rows=2),
        rows([single], version[single], container_rows=1),
        rows([plain], version[plain]),  # as a run without --frame each wrote it
    )
    os.utime(changed, ns=(0, 12345))
    manifest = plan(table, tmp_path, str(folder.path), frame="each")
    assert sorted(listed(manifest)) == [half, changed]
    assert (manifest.done, manifest.unknown, manifest.paged, manifest.single) == (4, 2, 2, 0)  # rows, not files
    replace_changed(manifest, table)
    assert (manifest.replaced, manifest.partial) == (2, [half])
    assert plan(CaptionTable(table.uri, STORAGE), tmp_path / "2", str(folder.path), frame="each").done == 4


def test_a_table_of_pages_goes_on_where_files_are_to_be_one_row(folder: Folder, tmp_path: Path) -> None:
    done, half, changed = (folder.add(f"{n}.tif", b"x") for n in ("a", "b", "c"))
    parts = [
        rows([f"{uri}#page={page}" for page in pages], STORAGE.stat(uri).version, container_rows=2)
        for uri, pages in ((done, (1, 2)), (half, (1,)), (changed, (1, 2)))
    ]
    table = write(tmp_path / "table", *parts)
    os.utime(changed, ns=(0, 12345))
    manifest = plan(table, tmp_path, str(folder.path))
    assert (sorted(listed(manifest)), manifest.done) == ([half, changed], 2)
    replace_changed(manifest, table)
    assert manifest.replaced == 3
    assert [row["uri"] for row in CaptionTable(table.uri, STORAGE).rows()] == [f"{done}#page=1", f"{done}#page=2"]
    copies = plan(CaptionTable(table.uri, STORAGE), tmp_path / "2", str(folder.path), dedupe=True)
    assert (sorted(listed(copies)), copies.copies) == ([half], 1)  # of each other, and not of pages


def test_the_log_says_that_files_of_pages_are_no_copies_of_each_other(folder: Folder, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif", "c.jpg", "d.jpg"):
        folder.add(name, b"x")
    inputs = Inputs(InputOptions((str(folder.path),), frame="each", dedupe=True), STORAGE)
    manifest = make_manifest(inputs, empty(tmp_path), str(tmp_path / "m"))
    assert (manifest.copies, manifest.paged) == (1, 2)
    assert "; 2 files of pages read each, copies or not (--frame each)" in _summary(manifest, inputs)
