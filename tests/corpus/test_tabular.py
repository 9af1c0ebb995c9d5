"""CSV in its dialects, JSON lines and Parquet."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.corpus import CaptionedImage, Columns, CorpusError
from captionkit.corpus.corpus_file import CorpusFile
from captionkit.corpus.record import Report
from captionkit.corpus.tabular import read_csv
from captionkit.inputs.tables import MAX_ROW_LINES
from captionkit.storage import Storage
from tests.corpus.reading import FOLDER, captions, read_back


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=2)
    return out.getvalue()


def test_kaggles_flickr8k() -> None:
    text = (
        "image,caption\n"
        "a.jpg,A child in a pink dress .\n"
        'a.jpg,"A girl , going into a ""wooden"" building ."\n'
        "b.jpg,A dog , not quoted .\n"
        "a.jpg,not a neighbour\n"
        "b.jpg,\n"
        "b.jpg\n"
        ",who is this\n"
        "b.jpg,A dog,,\n"
    )
    records, report = read_back("captions.txt", text)
    assert captions(records) == {
        "a.jpg": ["A child in a pink dress .", 'A girl , going into a "wooden" building .', "not a neighbour"],
        "b.jpg": ["A dog , not quoted .", "A dog"],
    }
    assert report.left_out == {"blank": 1, "malformed": 1, "nameless": 1}
    assert report.noted == {"mended": 1}
    assert report.examples["malformed"] == ["captions.txt, line 7: b.jpg"]


def test_kaggles_flickr30k_with_its_broken_row() -> None:
    text = (
        "image_name| comment_number| comment\n"
        "2199200615.jpg| 3|   A man | his dog .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"
        '1.jpg| 0| "Quotes" are , never closed"\n'
        "1.jpg| 1|\n"
        "1.jpg| 2\n"
    )
    records, report = read_back("results.csv", text)
    assert captions(records) == {
        "2199200615.jpg": ["A man | his dog .", "A dog runs across the grass ."],
        "1.jpg": ['"Quotes" are , never closed"'],
    }
    assert report.left_out == {"blank": 1, "malformed": 1}
    assert report.noted == {"mended": 2}
    assert report.examples["mended"][1] == "results.csv, line 3: 2199200615.jpg| 4   A dog runs across the grass ."


def test_a_broken_row_in_the_comma_dialect_is_mended_too() -> None:
    records, report = read_back("r.csv", "image_name,comment_number,comment\na.jpg, 4   A dog .,\nb.jpg,0,4 dogs\n")
    assert captions(records) == {"a.jpg": ["A dog ."], "b.jpg": ["4 dogs"]}
    assert report.noted == {"mended": 1}


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_ones_own_csv(mark: str) -> None:
    rows = [["Split", "Picture", "Said"], ["dev", "s3://b/a.jpg", "A dog"], ["", "b/c.jpg", "A cat"]]
    text = "\r\n".join(mark.join(row) for row in rows)
    records, report = read_back("mine.csv", text, columns=Columns(image="Picture", caption="Said"))
    assert records == [
        CaptionedImage("s3://b/a.jpg", ("A dog",), "val", "s3://b/a.jpg"),
        CaptionedImage(f"{FOLDER}/b/c.jpg", ("A cat",), None, "b/c.jpg"),
    ]
    assert report.noted == {"crlf": 2}


def test_lists_in_csv_cells() -> None:
    text = 'raw,filename,split\n"[""A dog ."", ""Two dogs .""]",a.jpg,train\n[sic] a cat,b.jpg,test\n'
    records, _ = read_back("flickr_annotations_30k.csv", text)
    assert captions(records) == {"a.jpg": ["A dog .", "Two dogs ."], "b.jpg": ["[sic] a cat"]}
    assert [record.split for record in records] == ["train", "test"]


def test_a_quote_that_is_never_closed_swallows_nothing() -> None:
    rows = "".join(f"{number}.jpg,A dog\n" for number in range(MAX_ROW_LINES + 5))
    records, report = read_back("q.csv", f'image,caption\na.jpg,"two\nlines"\nb.jpg,"open\n{rows}')
    assert len(records) == MAX_ROW_LINES + 7
    assert captions(records[:3]) == {"a.jpg": ["two\nlines"], "b.jpg": ["open"], "0.jpg": ["A dog"]}
    assert not report.left_out
    assert report.noted == {"several_lines": 1, "open_quote": 1}
    assert "q.csv, line 4: b.jpg" in report.examples["open_quote"][0]


def test_two_splits_for_one_image() -> None:
    text = "image,caption,split\na.jpg,A dog,train\na.jpg,One dog,\na.jpg,Dogs,test\nb.jpg,Cat,\nb.jpg,A cat,test\n"
    records, report = read_back("splits.csv", text)
    assert [record.split for record in records] == ["train", "test"]
    assert report.noted == {"two_splits": 1}


@pytest.mark.parametrize("name", ["n.csv", "n.jsonl", "n.parquet"])
def test_names_without_endings_and_numbers_are_names(tmp_path: Path, name: str) -> None:
    for file in ("17.jpg", "18", "red-bird.png"):
        (tmp_path / file).touch()
    names: list[Any] = [17, 18] if name == "n.parquet" else [17, "18", "red-bird"]  # a column has one type
    data = {
        "n.csv": "image,caption\n" + "".join(f"{each},A dog\n" for each in names),
        "n.jsonl": "".join(json.dumps({"image": each, "caption": "A dog"}) + "\n" for each in names),
    }.get(name) or parquet(image=names, caption=["A dog"] * len(names))
    records, report = read_back(name, data, images=str(tmp_path))
    expected = [f"{tmp_path}/17.jpg", f"{tmp_path}/18", f"{tmp_path}/red-bird.png"][: len(names)]
    assert [record.image for record in records] == expected
    assert not report.left_out


def test_columns_that_are_not_there() -> None:
    with pytest.raises(CorpusError, match=r"cols.csv: .*'image,caption' lacks a column of 'photo' and one of the capt"):
        read_back("cols.csv", "image,caption\na,b\n", columns=Columns(image="photo"), format="csv")
    with pytest.raises(CorpusError, match="and 'fold'"):
        read_back("cols.csv", "image,caption\na,b\n", columns=Columns(split="fold"))
    with pytest.raises(CorpusError, match=r"'n'\] lack a column of the image \(image, image_name"):
        read_back("cols.parquet", parquet(n=[1]))
    Storage().write("memory://corpus/empty.csv", b"")
    with pytest.raises(CorpusError, match="its header '' lacks"):
        next(read_csv(CorpusFile(Storage(), "memory://corpus/empty.csv", Report())))


def test_jsonl() -> None:
    rows = [
        {"image": "a.jpg", "captions": ["A dog", "Two dogs", None, 7], "split": "valid"},
        {"image": "b.jpg", "caption": "A cat \ud800"},
        {"image": "b.jpg", "caption": None},
        {"image": None, "captions": ["lost", "too"]},
        {"image": "c.jpg", "captions": []},
        {"picture": "d.jpg"},
        ["a.jpg", "A dog"],
    ]
    text = "\n".join(json.dumps(row) for row in rows) + '\n{"image": "torn.j'
    records, report = read_back("mine.jsonl", text)
    assert captions(records) == {"a.jpg": ["A dog", "Two dogs"], "b.jpg": ["A cat ?"]}
    assert records[0].split == "val"
    assert report.left_out == {"blank": 2, "malformed": 4, "nameless": 2}
    assert report.noted == {"without_captions": 1}


def test_parquet_with_addresses() -> None:
    data = parquet(uri=["a.jpg", "b.jpg", None], caption=["A dog", "A cat", "lost"], split=["train", "test", "test"])
    records, report = read_back("mine.parquet", data)
    assert records == [
        CaptionedImage(f"{FOLDER}/a.jpg", ("A dog",), "train", "a.jpg"),
        CaptionedImage(f"{FOLDER}/b.jpg", ("A cat",), "test", "b.jpg"),
    ]
    assert report.left_out == {"nameless": 1}


@pytest.mark.parametrize("picture", [b"jpeg", {"bytes": b"jpeg", "path": "x"}])
def test_parquet_that_holds_the_pictures(picture: object) -> None:
    data = parquet(image=[picture] * 3, caption=[["A dog", "Dogs"], ["A cat"], ["A cow"]])
    records, _ = read_back("rows.parquet", data)
    assert [record.image for record in records] == [f"{FOLDER}/rows.parquet#{row}" for row in range(3)]
    assert records[0].captions == ("A dog", "Dogs")
    assert Storage().read(records[2].image) == b"jpeg"


def test_a_torn_parquet_file() -> None:
    data = parquet(image=["a"], caption=["b"])
    with pytest.raises(CorpusError, match=r"torn\.parquet: not a Parquet file"):
        read_back("torn.parquet", data[: len(data) // 2])
