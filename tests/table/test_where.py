"""`--where`, held against DuckDB, which reads the same words."""

from __future__ import annotations

from datetime import datetime, timezone

import duckdb
import pyarrow as pa
import pytest

from captionkit.errors import UsageError
from captionkit.table.where import parse_where

ROWS = pa.table(
    {
        "n": pa.array(range(8), pa.int64()),
        "score": pa.array([-0.5, -1.25, None, -2.0, -1.5, -0.25, -3.0, None], pa.float32()),
        "caption": ["a dog", "A dog's bone", None, "", "100%", "_cat", "a Dog", "dogs"],
        "odd name": ["x", "y", "x", None, "x", "y", "y", "x"],
        "seen": [True, False, None, True, False, True, False, True],
        "captioned_at": pa.array(
            [datetime(2026, 1, day, 12, tzinfo=timezone.utc) for day in range(1, 9)], pa.timestamp("us", tz="UTC")
        ),
    }
)


@pytest.mark.parametrize(
    "where",
    [
        "score > -1.2",
        "score>=-1.25 and score < 0",
        "-1 < score",
        "score is null",
        "score is not null AND caption != ''",
        "not score > -1.3",
        "not (score > -1.3 or caption = 'dogs')",
        "caption = 'A dog''s bone'",
        "caption like '%dog%' or n = 4",
        "caption not like 'a%'",
        "caption like '_cat'",
        "lower(caption) like '%dog'",
        "length(caption) <= 4",
        "n in (1, 3, 5)",
        "n not in (1, 3, 5)",
        "caption in ('dogs', 'a dog')",
        "\"odd name\" = 'x' and n <> 2",
        "seen = true",
        "seen = false or n == 2",
        "captioned_at > '2026-01-05'",
        "captioned_at >= '2026-01-03T12:00:00+00:00' and captioned_at < '2026-01-05T12:00:00Z'",
        "1 = n or n=2 or n = +3",
        "score < -1 and score > -2 or n = 0 and seen = true",
        "n < 2.5",
    ],
)
def test_a_condition_chooses_what_sql_chooses(where: str) -> None:
    place = ROWS.schema.names.index("captioned_at")
    utc = ROWS["captioned_at"].cast(pa.timestamp("us"))  # DuckDB needs an extension for zones
    with duckdb.connect() as database:
        database.register("rows", ROWS.set_column(place, "captioned_at", utc))
        expected = [n for (n,) in database.execute(f"SELECT n FROM rows WHERE {where} ORDER BY n").fetchall()]
    assert parse_where(where, ROWS.schema).filter(ROWS)["n"].to_pylist() == expected
    assert 0 < len(expected) < len(ROWS)


def test_it_knows_the_columns_it_needs() -> None:
    assert parse_where("score > -1 and length(caption) > 2 or score is null", ROWS.schema).columns == (
        "score",
        "caption",
    )


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("", "a column or a constant is expected"),
        ("score >", "a column or a constant is expected at position 8, not the end"),
        ("score > -1 score", "and, or, or the end is expected"),
        ("scores > 1", "no column scores; there are: n, score"),
        ('caption = "dogs"', "no column dogs"),
        ("score", "a comparison, is null, in or like is expected"),
        ("1 = 1", "two constants"),
        ("1 is null", "a comparison is expected"),
        ("(score > 1", ") is expected"),
        ("score > 1; drop", "not understood from here on: ; drop"),
        ("score > 'x", "not understood"),
        ("caption like 3", "needs a pattern"),
        ("n like 'a%'", "--where n like 'a%'"),
        ("length(score) > 1", "of a column of text"),
        ("captioned_at > 'noon'", "is no moment"),
        ("caption > 3", "--where caption > 3"),
        ("n = 99999999999999999999", "too large"),
        ("(" * 60 + "n = 1" + ")" * 60, "more than 50 parentheses"),
        ("read_text('/etc/passwd') = 'x'", "no column read_text"),
        ("n in (select 1)", "a column or a constant is expected"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_place(where: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_where(where, ROWS.schema)
    assert word in str(caught.value)
