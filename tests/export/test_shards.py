"""Shards, read back by the webdataset package."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.export.table import id_of, make_table, picture, run, shard


def samples(path: Path) -> dict[str, dict[str, Any]]:
    """The samples of a shard by key, as webdataset groups and decodes them."""
    found = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode()
    return {sample["__key__"]: sample for sample in found}


@pytest.fixture
def tars(tmp_path: Path) -> list[Path]:
    first = {f"x/{n:04d}.{end}": data for n in range(4) for end, data in (("jpg", picture(n)), ("cls", b"%d" % n))}
    second = {"y/café.left.jpg": picture(8), "y/café.right.jpg": picture(9), "z.jpg": picture(10)}
    return [shard(tmp_path / "in/a/0.tar", first), shard(tmp_path / "in/b/1.tar", second)]


@pytest.fixture
def table(tars: list[Path], tmp_path: Path) -> str:
    captions: dict[str, str | None] = {f"{tars[0]}#x/{n:04d}.jpg": f"caption {n}" for n in (3, 0, 1)}
    captions |= {f"{tars[0]}#x/0002.jpg": None, "/plain/file.jpg": "of no shard"}
    captions |= {f"{tars[1]}#y/café.{side}.jpg": f"the {side} side" for side in ("left", "right")}
    return make_table(tmp_path / "t", captions).uri


def test_a_tar_of_captions_for_each_shard_by_key(tars: list[Path], table: str, tmp_path: Path) -> None:
    report = run(table, tmp_path / "out", "webdataset", where="uri not like '/plain%'")
    assert (report.written, report.files, report.ok) == (5, 2, True)
    found = samples(tmp_path / "out/a/0.tar")
    assert {key: sample["txt"] for key, sample in found.items()} == {f"x/{n:04d}": f"caption {n}" for n in (0, 1, 3)}
    uri = f"{tars[0]}#x/0001.jpg"
    assert found["x/0001"]["json"] == {"uri": uri, "image_id": id_of(uri), "score": -0.7, "model": "ck-0"}
    assert samples(tmp_path / "out/b/1.tar")["y/café"]["left.txt"] == "the left side"
    both = webdataset.WebDataset([str(tars[0])], shardshuffle=False)  # the keys are those of the input's samples
    assert set(found) < {sample["__key__"] for sample in both}


def test_new_shards_hold_captions_beside_images_that_are_the_same_bytes(
    tars: list[Path], table: str, tmp_path: Path
) -> None:
    report = run(table, tmp_path / "out", "webdataset", copy_images=True, root=str(tmp_path / "in"))
    assert (report.written, report.files) == (5, 2)
    assert "in no shard" in report.text()
    found = webdataset.WebDataset(str(tmp_path / "out/a/0.tar"), shardshuffle=False)
    raw = {sample["__key__"]: sample for sample in found}
    assert sorted(raw) == ["x/0000", "x/0001", "x/0003"]  # a sample without a caption is left out
    for key, sample in raw.items():
        number = int(key[-1])
        assert (sample["jpg"], sample["cls"], sample["txt"]) == (
            picture(number), b"%d" % number, b"caption %d" % number,
        )  # fmt: skip
    pairs = (
        webdataset.WebDataset(str(tmp_path / "out/a/0.tar"), shardshuffle=False).decode("pil").to_tuple("jpg", "txt")
    )
    assert [(image.size, text) for image, text in pairs] == [((64, 48), f"caption {n}") for n in (0, 1, 3)]
    sides = samples(tmp_path / "out/b/1.tar")["y/café"]
    assert (sides["left.txt"], sides["right.txt"]) == ("the left side", "the right side")


def test_captions_that_a_shard_holds_are_not_replaced_unless_told_so(tmp_path: Path) -> None:
    tar = shard(tmp_path / "in/0.tar", {"a.txt": b"by hand", "a.jpg": picture(1), "b.jpg": picture(2), "b.txt": b"too"})
    table = make_table(tmp_path / "t", {f"{tar}#a.jpg": "one", f"{tar}#b.jpg": "two"})
    report = run(table.uri, tmp_path / "out", "webdataset", copy_images=True)
    assert (report.written, report.errors) == (0, {"shard": 2})
    assert "a.txt already" in report.text()
    assert not (tmp_path / "out/0.tar").exists()
    assert run(table.uri, tmp_path / "out", "webdataset", copy_images=True, overwrite=True).written == 2
    with tarfile.open(tmp_path / "out/0.tar") as made:
        assert made.getnames() == ["a.jpg", "a.txt", "b.jpg", "b.txt"]
    assert samples(tmp_path / "out/0.tar")["b"]["txt"] == "two"


def test_shards_that_are_there_are_left_and_the_same_command_goes_on(table: str, tmp_path: Path) -> None:
    where = "uri like '%/0.tar#%'"
    assert run(table, tmp_path / "out", "webdataset", where=where, root=str(tmp_path / "in")).written == 3
    before = (tmp_path / "out/a/0.tar").read_bytes()
    report = run(table, tmp_path / "out", "webdataset", root=str(tmp_path / "in"))
    assert report.left_out["its shard was there already (--overwrite)"] == 3
    assert (report.written, report.files) == (2, 1)
    assert (tmp_path / "out/a/0.tar").read_bytes() == before


def test_a_shard_that_breaks_is_not_written_by_half(tmp_path: Path) -> None:
    tar = shard(tmp_path / "in/0.tar", {"a.jpg": picture(1), "b.jpg": picture(2)})
    tar.write_bytes(tar.read_bytes()[:2100])
    table = make_table(tmp_path / "t", {f"{tar}#a.jpg": "one", f"{tar}#b.jpg": "two"})
    report = run(table.uri, tmp_path / "out", "webdataset", copy_images=True)
    assert (report.written, report.errors) == (0, {"truncated": 2})
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_packed_shards_and_members_with_one_key(tmp_path: Path) -> None:
    path = tmp_path / "in/0.tar.gz"
    path.parent.mkdir()
    plain = shard(tmp_path / "plain.tar", {"a.jpg": picture(1), "a.png": picture(2, "PNG")})
    path.write_bytes(gzip.compress(plain.read_bytes()))
    table = make_table(tmp_path / "t", {f"{path}#a.jpg": "one", f"{path}#a.png": "two"})
    for copy in (False, True):
        report = run(table.uri, tmp_path / f"out{copy}", "webdataset", copy_images=copy)
        assert (report.written, report.left_out) == (1, {"another image of its shard has the same key": 1})
        assert samples(tmp_path / f"out{copy}/0.tar")["a"]["txt"] == "one"
    assert samples(tmp_path / "outFalse/0.tar")["a"]["json"]["uri"] == f"{path}#a.jpg"
