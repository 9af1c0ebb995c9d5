"""A second model over the same table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionkit.cli import OK, TOO_MANY_FAILED, USAGE, main
from captionkit.model.bundle_files import DESCRIPTION, fingerprint, read_files, write_files
from captionkit.storage import Storage
from captionkit.storage.documents import from_document
from captionkit.table.check import check
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder, tar_bytes

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]

STORAGE = Storage()
FIRST = fingerprint(read_files(None, STORAGE))


@pytest.fixture
def second(tmp_path: Path) -> tuple[str, str]:
    """Another bundle, and its fingerprint."""
    files = read_files(None, STORAGE)
    files[DESCRIPTION] = json.dumps({**json.loads(files[DESCRIPTION]), "note": "the second"}).encode()
    write_files(files, str(tmp_path / "second"), STORAGE)
    return str(tmp_path / "second"), fingerprint(files)


def caption(*args: str | Path) -> int:
    return main(["caption", *map(str, args)])


def models(output: Path) -> dict[str, str]:
    found = list(CaptionTable(str(output), STORAGE).rows(["uri", "model", "caption"]))
    assert len({row["uri"] for row in found}) == len(found)
    return {row["uri"].rpartition("/")[2]: row["model"] for row in found if row["caption"]}


def counts(output: Path) -> dict[str, Any]:
    record = from_document(sorted((output / "_runs").glob("*.parquet"))[-1].read_bytes())
    found: dict[str, Any] = record["counts"]
    return found


def test_a_second_model_captions_part_of_a_table_then_all_of_it(
    folder: Folder, tmp_path: Path, pictures: list[bytes], second: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, new = second
    for number in range(4):
        folder.add(f"{number}.jpg", pictures[number])
    folder.add("s.tar", tar_bytes([("a.jpg", pictures[4]), ("b.jpg", pictures[5])]))
    (folder.path / "broken.jpg").write_bytes(b"nothing")
    output = tmp_path / "out"
    inputs = ("--input", folder.path, "--output", output, "--beam", "1", "--max-failed", "0.5")
    assert caption(*inputs, "--recaption-where", "all") == USAGE
    assert caption(*inputs) == OK
    assert set(models(output).values()) == {FIRST}

    # Refusal stays the default, and says what there is.
    assert caption(*inputs, "--model", bundle) == USAGE
    assert "--recaption-where" in capsys.readouterr().err
    assert caption(*inputs, "--model", bundle, "--recaption-where", "scores < 1") == USAGE
    assert "there is no column scores" in capsys.readouterr().err
    assert caption(*inputs, "--model", bundle, "--recaption-where", "all", "--share", "1/2") == USAGE

    # A part, and with it what is new; an image that is gone keeps its caption.
    folder.add("new.jpg", pictures[6])
    (folder.path / "0.jpg").write_bytes(b"")  # another version: captioned anew in any case, and in vain
    part = "uri like '%/1.jpg' or uri like '%#b.jpg'"
    page = tmp_path / "page.html"
    assert caption(*inputs, "--model", bundle, "--recaption-where", part, "--page", page) == OK
    assert page.read_text().count('class="before"') == 2
    mine = {"1.jpg", "s.tar#b.jpg", "new.jpg"}
    assert models(output) == {
        name: new if name in mine else FIRST for name in ("1.jpg", "2.jpg", "3.jpg", "s.tar#a.jpg", *mine)
    }
    assert (counts(output)["recaptioned"], counts(output)["kept"]) == (2, 0)
    report = check(str(output), STORAGE, members=True)
    assert report.ok, report.text()
    assert report.models == sorted([FIRST, new])

    # All of it; the same again has nothing to do, and the table is the second model's.
    (folder.path / "3.jpg").unlink()
    assert caption(*inputs, "--model", bundle, "--recaption-where", "all") == OK
    assert "1 left as they were" in capsys.readouterr().err
    assert {name for name, model in models(output).items() if model == FIRST} == {"3.jpg"}
    folder.add("3.jpg", pictures[3])
    assert caption(*inputs, "--model", bundle, "--recaption-where", "all") == OK
    assert set(models(output).values()) == {new}
    assert caption(*inputs, "--model", bundle) == OK
    assert counts(output)["captioned"] == 0
    assert main(["check", str(output)]) == OK


def test_a_caption_stays_where_the_new_captioner_gets_no_image(
    web: tuple[Path, str], tmp_path: Path, pictures: list[bytes], second: tuple[str, str]
) -> None:
    root, address = web
    for number in range(2):
        (root / f"{number}.jpg").write_bytes(pictures[number])
    names = tmp_path / "list.txt"
    names.write_text(f"{address}/0.jpg\n{address}/1.jpg\n")
    output = tmp_path / "out"
    inputs = ("--input", names, "--output", output, "--beam", "1", "--no-stat-listed", "--retry-seconds", "1")
    assert caption(*inputs) == OK
    (root / "1.jpg").unlink()
    anew = ("--model", second[0], "--recaption-where", "score < 0")
    assert caption(*inputs, *anew) == TOO_MANY_FAILED
    assert models(output) == {"0.jpg": second[1], "1.jpg": FIRST}
    assert (counts(output)["recaptioned"], counts(output)["kept"]) == (1, 1)
    (root / "1.jpg").write_bytes(pictures[1])
    assert caption(*inputs, *anew) == OK
    assert models(output) == {"0.jpg": second[1], "1.jpg": second[1]}
    assert counts(output)["captioned"] == 1


def test_pages_of_files_are_captioned_anew_each_in_its_place(
    folder: Folder, tmp_path: Path, pictures: list[bytes], second: tuple[str, str]
) -> None:
    bundle, new = second
    first, *others = [Image.open(io.BytesIO(data)) for data in pictures[:3]]
    first.save(folder.path / "a.tif", save_all=True, append_images=others)
    first.save(folder.path / "b.tif")
    options = ("--input", folder.path, "--output", tmp_path / "t", "--frame", "each")
    assert caption(*options) == OK
    before = models(tmp_path / "t")
    assert list(before) == ["a.tif#page=1", "a.tif#page=2", "a.tif#page=3", "b.tif"]
    assert caption(*options, "--model", bundle, "--recaption-where", "uri like '%=2' or uri like '%b.tif'") == OK
    assert models(tmp_path / "t") == before | {"a.tif#page=2": new, "b.tif": new}
    assert caption(*options, "--model", bundle, "--recaption-where", "all") == OK
    assert models(tmp_path / "t") == dict.fromkeys(before, new)
    assert check(str(tmp_path / "t"), STORAGE, members=True).ok
