"""Exports of a table that people have reviewed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from captionkit.errors import UsageError
from captionkit.export import xmp
from captionkit.table.reviews import Review, Reviews, reviews_of
from captionkit.table.table import CaptionTable
from tests.export.table import STORAGE, id_of, make_table, run

CAPTIONS = {"/p/a.jpg": "a dog", "/p/b.jpg": "a cat", "/p/c.jpg": "a boat", "/p/d.jpg": None, "/p/e.jpg": "a tree"}
DECISIONS = {
    "/p/a.jpg": ("approved", "a dog"),
    "/p/b.jpg": ("edited", "two cats"),
    "/p/c.jpg": ("rejected", None),
    "/p/d.jpg": ("edited", "a house"),
}


@pytest.fixture
def table(tmp_path: Path) -> CaptionTable:
    made = make_table(tmp_path / "t", CAPTIONS)
    reviews = Reviews(reviews_of(made.uri), STORAGE)
    now = datetime(2026, 1, 2, tzinfo=timezone.utc)
    reviews.change(
        Review(uri, id_of(uri), decision, text, CAPTIONS[uri], "ck-0", "ada", now)
        for uri, (decision, text) in DECISIONS.items()
    )
    reviews.save()
    return made


@pytest.fixture
def lines(table: CaptionTable, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def export(**options: Any) -> list[dict[str, Any]]:
        out = tmp_path / "out.jsonl"
        run(table.uri, out, "jsonl", overwrite=True, **options)
        return [json.loads(line) for line in out.read_text().splitlines()]

    return export


def test_captions_are_written_as_people_decided(
    table: CaptionTable, lines: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    found = lines(columns=("stem", "caption", "review"))
    assert [(row["stem"], row["caption"], row["review"]) for row in found] == [
        ("a", "a dog", "approved"),
        ("b", "two cats", "edited"),
        ("d", "a house", "edited"),
        ("e", "a tree", None),
    ]
    assert run(table.uri, tmp_path / "again.csv", "csv").left_out == {"rejected by a reviewer": 1}
    assert [row["caption"] for row in lines(failed="keep")] == ["a dog", "two cats", None, "a house", "a tree"]


def test_reviewed_ones_alone_can_be_asked_for(lines: Callable[..., list[dict[str, Any]]]) -> None:
    assert [row["caption"] for row in lines(only="reviewed")] == ["a dog", "two cats", "a house"]


@pytest.mark.parametrize(
    ("where", "captions"),
    [
        ("review = 'edited'", ["two cats", "a house"]),
        ("caption like '%cats'", ["two cats"]),
        ("review is null", ["a tree"]),
    ],
)
def test_conditions_are_on_what_people_decided(
    lines: Callable[..., list[dict[str, Any]]], where: str, captions: list[str]
) -> None:
    assert [row["caption"] for row in lines(where=where)] == captions


def test_reviews_can_be_left_aside(lines: Callable[..., list[dict[str, Any]]]) -> None:
    assert [row["caption"] for row in lines(reviews="none")] == ["a dog", "a cat", "a boat", "a tree"]


def test_only_reviewed_needs_reviews(tmp_path: Path) -> None:
    table = make_table(tmp_path / "plain", CAPTIONS)
    with pytest.raises(UsageError, match="has no reviews"):
        run(table.uri, tmp_path / "out.csv", "csv", only="reviewed")


def test_a_carried_column_review_stays_the_tables_own(tmp_path: Path) -> None:
    table = make_table(tmp_path / "own", {"/p/a.jpg": "a dog"}, {"review": ["four stars"]})
    run(table.uri, tmp_path / "out.csv", "csv", columns=("review",))
    assert (tmp_path / "out.csv").read_text() == "review\nfour stars\n"


def test_the_mark_of_the_machine_says_that_a_person_changed_the_words(table: CaptionTable, tmp_path: Path) -> None:
    run(table.uri, tmp_path / "out", "xmp")
    packets = {path.stem: path.read_bytes() for path in (tmp_path / "out").glob("*.xmp")}
    assert xmp.texts_in(packets["b.jpg"], xmp.WRITER) == ["captionkit ck-0, edited"]
    assert xmp.texts_in(packets["e.jpg"], xmp.WRITER) == ["captionkit ck-0"]
