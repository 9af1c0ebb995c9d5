"""Images of one content are captioned once, and each address has its row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from captionkit.cli import OK, TOO_MANY_FAILED, USAGE, main
from captionkit.images import Limits, Preprocessing
from captionkit.inputs.ids import image_id
from captionkit.inputs.kinds import InputItem, content_key
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.contents import first_with_contents, start_contents
from captionkit.pipeline.copies import copied_rows
from captionkit.pipeline.fetch import FetchOptions, fetch_unit
from captionkit.pipeline.manifest import Manifest, ManifestMaker, read_unit
from captionkit.storage import Storage, StorageOptions
from captionkit.storage.documents import from_document
from captionkit.table.check import check
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder
from tests.support.table_rows import rows, write

STORAGE = Storage()
MD5 = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("uri", "version", "size", "known"),
    [
        ("s3://b/a.jpg", MD5, 7, True),
        ("s3://b/a.jpg", f"{MD5}-3", 7, True),
        ("s3://b/a.jpg", MD5, None, False),
        ("s3://b/a.jpg", "0x8D4BCC2E4835CD0", 7, False),
        ("https://example.org/a.jpg", MD5, 7, False),
        ("https://b.s3.eu-west-1.amazonaws.com/a.jpg?X-Amz-Signature=1", MD5, 7, True),
        ("https://s3.amazonaws.com/b/a.jpg", MD5, 7, True),
        ("https://example.org/s3.amazonaws.com/a.jpg", MD5, 7, False),
        ("https://notamazonaws.com/a.jpg", MD5, 7, False),
        ("/a.jpg", "7-1700000000", 7, False),
    ],
)
def test_only_what_is_made_of_contents_tells_them(uri: str, version: str, size: int | None, known: bool) -> None:
    assert (content_key(InputItem(uri, version, size)) is not None) == known


def test_an_equal_tag_with_another_size_is_another_content() -> None:
    assert content_key(InputItem("s3://b/a.jpg", MD5, 7)) != content_key(InputItem("s3://b/a.jpg", MD5, 8))


def plan(bucket: str, table: CaptionTable, folder: Path, of_done: bool = True) -> Manifest:
    inputs = Inputs(InputOptions((f"s3://{bucket}/in/",), dedupe=True), STORAGE)
    # A name of its own each time: what is read of a manifest is kept.
    maker = ManifestMaker(inputs, table, f"{folder}/manifest-{uuid4()}", of_done=of_done)
    maker.add(list(inputs.items()))
    return maker.take()


def names(manifest: Manifest, copies: bool = False) -> list[str]:
    units = manifest.copy_units if copies else manifest.units
    return [row["uri"].rpartition("/")[2] for unit in units for row in read_unit(unit, STORAGE).to_pylist()]


def put(bucket: str, **files: bytes) -> dict[str, str]:
    """Objects by their names without suffix; their versions by address."""
    for name, data in files.items():
        STORAGE.write(f"s3://{bucket}/in/{name}.jpg", data)
    return {entry.uri: entry.version for entry in STORAGE.list(f"s3://{bucket}/in/")}


def test_of_one_content_the_first_is_read_and_the_others_are_its_copies(bucket: str, tmp_path: Path) -> None:
    versions = put(bucket, a=b"one", b=b"two", c=b"one", d=b"one")
    table = CaptionTable(str(tmp_path / "t"), STORAGE)
    manifest = plan(bucket, table, tmp_path)
    assert (names(manifest), names(manifest, copies=True)) == (["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"])
    assert (manifest.images, manifest.single, manifest.copies) == (2, 2, 2)
    first = f"s3://{bucket}/in/a.jpg"
    [*_, last] = read_unit(manifest.copy_units[0], STORAGE).to_pylist()
    assert last["same_as"] == image_id(first, versions[first])
    # Once the first has its row, that will do; but not where others' captions are in the table.
    table = write(tmp_path / "t", rows([first], versions[first], caption="seen before", model="ck-7"))
    again = plan(bucket, table, tmp_path)
    assert (names(again), names(again, copies=True)) == (["b.jpg"], ["c.jpg", "d.jpg"])
    mixed = plan(bucket, table, tmp_path, of_done=False)
    assert (names(mixed), names(mixed, copies=True)) == (["b.jpg", "c.jpg"], ["d.jpg"])
    [made] = copied_rows(again.copy_units, table, STORAGE, "r2", {})
    assert [(row["uri"][-5:], row["caption"], row["model"], row["run_id"]) for row in made.to_pylist()] == [
        ("c.jpg", "seen before", "ck-7", "r2"),
        ("d.jpg", "seen before", "ck-7", "r2"),
    ]


def test_files_on_disk_are_told_by_their_hash(folder: Folder, tmp_path: Path) -> None:
    """However large they are; one that cannot be read is a copy of none."""
    large = bytes(range(256)) * 8192
    for name, data in {"a": b"one", "b": b"two", "c": b"one", "d": large, "e": large[:-1] + b"x", "f": large}.items():
        folder.add(f"in/{name}.jpg", data)
    gone = folder.add("in/g.jpg", b"one")
    inputs = Inputs(InputOptions((f"{folder.path}/in",), dedupe=True), STORAGE)
    listed = sorted(inputs.items())
    Path(gone).unlink()
    maker = ManifestMaker(inputs, CaptionTable(str(tmp_path / "t"), STORAGE), f"{tmp_path}/manifest-{uuid4()}")
    maker.add(listed)
    manifest = maker.take()
    assert names(manifest) == ["a.jpg", "b.jpg", "d.jpg", "e.jpg", "g.jpg"]
    assert names(manifest, copies=True) == ["c.jpg", "f.jpg"]
    first = {row["uri"]: row["image_id"] for row in read_unit(manifest.units[0], STORAGE).to_pylist()}
    copies = read_unit(manifest.copy_units[0], STORAGE).to_pylist()
    assert [row["same_as"] for row in copies] == [first[f"{folder.path}/in/{name}.jpg"] for name in "ad"]


def test_what_is_wrong_with_an_image_is_wrong_with_its_copies_and_what_storage_said_is_not(
    bucket: str, tmp_path: Path
) -> None:
    versions = put(bucket, a=b"one", b=b"one", c=b"two", d=b"two")
    table = CaptionTable(str(tmp_path / "t"), STORAGE)
    manifest = plan(bucket, table, tmp_path)
    made = {"status": "failed", "caption": None, "score": None, "alternatives": None}
    a, c = (f"s3://{bucket}/in/{name}.jpg" for name in "ac")
    broken = rows([a], versions[a], error_kind="truncated", error="it ends early", **made)
    late = rows([c], versions[c], error_kind="timeout", error="no answer", **made)
    [copies] = copied_rows(manifest.copy_units, write(tmp_path / "t", broken, late), STORAGE, "r", {})
    assert copies["error"].to_pylist() == [
        "it ends early",
        f"not read itself, since it is listed with the contents of {c} no answer",
    ]
    # An original without a row, as after a lost machine, leaves its copies without one.
    [copies] = copied_rows(manifest.copy_units, write(tmp_path / "other", broken), STORAGE, "r", {})
    assert len(copies) == 1


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_whole_run_captions_each_content_once(bucket: str, pictures: list[bytes], tmp_path: Path) -> None:
    put(bucket, a=pictures[0], b=pictures[1], c=pictures[0], d=pictures[1], e=b"broken", f=b"broken")
    output, listing = tmp_path / "out", tmp_path / "list.csv"
    uris = [f"s3://{bucket}/in/{name}.jpg" for name in "abcdef"]
    listing.write_text("uri,label\n" + "".join(f"{uri},{uri[-5]}\n" for uri in uris))

    def run(*more: str) -> int:
        args = ["--input", str(listing), "--carry", "label", "--output", str(output), "--beam", "1", *more]
        return main(["caption", *args])

    def record() -> dict[str, Any]:
        found: dict[str, Any] = from_document(sorted((output / "_runs").glob("*.parquet"))[-1].read_bytes())
        return found

    assert run("--dedupe", "--recaption-where", "all") == USAGE
    assert run("--dedupe", "--max-failed", "0.2") == TOO_MANY_FAILED
    found = sorted(CaptionTable(str(output), STORAGE).rows(), key=lambda row: row["uri"])
    assert [row["uri"] for row in found] == uris
    assert [row["label"] for row in found] == list("abcdef")
    assert [row["caption"] for row in found[:2]] == [row["caption"] for row in found[2:4]]
    assert [row["error_kind"] for row in found[4:]] == ["not_an_image"] * 2
    counts = record()["counts"]
    assert (counts["captioned"], counts["failed"], counts["copies"], counts["copied"]) == (4, 2, 3, 3)
    assert sum(record()["batch_sizes"].values()) == 2
    assert check(str(output), STORAGE).ok
    # A new address of a known content needs no Ray at all.
    put(bucket, g=pictures[1])
    listing.write_text(listing.read_text() + f"s3://{bucket}/in/g.jpg,g\n")
    assert run("--dedupe") == OK
    assert "starting" not in record()["seconds"]
    assert len(CaptionTable(str(output), STORAGE)) == 7


def web_list(web: tuple[Path, str], tmp_path: Path, pictures: list[bytes]) -> Path:
    """A list of images on a web server: a and c of one content, b of another with the tag and size of a; d broken and e
    the same, f missing."""
    folder, address = web
    size = max(len(pictures[0]), len(pictures[1]))
    for name, data in {"a": pictures[0], "b": pictures[1], "c": pictures[0], "d": b"none", "e": b"none"}.items():
        (folder / f"{name}.jpg").write_bytes(data.ljust(size, b"\0"))
        os.utime(folder / f"{name}.jpg", (1_700_000_000, 1_700_000_000))
    listing = tmp_path / "list.csv"
    listing.write_text("uri,label\n" + "".join(f"{address}/{name}.jpg,{name}\n" for name in "abcdef"))
    return listing


@pytest.mark.usefixtures("ray_cluster")
def test_images_on_the_web_are_told_by_their_bytes_when_these_have_come(
    web: tuple[Path, str], tmp_path: Path, pictures: list[bytes]
) -> None:
    """Whatever their tags say. A task that runs again, after another has asked, says the same."""
    storage, inputs = Storage(), Inputs(InputOptions((str(web_list(web, tmp_path, pictures)),), dedupe=True), STORAGE)
    items = list(inputs.items())
    assert (items[0].version, items[0].size) == (items[1].version, items[1].size)
    maker = ManifestMaker(inputs, CaptionTable(str(tmp_path / "t"), storage), f"{tmp_path}/manifest-{uuid4()}")
    maker.add(items)
    units = maker.take().units
    options = FetchOptions(
        StorageOptions(), Preprocessing(32, 32), Limits(), 4, None, (), None, contents=start_contents()
    )

    def same() -> list[tuple[str, str, str | None, bool]]:
        found = [row for unit in units for table in fetch_unit(unit, options) for row in table.to_pylist()]
        names = {row["image_id"]: row["uri"][-5] for row in found}
        return [
            (row["uri"][-5], names.get(row["same_as"], ""), row["error_kind"], row["pixels"] is not None)
            for row in found
        ]

    first = same()
    assert first == [
        ("a", "", None, True),
        ("b", "", None, True),
        ("c", "a", None, False),
        ("d", "", "not_an_image", False),
        ("e", "d", None, False),
        ("f", "", "not_found", False),
    ]
    assert same() == first
    other = [image_id(uri, "") for uri in ("x", "y")]
    assert first_with_contents(options.contents, [pictures[2], pictures[2]], other) == [other[0]] * 2


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_whole_run_captions_each_content_of_the_web_once(
    web: tuple[Path, str], tmp_path: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever part of the listing it comes."""
    listing, output = web_list(web, tmp_path, pictures), tmp_path / "out"
    args = ["--input", str(listing), "--output", str(output), "--beam", "1", "--max-failed", "1"]
    assert main(["caption", *args, "--carry", "label", "--dedupe"]) == OK
    found = sorted(CaptionTable(str(output), STORAGE).rows(), key=lambda row: row["uri"])
    assert [row["label"] for row in found] == list("abcdef")
    assert found[0]["caption"] == found[2]["caption"] is not None
    assert [row["error_kind"] for row in found[3:]] == ["not_an_image"] * 2 + ["not_found"]
    [record] = [from_document(file.read_bytes()) for file in (output / "_runs").glob("*.parquet")]
    counts = record["counts"]
    assert (counts["captioned"], counts["failed"], counts["copies"], counts["copied"]) == (3, 3, 2, 2)
    assert sum(record["batch_sizes"].values()) == 2
    assert record["total"] == 6
    assert not list(output.glob("_runs/*.arrow"))
    assert check(str(output), STORAGE).ok
    # The next run finds every row there, and says so.
    assert main(["caption", *args, "--carry", "label", "--dedupe"]) == OK
    assert len(CaptionTable(str(output), STORAGE)) == 6
    # Without --dedupe each is captioned, to the same end.
    other = tmp_path / "other"
    assert main(["caption", *args[:2], "--output", str(other), *args[4:]]) == OK
    captions = {row["uri"]: row["caption"] for row in CaptionTable(str(other), STORAGE).rows()}
    assert captions == {row["uri"]: row["caption"] for row in found}
