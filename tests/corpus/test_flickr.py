"""Token files and lists of splits, as Flickr8k and Flickr30k have them."""

from pathlib import Path

import pytest

from captionkit.corpus import CaptionedImage, read_corpus
from captionkit.storage import Storage
from captionkit.vocabulary import Vocabulary, tokenize
from tests.corpus.reading import FOLDER, captions, check_account, read_back

FLICKR8K = Path(__file__).parents[3] / "shared" / "flickr8k"
needs_flickr8k = pytest.mark.skipif(not FLICKR8K.is_dir(), reason="needs Flickr8k in ../shared/flickr8k")


def test_token_file_with_every_quirk() -> None:
    data = (
        b"\xef\xbb\xbfa.jpg#0\tA dog .\r\n"
        b"a.jpg#1\tOne dog\n"
        b"\n"
        b"b#c.jpg#0\tA cat\t.\n"
        b"2258277193_586949ec62.jpg.1#0\tTwo dogs\n"
        b"a.jpg#1\tOne dog\n"  # the same row again
        b"a.jpg#1\tAnother dog\n"  # another caption under its id
        b"b#c.jpg#1\t . \n"
        b"d.jpg#0\t\n"
        b"d.jpg\tno number\n"
        b"d.jpg#1 no tab\n"
        b"#0\tno name\n"
        b"a.jpg#2\tcaf\xe9\n"
    )
    records, report = read_back("x.token.txt", data)
    assert records == [
        CaptionedImage(f"{FOLDER}/a.jpg", ("A dog .", "One dog", "Another dog", "caf�"), None, "a.jpg"),
        CaptionedImage(f"{FOLDER}/b#c.jpg", ("A cat\t.",), None, "b#c.jpg"),
        CaptionedImage(f"{FOLDER}/2258277193_586949ec62.jpg.1", ("Two dogs",), None, "2258277193_586949ec62.jpg.1"),
    ]
    assert report.left_out == {"malformed": 2, "nameless": 1, "blank": 2, "repeated": 1}
    assert report.noted == {
        "byte_order_mark": 1,
        "crlf": 1,
        "not_utf8": 1,
        "odd_name": 1,
        "shared_id": 1,
        "without_captions": 1,
    }
    line = "2 captions not in the file's format, such as: x.token.txt, line 10: d.jpg\\tno number"
    assert line in str(report)


def test_official_lists_beside_the_file_give_the_splits() -> None:
    folder = "memory://lists"
    for split, names in {"train": "a.jpg\r\nb.jpg\r\n", "dev": "c.jpg\nb.jpg", "test": "\nnobody.jpg\n"}.items():
        Storage().write(f"{folder}/Flickr_8k.{split}Images.txt", names.encode())
    rows = "".join(f"{name}.jpg#0\tA dog\n" for name in "abcd")
    Storage().write(f"{folder}/Flickr8k.token.txt", rows.encode())
    corpus = read_corpus(f"{folder}/Flickr8k.token.txt")
    records = list(corpus)
    check_account(records, corpus.report)
    assert [record.split for record in records] == ["train", "train", "val", None]
    assert corpus.report.noted == {"crlf": 2, "two_splits": 1, "in_no_list": 1}
    assert corpus.report.examples["in_no_list"] == [f"{folder}/d.jpg"]
    assert corpus.report.splits == {"train": 2, "val": 1, None: 1}


def test_lists_may_be_named_and_spell_names_without_ending() -> None:
    Storage().write("memory://lists/mine.txt", b"images/a.jpg\nb\n")
    records, report = read_back(
        "flickr30k.token", "a.jpg#0\tA dog\nb.jpg#0\tA cat\n", splits={"dev": "memory://lists/mine.txt"}
    )
    assert [record.split for record in records] == ["val", "val"]
    assert not report.noted


@pytest.mark.parametrize("name", ["a", "C:\\photos\\a.jpg", "photos/a.jpg", "a.jpg"])
def test_lists_may_spell_the_ending_that_the_captions_leave_out(name: str) -> None:
    Storage().write("memory://lists/mine.txt", b"a.jpg\n")
    records, report = read_back("own.csv", f"image,caption\n{name},A dog\n", splits={"dev": "memory://lists/mine.txt"})
    assert [record.split for record in records] == ["val"]
    assert not report.noted


@pytest.mark.slow
@needs_flickr8k
def test_flickr8k_from_its_shards_gives_the_known_vocabulary() -> None:
    """1,660 words with padding and both markers (ours has <unk> too), and at most 38 tokens with both markers."""
    corpus = read_corpus(str(FLICKR8K / "Flickr8k.token.txt"), images=str(FLICKR8K / "*.tar"))
    records = list(corpus)
    check_account(records, corpus.report)
    assert corpus.report.splits == {"train": 6_000, "val": 1_000}
    assert corpus.report.per_image == {5: 7_000}
    assert not corpus.report.left_out
    training = [text for record in records if record.split == "train" for text in record.captions]
    assert len(Vocabulary.build(training, min_count=10)) - 1 == 1_660
    assert max(len(tokenize(text)) for text in training) + 2 == 38
    assert Storage().read(records[0].image).startswith(b"\xff\xd8")
    assert captions(records)["2513260012_03d33305cf.jpg"][1] == "Black dog chasing brown dog through snow"
