"""Files that an export has changed where they lie, and back again, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from captionkit.cli import BROKEN, OK, USAGE, main
from captionkit.errors import UsageError
from captionkit.export import xmp
from captionkit.export.undo import undo
from tests.export.table import STORAGE, make_table, run, shard
from tests.export.test_embedding import photo

OTHER = xmp.merge(None, {xmp.DESCRIPTION: "somebody's own words"}).packet


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, one of them a link, and one sidecar that is there already."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(photo())
        (folder / name).chmod(0o640)
    (tmp_path / "elsewhere.jpg").write_bytes(photo(b"II"))
    (folder / "c.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (folder / "b.jpg.xmp").write_bytes(OTHER)
    return folder


@pytest.fixture
def table(tmp_path: Path, photos: Path) -> str:
    return make_table(tmp_path / "t", {str(path): f"a dog, {path.stem}" for path in sorted(photos.glob("*.jpg"))}).uri


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_images_are_changed_where_they_lie_and_come_back_byte_for_byte(
    tmp_path: Path, photos: Path, table: str
) -> None:
    before, file = contents(photos), tmp_path / "undo.jsonl"
    report = run(table, "", "xmp", embed=True, in_place=str(file))
    assert (report.written, report.ok) == (3, True)
    after = contents(photos)
    assert all(after[name] != before[name] and b"a dog, " in after[name] for name in ("a.jpg", "b.jpg", "c.jpg"))
    assert (photos / "a.jpg").stat().st_mode & 0o777 == 0o640
    assert (photos / "c.jpg").is_symlink()
    assert file.stat().st_size < sum(map(len, after.values()))
    assert undo(str(file), STORAGE, dry_run=True).written == 3
    assert contents(photos) == after
    assert undo(str(file), STORAGE).written == 3
    assert contents(photos) == before
    assert (photos / "a.jpg").stat().st_mode & 0o777 == 0o640
    assert undo(str(file), STORAGE).left_out == {"was as before already": 3}


def test_sidecars_that_were_made_are_gone_again_and_merged_ones_as_they_were(
    tmp_path: Path, photos: Path, table: str
) -> None:
    before, file = contents(photos), str(tmp_path / "undo.jsonl")
    assert run(table, "", "xmp", in_place=file, overwrite=True).written == 3
    assert len(contents(photos)) == 6
    assert undo(file, STORAGE).written == 3
    assert contents(photos) == before
    assert undo(file, STORAGE).left_out == {"was gone already": 2, "was as before already": 1}


def test_what_was_changed_since_is_left_alone(tmp_path: Path, photos: Path, table: str) -> None:
    file = str(tmp_path / "undo.jsonl")
    run(table, "", "xmp", embed=True, in_place=file)
    (photos / "a.jpg").write_bytes(b"edited by somebody")
    (photos / "b.jpg").unlink()
    report = undo(file, STORAGE)
    assert (report.written, report.errors) == (1, {"changed since": 1, "gone": 1})
    assert (photos / "a.jpg").read_bytes() == b"edited by somebody"


def test_a_line_cut_off_by_a_death_undoes_nothing_and_the_others_do(tmp_path: Path, photos: Path, table: str) -> None:
    before, file = contents(photos), tmp_path / "undo.jsonl"
    run(table, "", "xmp", embed=True, in_place=str(file))
    file.write_bytes(file.read_bytes()[:-40])
    assert undo(str(file), STORAGE).written == 2
    assert sum(contents(photos)[name] == before[name] for name in before) == 3


def test_a_file_is_changed_only_once_its_undoing_is_on_disk(
    tmp_path: Path, photos: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(photos)

    def full(_: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        run(table, "", "xmp", embed=True, in_place=str(tmp_path / "undo.jsonl"))
    assert contents(photos) == before


def test_a_dry_run_makes_no_undo_file(tmp_path: Path, photos: Path, table: str) -> None:
    before = contents(photos)
    assert run(table, "", "xmp", embed=True, in_place=str(tmp_path / "undo.jsonl"), dry_run=True).written == 3
    assert contents(photos) == before
    assert not (tmp_path / "undo.jsonl").exists()


def test_an_undo_file_is_never_written_over(tmp_path: Path, table: str) -> None:
    (tmp_path / "undo.jsonl").write_text("precious")
    with pytest.raises(UsageError, match="is there already"):
        run(table, "", "xmp", embed=True, in_place=str(tmp_path / "undo.jsonl"))
    with pytest.raises(UsageError, match="local disk"):
        run(table, "", "xmp", embed=True, in_place="s3://bucket/undo.jsonl")
    assert (tmp_path / "undo.jsonl").read_text() == "precious"


def test_members_of_shards_are_not_changed(tmp_path: Path) -> None:
    tar = shard(tmp_path / "s.tar", {"a.jpg": photo()})
    before = tar.read_bytes()
    table = make_table(tmp_path / "t", {f"{tar}#a.jpg": "a dog"}).uri
    report = run(table, "", "xmp", embed=True, in_place=str(tmp_path / "undo.jsonl"))
    assert report.left_out == {"no local file, which alone is changed in place": 1}
    assert tar.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", "no JSON\n", '{"kind": "captionkit undo"}\nno JSON\n'])
def test_other_files_undo_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "other").write_text(text)
    with pytest.raises(UsageError, match="no undo file"):
        undo(str(tmp_path / "other"), STORAGE)


def test_the_commands(tmp_path: Path, photos: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, before = str(tmp_path / "undo.jsonl"), contents(photos)
    assert main(["export", table, "--as", "xmp", "--embed", "--in-place", file]) == OK
    (photos / "a.jpg").write_bytes(b"edited by somebody")
    assert main(["undo", file]) == BROKEN
    assert "2 files put back" in capsys.readouterr().out
    assert contents(photos)["b.jpg"] == before["b.jpg"]
    assert main(["undo", str(tmp_path / "none")]) == USAGE
