"""The index: the rows that a search wants, in its order, and the other table's beside them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.errors import UsageError
from captionkit.review.index import BATCH, Index, Query, open_index
from captionkit.schema import SCHEMA
from captionkit.table.reviews import Review, Reviews
from captionkit.table.table import Footer, to_parquet
from tests.export.table import STORAGE, id_of, make_table
from tests.support.table_rows import rows
from tests.table.test_reviews import NOW

CAPTIONS = {
    "/p/Ada.jpg": "a red dog",
    "/p/b.jpg": "A DOG and a cat",
    "/p/c.jpg": None,
    "/q/d.jpg": "two cats",
    "/q/e.jpg": "",
}


def found(index: Index, **query: Any) -> list[str]:
    return [index.row(number)["uri"][3:-4] for number in index.find(Query(**query)).tolist()]


@pytest.fixture
def table(tmp_path: Path) -> str:
    return make_table(tmp_path / "t", CAPTIONS, {"year": [1999, 2001, 2002, 2003, 2004]}).uri


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["Ada", "b", "c", "d", "e"]),
        ({"words": "dog"}, ["Ada", "b"]),
        ({"words": "dog CAT"}, ["b"]),
        ({"words": "ada"}, ["Ada"]),
        ({"words": "/q/"}, ["d", "e"]),
        ({"words": ".*"}, []),
        ({"where": "year > 2000 and caption like '%cat%'"}, ["b", "d"]),
        ({"where": "review is null and year < 2000"}, ["Ada"]),
        ({"state": "failed"}, ["c"]),
        ({"state": "truncated"}, ["c"]),
        ({"state": "captioned", "model": "ck-0"}, ["Ada", "b", "d", "e"]),
        ({"model": "another"}, []),
        ({"low": -0.65}, ["Ada", "b"]),
        ({"high": -0.65}, ["d", "e"]),
        ({"shortest": 9}, ["Ada", "b"]),
        ({"longest": 8}, ["d", "e"]),
        ({"order": "lowest"}, ["e", "d", "b", "Ada", "c"]),
        ({"order": "highest"}, ["Ada", "b", "d", "e", "c"]),
        ({"order": "shortest"}, ["e", "d", "Ada", "b", "c"]),
        ({"order": "longest"}, ["b", "Ada", "d", "e", "c"]),
        ({"review": "undecided", "words": "dog", "order": "lowest"}, ["b", "Ada"]),
    ],
)
def test_what_is_found(table: str, query: dict[str, Any], names: list[str]) -> None:
    with open_index(table, STORAGE) as index:
        assert found(index, **query) == names


def test_a_random_sample_is_another_order_and_the_same_one_each_time(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", {f"/p/{number:03}.jpg": "a dog" for number in range(50)}).uri
    with open_index(table, STORAGE) as index:
        shuffled = found(index, order="random")
        assert sorted(shuffled) == found(index)
        assert shuffled != found(index)
        assert found(index, order="random") == shuffled


def test_decisions_are_searched_as_they_are_made(table: str, tmp_path: Path) -> None:
    reviews = Reviews(str(tmp_path / "r"), STORAGE)
    reviews.change(
        [Review("/p/b.jpg", id_of("/p/b.jpg"), "edited", "a horse", CAPTIONS["/p/b.jpg"], "ck-0", None, NOW)]
    )
    with open_index(table, STORAGE, reviews=reviews) as index:
        assert found(index, words="horse") == found(index, review="edited") == ["b"]
        assert found(index, words="dog") == ["Ada"]
        index.decide(0, "approved")
        assert found(index, review="approved") == found(index, where="review = 'approved'") == ["Ada"]
        assert index.counts() == {"approved": 1, "edited": 1, "rejected": 0, "undecided": 3}
        index.decide(0, None)
        assert found(index, review="undecided") == ["Ada", "c", "d", "e"]


def test_pages_of_a_search_belong_together_until_it_is_made_again(table: str) -> None:
    with open_index(table, STORAGE) as index:
        query = Query(review="undecided")
        assert len(index.find(query)) == 5
        index.decide(0, "approved")
        assert len(index.find(query, again=False)) == 5
        assert len(index.find(query)) == 4


def test_a_condition_chooses_what_is_there_at_all(table: str) -> None:
    with open_index(table, STORAGE, where="year >= 2003") as index:
        assert found(index) == ["d", "e"]
        assert len(index) == index.captioned == 2


def test_another_tables_captions_stand_beside_these(table: str, tmp_path: Path) -> None:
    other = make_table(tmp_path / "o", {"/q/d.jpg": "two cats", "/p/b.jpg": "a goose", "/x/z.jpg": "nobody"}).uri
    with open_index(table, STORAGE, against=other) as index:
        assert [index.row(number)["other_caption"] for number in range(5)] == [None, "a goose", None, "two cats", None]
        assert found(index, differs=True) == found(index, words="goose") == ["b"]
        assert found(index, where="other_score > score") == ["d"]


def test_captions_that_were_there_before_stand_beside_these(tmp_path: Path) -> None:
    old = ["a dog", "a goose", None, "two cats", "a tree"]
    table = make_table(tmp_path / "t", CAPTIONS, {"input_caption": old}).uri
    with open_index(table, STORAGE, against="column:input_caption") as index:
        assert [index.row(number)["other_caption"] for number in range(5)] == old
        assert [index.row(number)["other_model"] for number in (0, 2)] == ["input_caption", None]
        assert found(index, differs=True) == ["Ada", "b", "e"]
    kept = make_table(tmp_path / "k", {"/a.jpg": "a dog", "/b.jpg": "a cat"}, {"old": ["a dog", "a horse"]})
    whole = pq.read_table(f"{kept.uri}/captions-r-00000.parquet")
    ours = [[{"caption": "a fox", "score": -1.0}], None]
    for name, values in (("model", ["input", "ck-0"]), ("alternatives", ours)):
        place = whole.schema.get_field_index(name)
        whole = whole.set_column(place, whole.schema.field(name), pa.array(values, whole.schema.field(name).type))
    pq.write_table(whole, f"{kept.uri}/captions-r-00000.parquet")
    with open_index(kept.uri, STORAGE, against="column:old") as index:
        told = [[index.row(number)[name] for name in ("other_caption", "other_score")] for number in range(2)]
        assert told == [["a fox", -1.0], ["a horse", None]]
        assert index.row(0)["other_model"] == "first alternative"
    with (
        pytest.raises(UsageError, match="no such column of text; there are: uri"),
        open_index(table, STORAGE, against="column:score"),
    ):
        pass


def test_another_table_may_be_empty_of_these(table: str, tmp_path: Path) -> None:
    other = make_table(tmp_path / "o", {"/x/z.jpg": "nobody"}).uri
    with open_index(table, STORAGE, against=other) as index:
        assert found(index, differs=True) == []


@pytest.mark.parametrize("fields", [{"low": "x"}, {"longest": "1.5"}, {"order": "by magic"}])
def test_fields_that_cannot_be_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Query.parse(fields)


def test_a_condition_that_is_none_is_refused(table: str) -> None:
    with open_index(table, STORAGE) as index, pytest.raises(UsageError, match="there is no column nothing"):
        index.find(Query(where="nothing = 1"))


def test_fields_of_a_page_become_a_query() -> None:
    fields = {
        "words": "a",
        "low": "-1.5",
        "shortest": "3",
        "differs": "1",
        "order": "random",
        "offset": "60",
        "high": "",
    }
    assert Query.parse(fields) == Query("a", low=-1.5, shortest=3, differs=True, order="random")


def test_what_a_search_holds_is_a_few_bytes_a_row(tmp_path: Path) -> None:
    count = 2 * BATCH
    one = rows(["/p/a.jpg"], caption="a dog " * 40).select(SCHEMA.names)
    many = one.take(pa.array(np.zeros(count, np.int64)))
    ids = pa.array(np.arange(count))
    many = many.set_column(1, SCHEMA.field("image_id"), ids)
    STORAGE.write(str(tmp_path / "t" / "captions-r-0.parquet"), to_parquet(many, Footer("ck-0", {}, {})))
    with open_index(str(tmp_path / "t"), STORAGE) as index:
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        for order in ("lowest", "random", "table"):
            assert len(index.find(Query(words="dog", order=order))) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 60 * count
    assert pa.total_allocated_bytes() - before < 10 * count
