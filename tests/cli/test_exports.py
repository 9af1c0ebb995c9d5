"""`captionkit export`, to a disk and to object storage."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from captionkit.cli import BROKEN, OK, USAGE, main
from captionkit.export.options import FORMATS
from captionkit.storage import Storage
from tests.export.table import make_table, picture
from tests.support.servers import S3Server


def test_options_with_the_names_of_the_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table(tmp_path / "t", {"/p/a.jpg": "a dog in the grass", "/p/b.jpg": "a cat", "/p/c.jpg": None})
    out = str(tmp_path / "alt.csv")
    flags = ["--as", "csv", "--where", "score > -0.55", "--columns", "id=image_id,alt=caption", "--max-length", "8"]
    assert main(["export", table.uri, out, *flags]) == OK
    assert Path(out).read_text().splitlines()[0] == "id,alt"
    assert Path(out).read_text().endswith(",a dog in\n")
    assert f"1 row written to {out}, 1 file as csv" in capsys.readouterr().out
    assert main(["export", table.uri, out, "--json"]) == USAGE
    assert main(["export", table.uri, out, "--json", "--overwrite"]) == OK
    assert json.loads(capsys.readouterr().out)["left_out"] == {"without a caption": 1}


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--as", "csv"], "needs an address"),
        (["OUT", "--as", "csv", "--max-length", "0"], "at least 1"),
        (["OUT", "--as", "txt", "--failed", "keep"], "no place for an image without a caption"),
        (["OUT", "--as", "csv", "--copy-images"], "goes with --as imagefolder"),
        (["OUT", "--as", "xmp", "--columns", "uri"], "--columns goes with"),
        (["--as", "txt", "--copy-images"], "a folder to copy into"),
        (["--as", "txt", "--root", "/p"], "--root goes with"),
        (["OUT", "--threads", "0"], "--threads 0: at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    tmp_path: Path, flags: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table(tmp_path / "t", {"/p/a.jpg": "a dog"})
    with pytest.raises(SystemExit) as ended:
        main(["export", table.uri, *(str(tmp_path / "out") if flag == "OUT" else flag for flag in flags)])
    assert ended.value.code == USAGE
    assert word in re.sub(r"[│\s]+", " ", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_rows_that_cannot_be_written_are_told_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table(tmp_path / "t", {str(tmp_path / "gone.jpg"): "a ghost"})
    assert main(["export", table.uri, str(tmp_path / "out"), "--as", "imagefolder", "--copy-images"]) == BROKEN
    said = capsys.readouterr()
    assert "could not be written: 1 × not_found" in said.out
    assert "1 image: up to 1 reads and 1 writes, one request each" in said.err


def test_every_format_goes_to_object_storage_from_object_storage(
    s3: S3Server, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage()
    uris = [f"s3://{bucket}/photos/{number}.jpg" for number in range(3)]
    for number, uri in enumerate(uris):
        storage.write(uri, picture(number))
    table = make_table(tmp_path / "t", dict.fromkeys(uris, "a dog"))
    storage.write(f"s3://{bucket}/table/captions-r-00000.parquet", storage.read(table.files[0].uri))
    for name in sorted(set(FORMATS) - {"lance", "delta", "iceberg"}):  # whose libraries may be absent: test_lakes.py
        copy = ["--copy-images"] if name in ("imagefolder", "txt") else []
        assert main(["export", f"s3://{bucket}/table", f"s3://{bucket}/out/{name}", "--as", name, *copy]) == OK, name
        said = capsys.readouterr()
        assert ("$0.00 at the list price" in said.err) is (name in ("xmp", "txt", "imagefolder", "huggingface"))
        if name != "webdataset":  # no image lies in a shard
            assert "3 rows written" in said.out, name
    found = {entry.uri.removeprefix(f"s3://{bucket}/out/") for entry in storage.list(f"s3://{bucket}/out")}
    assert {"csv", "coco-results", "xmp/0.jpg.xmp", "txt/1.txt", "imagefolder/metadata.jsonl"} < found
    assert {"imagefolder/2.jpg", "huggingface/data/train-00000.parquet", "huggingface/README.md"} < found
    assert storage.read(f"s3://{bucket}/out/imagefolder/2.jpg") == picture(2)
    again = ["export", f"s3://{bucket}/table", f"s3://{bucket}/out/txt", "--as", "txt"]
    assert main(again) == OK
    assert "3 × a text was there already" in capsys.readouterr().out
