"""Reviews: whole or not at all, and what a decision holds for."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.corpus import read_corpus
from captionkit.errors import UsageError
from captionkit.inputs.ids import image_id
from captionkit.storage import Storage
from captionkit.table.compact import compact
from captionkit.table.reviews import Review, Reviews, open_reviews, reviews_of
from captionkit.table.table import CaptionTable
from tests.support import table_rows

STORAGE = Storage()
NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


def review(uri: str, decision: str, caption: str | None = None, said: str | None = None) -> Review:
    said = f"caption of {uri}" if said is None else said
    return Review(uri, image_id(uri, "v1"), decision, caption, said, "ck-0", "ada", NOW)


def overlaid(reviews: Reviews, rows: pa.Table) -> list[tuple[str, str | None, str | None]]:
    found = reviews.overlay(rows.select(["uri", "image_id", "status", "caption"]))
    return [(row["status"], row["caption"], row["review"]) for row in found.to_pylist()]


@pytest.fixture
def reviews(tmp_path: Path) -> Reviews:
    made = Reviews(str(tmp_path / "t-reviews"), STORAGE)
    made.change(
        [review("/a", "approved", "caption of /a"), review("/b", "edited", "two dogs"), review("/c", "rejected")]
    )
    return made


def test_what_was_saved_is_read_again_and_withdrawn_ones_are_gone(reviews: Reviews) -> None:
    reviews.save()
    again = Reviews(reviews.uri, STORAGE)
    assert [again.get(uri) for uri in ("/a", "/b", "/c")] == [reviews.get(uri) for uri in ("/a", "/b", "/c")]
    again.change([], ["/b", "/nowhere"])
    again.save()
    assert len(Reviews(reviews.uri, STORAGE)) == 2


def test_captions_are_as_people_decided(reviews: Reviews) -> None:
    rows = table_rows.rows(["/a", "/b", "/c", "/d"])
    assert overlaid(reviews, rows) == [
        ("captioned", "caption of /a", "approved"),
        ("captioned", "two dogs", "edited"),
        ("captioned", None, "rejected"),
        ("captioned", "caption of /d", None),
    ]


def test_a_second_models_words_are_overruled_by_a_text_and_not_by_a_rejection(reviews: Reviews) -> None:
    other = table_rows.rows(["/b", "/c"], caption="something else", model="ck-1")
    assert [row[1:] for row in overlaid(reviews, other)] == [("two dogs", "edited"), ("something else", None)]


def test_a_later_version_of_an_image_is_undecided(reviews: Reviews) -> None:
    rows = table_rows.rows(["/a", "/b", "/c"], version="v2")
    assert {row[2] for row in overlaid(reviews, rows)} == {None}


def test_a_persons_text_captions_an_image_that_failed(reviews: Reviews) -> None:
    failed = table_rows.rows(["/b"], status="failed", caption=None)
    assert overlaid(reviews, failed) == [("captioned", "two dogs", "edited")]


def test_without_reviews_nothing_changes(tmp_path: Path) -> None:
    rows = table_rows.rows(["/a"])
    assert overlaid(Reviews(str(tmp_path / "none"), STORAGE), rows) == [("captioned", "caption of /a", None)]


def test_a_carried_column_of_the_same_name_is_not_hidden(reviews: Reviews) -> None:
    rows = table_rows.rows(["/a"]).append_column("review", pa.array(["four stars"]))
    with pytest.raises(UsageError, match="carries a column `review`"):
        reviews.overlay(rows)


def test_other_files_are_no_reviews(tmp_path: Path) -> None:
    (tmp_path / "reviews.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(UsageError, match="holds no reviews"):
        Reviews(str(tmp_path), STORAGE)
    pq.write_table(pa.table({"uri": ["/a"]}), tmp_path / "reviews.parquet")
    with pytest.raises(UsageError, match="holds no reviews"):
        Reviews(str(tmp_path), STORAGE)


@pytest.mark.parametrize(
    ("table", "folder"),
    [
        ("/data/captions", "/data/captions-reviews"),
        ("s3://bucket/night/captions/", "s3://bucket/night/captions-reviews"),
        ("s3://bucket/", ""),
        ("s3://bucket", ""),
        ("/", ""),
    ],
)
def test_reviews_lie_beside_their_table(table: str, folder: str) -> None:
    assert reviews_of(table) == folder


def test_none_can_be_asked_for(tmp_path: Path) -> None:
    assert open_reviews("none", str(tmp_path / "t"), STORAGE) is None
    assert open_reviews("", "s3://bucket", STORAGE) is None


def test_a_compaction_and_readers_of_the_table_leave_them_alone(tmp_path: Path) -> None:
    table_rows.write(tmp_path / "t", table_rows.rows(["/a"]), table_rows.rows(["/b"]))
    table = CaptionTable(str(tmp_path / "t"), STORAGE)
    made = Reviews(reviews_of(table.uri), STORAGE)
    made.change([review("/b", "edited", "two dogs")])
    made.save()
    compact(table.uri, STORAGE)
    assert len(list(CaptionTable(table.uri, STORAGE).rows())) == 2
    assert Reviews(reviews_of(table.uri), STORAGE).get("/b") == made.get("/b")


def test_they_are_a_corpus_in_which_rejected_captions_are_left_out(tmp_path: Path, reviews: Reviews) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jpg").write_bytes(b"-")
    made = [
        replace(one, uri=str(tmp_path / f"{one.uri[1:]}.jpg")) for one in map(reviews.get, ("/a", "/b", "/c")) if one
    ]
    reviews.change(made, ["/a", "/b", "/c"])
    reviews.save()
    found = {Path(one.image).name: one.captions for one in read_corpus([reviews.file], storage=STORAGE)}
    assert found == {"a.jpg": ("caption of /a",), "b.jpg": ("two dogs",)}


def test_they_lie_in_object_storage_too(bucket: str) -> None:
    made = Reviews(f"s3://{bucket}/night-reviews", STORAGE)
    made.change([review("s3://archive/a.jpg", "approved", "a dog")])
    made.save()
    assert Reviews(made.uri, STORAGE).get("s3://archive/a.jpg") == made.get("s3://archive/a.jpg")
