"""Data sets for Hugging Face, read back by datasets, pyarrow and captionkit itself."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from captionkit.errors import UsageError
from tests.export.table import STORAGE, id_of, make_table, picture, run, shard


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "photos"
    folder.mkdir()
    found = {f"{folder}/{number}.jpg": picture(number) for number in range(7)}
    for uri, data in found.items():
        Path(uri).write_bytes(data)
    tar = shard(tmp_path / "photos/s.tar", {"in/x.png": picture(9, "PNG")})
    return {**found, f"{tar}#in/x.png": picture(9, "PNG")}


@pytest.fixture
def table(photos: dict[str, bytes], tmp_path: Path) -> str:
    captions: dict[str, str | None] = {uri: f"caption of {uri}" for uri in photos}
    captions[f"{tmp_path}/photos/3.jpg"] = None
    tags = {"tags": [["a", "b"]] * len(captions)}
    return make_table(tmp_path / "t", captions, tags).uri


def test_datasets_reads_images_captions_and_chosen_columns(
    photos: dict[str, bytes], table: str, tmp_path: Path
) -> None:
    out = tmp_path / "our-photos"
    columns = ("text=caption,uri,image_id,score,width,tags,captioned_at",)
    report = run(table, out, "huggingface", columns=columns, rows_per_file=3)
    assert (report.written, report.files, report.ok) == (7, 3, True)
    found = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(found.features["image"], datasets.Image)
    assert [found.features[name].dtype for name in ("text", "image_id", "score", "width", "tags")] == [
        "string", "int64", "float32", "int32", "string",
    ]  # fmt: skip
    assert {row["uri"] for row in found} == {uri for uri in photos if not uri.endswith("3.jpg")}
    for row in found:
        assert (row["text"], row["image_id"], row["image"].size) == (
            f"caption of {row['uri']}",
            id_of(row["uri"]),
            (64, 48),
        )
        assert (row["tags"], row["captioned_at"]) == ('["a", "b"]', "2026-01-01T00:00:00+00:00")
    for row in found.cast_column("image", datasets.Image(decode=False)):
        assert row["image"]["bytes"] == photos[row["uri"]]
        assert row["image"]["path"] == row["uri"].rpartition("/")[2].rpartition("#")[2]
    card = DatasetCard.load(out / "README.md")
    assert card.data.to_dict()["annotations_creators"] == ["machine-generated"]
    assert "model ck-0" in card.text
    assert "7 images" in card.text


def test_captionkit_reads_it_again_and_no_row_group_is_empty(
    photos: dict[str, bytes], table: str, tmp_path: Path
) -> None:
    run(table, tmp_path / "out", "huggingface", rows_per_file=7)
    file = tmp_path / "out/data/train-00000.parquet"
    assert STORAGE.read(f"{file}#0") == next(iter(photos.values()))
    metadata = pq.read_metadata(file)
    assert metadata.num_rows == 7
    assert all(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))


def test_an_image_that_is_gone_costs_its_row(table: str, tmp_path: Path) -> None:
    (tmp_path / "photos/2.jpg").unlink()
    report = run(table, tmp_path / "out", "huggingface")
    assert (report.written, report.errors) == (6, {"not_found": 1})


def test_files_that_are_there_are_not_mixed_with_new_ones(table: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(table, out, "huggingface", rows_per_file=1)
    with pytest.raises(UsageError, match="holds 7 Parquet files already"):
        run(table, out, "huggingface")
    (out / "data/mine.parquet").write_bytes(b"")
    run(table, out, "huggingface", overwrite=True, where="uri like '%/0.jpg'")
    assert sorted(path.name for path in (out / "data").iterdir()) == ["mine.parquet", "train-00000.parquet"]
