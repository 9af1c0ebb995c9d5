"""Texts beside images and imagefolder, read back by Hugging Face's datasets and as kohya and diffusers look them up."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captionkit.errors import UsageError
from captionkit.export.images import PAGE
from tests.export.table import STORAGE, make_table, picture, run, shard


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number, name in enumerate(("a.jpg", "2024/b.left.png", "2024/c d.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number, "PNG" if name.endswith("png") else "JPEG"))
    return folder


@pytest.fixture
def table(photos: Path, tmp_path: Path) -> str:
    captions = {"a.jpg": "a dog", "2024/b.left.png": "a café", "2024/c d.jpg": None, "gone.jpg": "a ghost"}
    return make_table(tmp_path / "t", {str(photos / name): text for name, text in captions.items()}).uri


def test_texts_lie_beside_images_under_their_names_and_are_never_written_over(photos: Path, table: str) -> None:
    """kohya's sd-scripts read `splitext(image)[0] + ".txt"`."""
    (photos / "a.txt").write_text("by hand")
    report = run(table, "", "txt", where="uri not like '%gone%'")
    assert (report.written, report.left_out["a text was there already (--overwrite)"]) == (1, 1)
    assert (photos / "a.txt").read_text() == "by hand"
    assert (photos / "2024/b.left.txt").read_text("utf-8") == "a café\n"
    assert not (photos / "2024/c d.txt").exists()
    assert run(table, "", "txt", where="uri not like '%gone%'", overwrite=True).written == 2
    assert (photos / "a.txt").read_text() == "a dog\n"


@pytest.mark.parametrize("format", ["txt", "xmp", "imagefolder", "huggingface", "coco-results"])
def test_an_empty_caption_is_left_out_where_there_would_be_nothing_to_write(tmp_path: Path, format: str) -> None:
    (tmp_path / "1.jpg").write_bytes(picture(1))
    (tmp_path / "2.jpg").write_bytes(picture(2))
    table = make_table(tmp_path / "t", {f"{tmp_path}/1.jpg": " ", f"{tmp_path}/2.jpg": "a dog"})
    report = run(table.uri, tmp_path / "out", format)
    assert (report.written, report.left_out) == (1, {"with an empty caption": 1})


def test_a_dry_run_leaves_the_folder_as_it_is(photos: Path, table: str) -> None:
    (photos / "a.txt").write_text("by hand")
    before = sorted(photos.rglob("*"))
    report = run(table, "", "txt", dry_run=True)
    assert (report.written, report.left_out["a text was there already (--overwrite)"]) == (2, 1)
    assert sorted(photos.rglob("*")) == before


def test_each_page_of_a_file_has_a_text_and_no_copy(tmp_path: Path) -> None:
    captions = {f"{tmp_path}/in/scan.tif#page={page}": f"page {page}" for page in (1, 2)}
    table = make_table(tmp_path / "t", captions | {f"{tmp_path}/in/a.jpg": "a dog"}).uri
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(picture(1))
    assert run(table, tmp_path / "out", "txt").written == 3
    texts = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert texts == {"scan#page=1.txt": "page 1\n", "scan#page=2.txt": "page 2\n", "a.txt": "a dog\n"}
    [(reason, count)] = run(table, "", "txt").left_out.items()
    assert (reason[:23], count) == ("a page or frame of a fi", 2)
    for form, copy_images in (("txt", True), ("imagefolder", True), ("huggingface", False)):
        report = run(table, tmp_path / f"copies-{form}", form, copy_images=copy_images)
        assert (report.written, report.left_out, report.ok) == (1, {PAGE: 2}, True)
    report = run(table, tmp_path / "dry", "huggingface", dry_run=True)
    assert (report.written, report.left_out) == (1, {PAGE: 2})
    report = run(table, tmp_path / "embedded", "xmp", embed=True)
    assert (report.written, report.left_out, report.ok) == (1, {PAGE: 2}, True)


def test_texts_with_copies_of_the_images_make_a_training_folder(photos: Path, table: str, tmp_path: Path) -> None:
    report = run(table, tmp_path / "train", "txt", copy_images=True)
    assert report.errors == {"not_found": 1}
    found = {str(path.relative_to(tmp_path / "train")) for path in (tmp_path / "train").rglob("*") if path.is_file()}
    assert found == {"a.jpg", "a.txt", "2024/b.left.png", "2024/b.left.txt"}
    assert (tmp_path / "train/a.jpg").read_bytes() == (photos / "a.jpg").read_bytes()


def test_imagefolder_reads_the_images_where_they_are(photos: Path, table: str, tmp_path: Path) -> None:
    report = run(table, photos, "imagefolder", where="uri not like '%gone%'", columns=("text=caption,score",))
    assert (report.written, report.files) == (2, 1)
    rows = list(
        datasets.load_dataset("imagefolder", data_dir=str(photos), split="train", cache_dir=str(tmp_path / "c"))
    )
    assert sorted((row["text"], row["score"], row["image"].size) for row in rows) == [
        ("a café", -0.6, (64, 48)),
        ("a dog", -0.5, (64, 48)),
    ]


def test_imagefolder_with_copies_from_files_shards_and_parquet(photos: Path, tmp_path: Path) -> None:
    tar = shard(tmp_path / "s.tar", {"x/e.jpg": picture(5), "x/e.json": b"{}", "x/f.jpg": picture(6)})
    images = [{"bytes": picture(7, "PNG"), "path": None}, {"bytes": picture(8), "path": None}]
    pq.write_table(pa.table({"image": images}), tmp_path / "p.parquet")
    uris = [str(photos / "a.jpg"), f"{tar}#x/e.jpg", f"{tmp_path}/p.parquet#0", f"{tmp_path}/p.parquet#1"]
    captions: dict[str, str | None] = {uri: f"caption {number}" for number, uri in enumerate(uris)}
    table = make_table(tmp_path / "t", {**captions, f"{tar}#x/gone.jpg": "a ghost"})
    out = tmp_path / "out"
    report = run(table.uri, out, "imagefolder", copy_images=True)
    assert (report.written, report.errors) == (4, {"not_found": 1})
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert {line["file_name"]: line["text"] for line in lines} == {
        "photos/a.jpg": "caption 0",
        "s.tar/x/e.jpg": "caption 1",
        "p.parquet/0.png": "caption 2",
        "p.parquet/1.jpg": "caption 3",
    }
    assert (out / "p.parquet/0.png").read_bytes() == images[0]["bytes"]
    rows = list(datasets.load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "c")))
    by_text = {row["text"]: row["image"].convert("RGB").getpixel((0, 0)) for row in rows}
    expected = Image.open(io.BytesIO(picture(5))).convert("RGB").getpixel((0, 0))
    assert by_text["caption 1"] == expected
    assert len(by_text) == 4


def test_metadata_that_is_there_is_not_written_over(photos: Path, table: str) -> None:
    (photos / "metadata.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        run(table, photos, "imagefolder")
    assert (photos / "metadata.jsonl").read_text() == "mine"


def test_a_container_that_is_broken_or_gone_costs_its_own_rows(photos: Path, tmp_path: Path) -> None:
    broken = shard(tmp_path / "broken.tar", {"a.jpg": picture(1), "b.jpg": picture(2)})
    broken.write_bytes(broken.read_bytes()[:2000])
    uris = [f"{broken}#a.jpg", f"{broken}#b.jpg", f"{tmp_path}/none.tar#c.jpg", str(photos / "a.jpg")]
    table = make_table(tmp_path / "t", dict.fromkeys(uris, "a caption"))
    report = run(table.uri, tmp_path / "out", "imagefolder", copy_images=True)
    assert report.written >= 1
    assert sum(report.errors.values()) == 4 - report.written
    assert STORAGE.read(f"{tmp_path}/out/photos/a.jpg") == (photos / "a.jpg").read_bytes()
    assert not report.ok
