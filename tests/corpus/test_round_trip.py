"""Random corpora with quirks, written in every format and read back: every caption is accounted for."""

import csv
import io
import json
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.corpus import CaptionedImage, CorpusError, Report
from tests.corpus.reading import captions, read_back

SPLITS = [None, "train", "val", "test"]
QUICK = settings(max_examples=50, deadline=None)

names = st.from_regex(r"([a-c]{1,2}/)?[a-c][#a-z,é ]{0,2}\.jpg", fullmatch=True)
# Texts that a cell of CSV would give another meaning are left to `test_tables`.
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\x00["), max_size=12),
    st.sampled_from(["", " ", ".", " A dog . ", 'She said "no"', "a, b", "a|b", "tab\tbed", "\ufeffx", "\u2028"]),
)


class Row(NamedTuple):
    name: str
    text: str


rows = st.lists(st.builds(Row, st.sampled_from("abcdef").map("{}.jpg".format) | names, texts), max_size=20)
flags = st.fixed_dictionaries({"bom": st.booleans(), "end": st.sampled_from(["\n", "\r\n"])})


def has_words(text: str) -> bool:
    return any(char.isalnum() for char in text)


def expected(pairs: list[Row]) -> dict[str, list[str]]:
    """The captions that are not blank by image, in the order in which images come, which is the readers' promise."""
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        found.setdefault(name, []).extend([text.strip()] if has_words(text) else [])
    return {name: kept for name, kept in found.items() if kept}


def read(name: str, data: str, **options: object) -> tuple[list[CaptionedImage], Report | None]:
    """As `read_back`, where no record at all is no error."""
    try:
        return read_back(name, data, **options)
    except CorpusError as error:
        assert "no image with a caption" in str(error)  # noqa: PT017
        return [], None


def check(name: str, data: str, pairs: list[Row], bad: int, kind: str, bom: bool) -> None:
    records, report = read(name, "\ufeff" * bom + data, format=kind)
    assert list(captions(records).items()) == list(expected(pairs).items())
    if report is not None:
        assert report.rows == len(pairs) + bad
        assert report.left_out.get("malformed", 0) == bad
        assert report.left_out.get("blank", 0) == sum(not has_words(text) for _, text in pairs)


def mixed(data: st.DataObject, good: list[str], bad: list[str]) -> Iterator[str]:
    """The good lines in their order, with the bad ones anywhere between them."""
    places = data.draw(st.permutations([True] * len(good) + [False] * len(bad)))
    first, second = iter(good), iter(bad)
    return (next(first) if place else next(second) for place in places)


@QUICK
@given(rows, st.lists(st.sampled_from(["no tab", "a.jpg\tno number", "\tA dog"]), max_size=3), flags, st.data())
def test_token_files(pairs: list[Row], bad: list[str], how: dict[str, object], data: st.DataObject) -> None:
    good = [f"{name}#{number}\t{text}" for number, (name, text) in enumerate(pairs)]
    text = "".join(line + str(how["end"]) for line in mixed(data, good, bad))
    check("t.token", text, pairs, len(bad), "flickr", bool(how["bom"]))


@QUICK
@given(rows, st.integers(0, 3), flags, st.sampled_from(",;\t"), st.data())
def test_csv(pairs: list[Row], bad: int, how: dict[str, object], mark: str, data: st.DataObject) -> None:
    def line(fields: list[str]) -> str:
        out = io.StringIO()
        csv.writer(out, delimiter=mark, lineterminator=str(how["end"])).writerow(fields)
        return out.getvalue()

    body = mixed(data, [line(["x", *pair]) for pair in pairs], [line(["one", "field"])] * bad)
    check("c.csv", line(["n", "image", "caption"]) + "".join(body), pairs, bad, "csv", bool(how["bom"]))


@QUICK
@given(rows, st.lists(st.sampled_from(["{torn", "[]", "7", '{"image": "a"}']), max_size=3), flags, st.data())
def test_jsonl(pairs: list[Row], bad: list[str], how: dict[str, object], data: st.DataObject) -> None:
    ascii = data.draw(st.booleans())
    good = [json.dumps({"image": name, "caption": text}, ensure_ascii=ascii) for name, text in pairs]
    body = "".join(line + str(how["end"]) for line in mixed(data, good, bad))
    check("j.jsonl", body, pairs, len(bad), "jsonl", bool(how["bom"]))


@QUICK
@given(st.dictionaries(names, st.lists(texts, max_size=7), max_size=8), st.integers(1, 3))
def test_parquet_with_lists(images: dict[str, list[str]], group: int) -> None:
    out = io.BytesIO()
    columns = {"image": pa.array(images, pa.string()), "captions": pa.array(images.values(), pa.list_(pa.string()))}
    pq.write_table(pa.table(columns), out, row_group_size=group)
    pairs = [Row(name, text) for name, texts in images.items() for text in texts]
    try:
        records, report = read_back("p.parquet", out.getvalue())
    except CorpusError:
        assert not expected(pairs)
        return
    assert captions(records) == expected(pairs)
    assert report.rows == len(pairs)
    assert report.noted.get("without_captions", 0) == len(images) - len(expected(pairs))


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, 5), texts), max_size=20),
    st.sets(st.integers(0, 5)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
)
def test_coco(annotations: list[tuple[int, str]], declared: set[int], images_first: bool, bom: bool, bad: int) -> None:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in sorted(declared)]
    notes: list[dict[str, object]] = [
        {"image_id": number, "id": row, "caption": text} for row, (number, text) in enumerate(annotations)
    ]
    parts = {"images": images, "annotations": notes + [{"id": 0}] * bad}
    content = dict(parts if images_first else reversed(parts.items()))
    records, report = read("captions_x.json", "\ufeff" * bom + json.dumps(content), format="coco")
    known = [Row(str(number), text) for number, text in annotations if number in declared]
    assert captions(records) == expected(known)
    assert [record.key for record in records] == sorted(record.key for record in records)
    if report is not None:
        assert report.rows == len(annotations) + bad
        strangers = sum(number not in declared and has_words(text) for number, text in annotations)
        assert report.left_out.get("unknown_image", 0) == strangers
        assert report.noted.get("without_captions", 0) == len(declared) - len(records)


@QUICK
@given(st.dictionaries(names, st.tuples(st.sampled_from(SPLITS), st.lists(texts, max_size=7)), max_size=8))
def test_karpathy(images: dict[str, tuple[str | None, list[str]]]) -> None:
    content = [
        {"filename": name, "split": split, "sentences": [{"raw": text, "sentid": at} for at, text in enumerate(texts)]}
        for name, (split, texts) in images.items()
    ]
    records, report = read("dataset_x.json", json.dumps({"images": content}), format="karpathy")
    assert captions(records) == expected([Row(name, text) for name, (_, texts) in images.items() for text in texts])
    assert all(record.split == images[record.key][0] for record in records)
    if report is not None:
        assert report.rows == sum(len(texts) for _, texts in images.values())
