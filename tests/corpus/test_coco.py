"""COCO's and Karpathy's JSON."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionkit.corpus import CaptionedImage, CorpusError, read_corpus
from captionkit.corpus.spool import CACHE_KIB
from captionkit.storage import Storage
from tests.corpus.reading import FOLDER, captions, check_account, read_back


def coco_folder(folder: Path, year: str = "2017") -> Path:
    """A small COCO: the layout, the names and the two orders of keys of the real one, and a few quirks."""
    (folder / "annotations").mkdir(parents=True)
    for split, first in (("train", 1), ("val", 9)):
        (folder / f"{split}{year}").mkdir()
        names = {number: f"{number:012}.jpg" for number in range(first, first + 4)}
        for number in list(names)[:3]:  # the fourth image is missing
            Image.new("RGB", (8, 8)).save(folder / f"{split}{year}" / names[number])
        images = [{"license": 1, "file_name": name, "height": 8, "width": 8, "id": id} for id, name in names.items()]
        turns = [(turn, id) for turn in range(5) for id in names]
        annotations = [{"image_id": id, "id": 100 * turn + id, "caption": f"Caption {turn}."} for turn, id in turns]
        rest: dict[str, Any] = {"info": {"year": 2017}, "licenses": [{"id": 1}]}
        both = {"images": images, "annotations": annotations}
        content = rest | (both if split == "train" else dict(reversed(both.items())))
        (folder / "annotations" / f"captions_{split}{year}.json").write_text(json.dumps(content))
    return folder


def test_coco_folder(tmp_path: Path) -> None:
    coco = coco_folder(tmp_path / "coco")
    corpus = read_corpus(f"{coco}/annotations/captions_*2017.json", images=[f"{coco}/train2017", f"{coco}/val2017"])
    records = list(corpus)
    check_account(records, corpus.report)
    assert len(records) == 6
    assert records[0] == CaptionedImage(
        f"{coco}/train2017/000000000001.jpg", tuple(f"Caption {turn}." for turn in range(5)), "train", "1"
    )
    assert corpus.report.splits == {"train": 3, "val": 3}
    assert corpus.report.left_out == {"image_missing": 10}
    assert all(Storage().exists(record.image) for record in records)
    assert list(corpus) == records  # and once more


def test_images_lie_beside_the_annotations_by_themselves(tmp_path: Path) -> None:
    coco = coco_folder(tmp_path / "coco", "2014")
    corpus = read_corpus(f"{coco}/annotations/captions_val2014.json")
    assert [record.image for record in corpus][:3] == sorted(str(path) for path in (coco / "val2014").iterdir())
    assert "not looked up" in str(corpus.report)


def test_coco_with_every_quirk() -> None:
    content = {
        "annotations": [
            {"image_id": 2, "id": 1, "caption": "A cat"},
            {"image_id": 1, "id": 2, "caption": "A dog\n"},
            {"image_id": 2, "id": 1, "caption": "A cat"},
            {"image_id": 2, "id": 1, "caption": "Another cat"},
            {"image_id": 99, "id": 3, "caption": "Nobody"},
            {"image_id": 99, "id": 4, "caption": "knows"},
            {"image_id": 1, "id": 5, "caption": "  "},
            {"image_id": 1, "id": 6},
            {"id": 7, "caption": "of what?"},
            "not an object",
        ],
        "images": [
            {"id": 1, "file_name": "a.jpg"},
            {"id": 2, "file_name": "b.jpg"},
            {"id": 1, "file_name": "c.jpg"},
            {"id": 3, "file_name": "d.jpg"},
            {"id": 4},
            {"file_name": "e.jpg"},
        ],
    }
    records, report = read_back("captions_val2014.json", b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert records == [
        CaptionedImage(f"{FOLDER}/a.jpg", ("A dog",), "val", "1"),
        CaptionedImage(f"{FOLDER}/b.jpg", ("A cat", "Another cat"), "val", "2"),
    ]
    assert report.left_out == {"unknown_image": 2, "repeated": 1, "blank": 1, "malformed": 3}
    assert report.noted == {
        "declared_twice": 1,
        "shared_id": 1,
        "bad_image": 2,
        "without_captions": 1,
        "byte_order_mark": 1,
    }


@pytest.mark.parametrize(("image_id", "annotation_id"), [(3.0, 3), (3, 3.0), (3, "3"), ("3", 3), ("003", "003")])
def test_ids_are_one_however_they_are_written(image_id: object, annotation_id: object) -> None:
    content = {
        "images": [{"id": image_id, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": annotation_id, "caption": "A dog"}],
    }
    records, report = read_back("own.json", json.dumps(content))
    assert [(record.image, record.captions) for record in records] == [(f"{FOLDER}/a.jpg", ("A dog",))]
    assert not report.left_out
    assert not report.noted


def test_karpathy() -> None:
    def image(name: str, split: str, *raw: str, **more: object) -> dict[str, Any]:
        sentences = [{"raw": text, "tokens": text.split(), "sentid": id(text)} for text in raw]
        return {"filename": name, "split": split, "sentences": sentences, "imgid": 0, **more}

    content = {
        "images": [
            image("x.jpg", "restval", "A dog .", "Dogs", filepath="val2014", cocoid=7),
            image("x.jpg", "test", "A cat", filepath="train2014", cocoid=8),
            image("z.jpg", "val", " "),
            {"filename": "t.jpg", "split": "train", "sentences": [{"tokens": ["a", "cow"]}, {"raw": None}, "no"]},
            {"split": "train", "sentences": [{"raw": "nameless"}]},
        ],
        "dataset": "coco",
    }
    records, report = read_back("dataset_coco.json.gz", gzip.compress(json.dumps(content).encode()))
    assert records == [
        CaptionedImage(f"{FOLDER}/val2014/x.jpg", ("A dog .", "Dogs"), "train", "7"),
        CaptionedImage(f"{FOLDER}/train2014/x.jpg", ("A cat",), "test", "8"),
        CaptionedImage(f"{FOLDER}/t.jpg", ("a cow",), "train", "t.jpg"),
    ]
    assert report.left_out == {"blank": 1, "malformed": 2, "nameless": 1}
    assert report.noted == {"restval": 1, "bad_image": 1, "without_captions": 1}


def test_one_karpathy_image_twice() -> None:
    image = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A dog", "sentid": 1}]}
    records, report = read_back("dataset_flickr8k.json", json.dumps({"images": [image, image | {"split": "val"}]}))
    assert captions(records) == {"a.jpg": ["A dog"]}
    assert report.left_out == {"repeated": 1}
    assert report.noted == {"declared_twice": 1, "two_splits": 1}


@pytest.mark.parametrize("name", ["coco", "karpathy"])
def test_half_a_file_is_an_error(name: str) -> None:
    whole = json.dumps({"images": [{"id": 1, "filename": "a", "sentences": [{"raw": "b"}]}] * 9, "annotations": []})
    with pytest.raises(CorpusError, match=r"half\.json: invalid or truncated JSON .*fetch the file again"):
        read_back("half.json", whole[: len(whole) // 2], format=name)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """What Python holds when all is read and from then on; SQLite's own memory is held to `CACHE_KIB`."""

    def held(images: int) -> int:
        file = tmp_path / f"captions_{images}.json"
        with file.open("w") as out:
            out.write('{"images": [')
            out.write(",".join(f'{{"id": {n}, "file_name": "{n:012}.jpg"}}' for n in range(images)))
            out.write('], "annotations": [')
            row = '{{"image_id": {}, "id": {}, "caption": "A man riding a wave on top of a surfboard."}}'
            out.write(",".join(row.format(n % images, n) for n in range(5 * images)))
            out.write("]}")
        tracemalloc.start()
        try:
            records = iter(read_corpus(str(file)))
            found = len(next(records).captions)
            tracemalloc.reset_peak()
            found += sum(len(record.captions) for record in records)
            assert found == 5 * images
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    held(10)  # what is loaded once
    assert held(1500) < held(250) + 150_000  # the captions alone are 300 kB more, and as objects 600 kB
    assert CACHE_KIB <= 32 * 1024
