"""What holds for every format: detection, several files, odd bytes, and errors that say what to do."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from captionkit.corpus import CorpusError, read_corpus
from captionkit.corpus.record import Report
from captionkit.errors import UsageError
from captionkit.storage import Storage, StorageError
from tests.corpus.reading import captions, check_account, read_back

CSV = "image,caption\na.jpg,A dog\n"


def zipped(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, "zstd", asbytes=True)
    return packed


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a.jpg#0\tA dog\n", "flickr"),
        (f"\n\n{CSV}", "csv"),
        ("image_name| comment_number| comment\na.jpg| 0| A dog\n", "csv"),
        ('{"image": "a.jpg", "caption": "A dog"}', "jsonl"),
        ('{"image": "a.jpg", "caption": "A dog"}\n{"image": "a.jpg", "caption": "A dog"}', "jsonl"),
        ('[\n {"image": "a.jpg", "caption": "A dog"}]', "json"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "A dog"}]}', "coco"),
        ('{\n"annotations": [{"image_id": 1, "caption": "A dog"}],\n"images": [{"id": 1, "file_name": "a"}]}', "coco"),
        ('{"images": [{"imgid": 0, "filename": "a.jpg", "sentences": [{"raw": "A dog"}]}]}', "karpathy"),
    ],
)
def test_formats_are_told_apart_whatever_the_file_is_called(text: str, kind: str) -> None:
    plain = text.encode()
    packed = (gzip.compress(plain), bz2.compress(plain), lzma.compress(plain), zipped(inside=text), zstd(plain))
    for data in (plain, b"\xef\xbb\xbf" + plain, text.encode("utf-16"), text.encode("utf-16-be"), *packed):
        records, report = read_back("file", data)
        assert report.sources == [f"memory://corpus/file: {kind}"]
        assert [set(record.captions) for record in records] == [{"A dog"}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"A dog\n", r"a\.txt: unknown format; it begins with 'A dog'. Known are: lines of NAME#N"),
        ("a.txt", b"", "unknown format; it begins"),
        ("a.json", b'[["a", "b"]]', "unknown format; it begins"),
        ("a.json", b'[{"image": "a", "caption": "b"}', "invalid or truncated JSON"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "git lfs pull"),
        ("a.csv", b"photo,said\na,b\n", "give the columns' names if they differ"),
        ("a.zip", zipped(a="x", b="y"), r"holds 2 files \(a, b\); unpack the one you mean"),
        pytest.param("a.csv.gz", gzip.compress(CSV.encode() * 99)[:40], "the archive is broken", id="cut gzip"),
        pytest.param("a.zip", zipped(a=CSV)[:40], "the archive is broken", id="cut zip"),
        (
            "a.token.txt",
            b"nothing of the kind\n",
            "the corpus has no image with a caption:\n(.|\n)*1 caption not in the file",
        ),
    ],
)
def test_errors_say_what_to_do(name: str, data: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_back(name, data)


def test_options_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown format 'voc'; choose from auto, flickr, csv"):
        read_corpus("x", format="voc")
    with pytest.raises(UsageError, match="source names no file"):
        read_corpus([])
    with pytest.raises(CorpusError, match="is a folder; give the file"):
        list(read_corpus(str(tmp_path)))
    with pytest.raises(CorpusError, match="this pattern matches no file"):
        list(read_corpus(f"{tmp_path}/*.csv"))
    with pytest.raises(StorageError, match="nothing at this address"):
        list(read_corpus(f"{tmp_path}/no.csv"))


def test_several_files_are_one_corpus(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(CSV)
    (tmp_path / "2.csv").write_text("image,caption,split\nb.jpg,A cat,test\na.jpg,One dog,train\n")
    for source in (f"{tmp_path}/*.csv", [f"{tmp_path}/1.csv", f"{tmp_path}/2.csv"]):
        corpus = read_corpus(source)
        records = list(corpus)
        check_account(records, corpus.report)
        assert captions(records) == {"a.jpg": ["A dog", "One dog"], "b.jpg": ["A cat"]}
        assert [record.split for record in records] == ["train", "test"]


def test_relative_addresses_become_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.csv").write_text(CSV + "../b.jpg,A cat\n/d.jpg,A cow\n")
    monkeypatch.chdir(tmp_path)
    expected = [f"{tmp_path}/a.jpg", f"{tmp_path.parent}/b.jpg", "/d.jpg"]
    assert [record.image for record in read_corpus("c.csv")] == expected


def test_leaving_half_way_is_no_trouble() -> None:
    Storage().write("memory://corpus/two.csv", (CSV + "b.jpg,A cat\n").encode())
    corpus = read_corpus("memory://corpus/two.csv")
    assert next(iter(corpus)).key == "a.jpg"
    assert corpus.report.records == 1
    assert len(list(corpus)) == corpus.report.records == 2


def test_a_report_is_printable_whatever_the_file_says() -> None:
    records, report = read_back("odd.csv", CSV + "\x1b[2Jb.jpg\n" + "x" * 500 + "\n")
    assert len(records) == 1
    assert "\\x1b[2Jb.jpg" in str(report)
    assert "\x1b" not in str(report)
    assert max(map(len, str(report).splitlines())) < 400


def test_one_thing_has_no_plural_in_a_report() -> None:
    report = Report()
    for kind in ("blank", "nameless"):
        report.leave_out(kind, "x")
    report.note("in_no_list", "x")
    report.note("crlf", "x", 1_200)
    lines = [line.strip() for line in str(report).splitlines()]
    assert lines[-6:] == [
        "left out:",
        "1 caption without a word, such as: x",
        "1 caption without an image name, such as: x",
        "noticed:",
        "1,200 lines with a Windows line end (CRLF), such as: x",
        "1 image in no split list, such as: x",
    ]


def test_reports_know_their_kinds() -> None:
    with pytest.raises(KeyError):
        Report().note("sundry", "x")
    with pytest.raises(KeyError):
        Report().leave_out("sundry", "x")
