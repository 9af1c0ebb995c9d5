"""CSV, TSV and JSON lines, read back by pandas, DuckDB, Arrow and the standard library."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import pandas
import pyarrow.csv
import pyarrow.json
import pytest

from captionkit.errors import UsageError
from captionkit.table.table import CaptionTable
from tests.export.table import STORAGE, id_of, make_table, run

HARD = 'A "dog", a\tcat\nand a café 🐕; = 1+1'
URIS = ["/photos/2024/a.jpg", "/photos/2024/b,c.jpg", "/photos/x/broken.jpg", "/photos/s.tar#in/d.left.png"]


@pytest.fixture
def table(tmp_path: Path) -> CaptionTable:
    captions = dict(zip(URIS, [HARD, "a boat", None, "two birds on a wire"], strict=True))
    return make_table(tmp_path / "t", captions, {"nid": ["007", "8", "9", "10"], "shelf": [[1, 2], [], None, [3]]})


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_files_hold_file_name_and_caption_whatever_is_in_them(
    table: CaptionTable, tmp_path: Path, format: str, delimiter: str
) -> None:
    out = tmp_path / f"out/captions.{format}"
    report = run(table.uri, out, format)
    assert (report.written, report.files, report.left_out, report.ok) == (3, 1, {"without a caption": 1}, True)
    expected = [("a.jpg", HARD), ("b,c.jpg", "a boat"), ("d.left.png", "two birds on a wire")]
    with out.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file, delimiter=delimiter)) == [["file_name", "caption"], *map(list, expected)]
    frame = pandas.read_csv(out, sep=delimiter)
    assert list(frame.itertuples(index=False, name=None)) == expected
    found = duckdb.read_csv(str(out), delimiter=delimiter, header=True).fetchall()
    assert found == expected
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    assert pyarrow.csv.read_csv(out, parse_options=parse)["caption"].to_pylist() == [row[1] for row in expected]


def test_any_carried_identifier_can_be_the_key_and_columns_get_the_names_of_the_importer(
    table: CaptionTable, tmp_path: Path
) -> None:
    out = tmp_path / "import.csv"
    columns = ("node_id=nid,field_alt=caption", "dc:description {{String}}=caption", "score", "shelf,path,stem")
    run(table.uri, out, "csv", columns=columns, failed="keep", max_length=9)
    frame = pandas.read_csv(out, dtype={"node_id": str}, keep_default_na=False)
    assert list(frame.columns) == [
        "node_id", "field_alt", "dc:description {{String}}", "score", "shelf", "path", "stem",
    ]  # fmt: skip
    assert list(frame["node_id"]) == ["007", "8", "9", "10"]
    assert list(frame["field_alt"]) == ['A "dog"', "a boat", "", "two birds"]
    assert list(frame["score"]) == ["-0.5", "-0.6", "", "-0.8"]
    assert list(frame["shelf"]) == ["[1, 2]", "[]", "", "[3]"]
    assert list(frame["path"]) == ["2024/a.jpg", "2024/b,c.jpg", "x/broken.jpg", "s.tar/in/d.left.png"]
    assert list(frame["stem"]) == ["a", "b,c", "broken", "d.left"]


def test_json_lines_keep_types_and_64_bit_numbers(table: CaptionTable, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    columns = ("id=image_id,text=caption,score,shelf,captioned_at,nid,alternatives",)
    run(table.uri, out, "jsonl", columns=columns, failed="keep")
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [line["id"] for line in lines] == [id_of(uri) for uri in URIS]
    assert [line["text"] for line in lines] == [HARD, "a boat", None, "two birds on a wire"]
    assert [line["shelf"] for line in lines] == [[1, 2], [], None, [3]]
    assert lines[0]["captioned_at"] == "2026-01-01T00:00:00+00:00"
    assert lines[0]["alternatives"] == [{"caption": "another", "score": -1.0}]
    assert pyarrow.json.read_json(out)["id"].to_pylist() == [id_of(uri) for uri in URIS]
    frame = pandas.read_json(out, lines=True, dtype={"nid": str})
    assert list(frame["id"]) == [id_of(uri) for uri in URIS]
    assert list(frame["nid"]) == ["007", "8", "9", "10"]


def test_a_number_that_is_none_is_null_as_json_wants_it(tmp_path: Path) -> None:
    odd = {"half": [float("nan"), 0.5], "list": [[float("inf")], [0.25]]}
    table = make_table(tmp_path / "t", {"/a.jpg": "a", "/b.jpg": "b"}, odd)
    run(table.uri, tmp_path / "o.jsonl", "jsonl", columns=("half,list",))
    assert (tmp_path / "o.jsonl").read_text() == '{"half": null, "list": [null]}\n{"half": 0.5, "list": [0.25]}\n'


def test_where_chooses_rows_by_columns_that_are_not_written(table: CaptionTable, tmp_path: Path) -> None:
    out = tmp_path / "some.csv"
    report = run(table.uri, out, "csv", where="score < -0.55 and nid != '10'", columns=("caption",))
    assert out.read_text() == "caption\na boat\n"
    assert report.written == 1


def test_what_cannot_be_is_refused_before_anything_is_written(table: CaptionTable, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for options, word in (
        ({"columns": ("id=nothing",)}, "no column nothing; there are: uri, image_id"),
        ({"columns": ("a=uri,a=caption",)}, "a twice"),
        ({"columns": ("=uri",)}, "write NAME=COLUMN"),
        ({"where": "nothing > 1"}, "no column nothing"),
        ({"failed": "refuse"}, "1 chosen image without a caption"),
    ):
        with pytest.raises(UsageError, match=word):
            run(table.uri, out, "csv", **options)
    assert not out.exists()
    run(table.uri, out, "csv", failed="refuse", where="status = 'captioned'")
    before = out.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        run(table.uri, out, "csv", columns=("uri",))
    assert out.read_bytes() == before
    run(table.uri, out, "csv", columns=("uri",), overwrite=True)
    assert out.read_text().splitlines()[0] == "uri"
    with pytest.raises(UsageError, match="holds no caption table"):
        run(tmp_path / "none", tmp_path / "x.csv", "csv")


def test_a_dry_run_counts_and_writes_nothing(table: CaptionTable, tmp_path: Path) -> None:
    report = run(table.uri, tmp_path / "out.csv", "csv", dry_run=True)
    assert report.text().splitlines()[0].startswith("3 rows would be written to ")
    assert not (tmp_path / "out.csv").exists()


def test_files_of_runs_that_carried_other_columns_are_read_together(table: CaptionTable, tmp_path: Path) -> None:
    more = make_table(tmp_path / "more", {"/photos/z.jpg": "a zebra"}, {"place": ["zoo"]})
    STORAGE.write(f"{table.uri}/captions-r-00001.parquet", STORAGE.read(more.files[0].uri))
    out = tmp_path / "both.csv"
    run(table.uri, out, "csv", columns=("file_name,nid,place",), where="place = 'zoo' or nid = '8'")
    assert out.read_text() == 'file_name,nid,place\n"b,c.jpg",8,\nz.jpg,,zoo\n'
