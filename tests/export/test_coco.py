"""COCO's files, read back by pycocotools and scored by pycocoevalcap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocoevalcap.cider.cider import Cider
from pycocotools.coco import COCO

from captionkit.errors import UsageError
from tests.export.table import id_of, make_table, run

URIS = {
    "/val2014/COCO_val2014_000000391895.jpg": 'a man on a "bike"',
    "/val2014/COCO_val2014_000000060623.jpg": "a woman cuts a café's cake",
    "/val2014/COCO_val2014_000000483108.jpg": None,
    "s3://b/s.tar#000000384213.jpg": "a kitchen with a stove",
}


@pytest.fixture
def table(tmp_path: Path) -> str:
    return make_table(tmp_path / "t", URIS, {"number": [5, 6, 7, 8], "text": ["1", "x", None, "4"]}).uri


def test_results_are_what_pycocotools_loads_and_pycocoevalcap_scores(table: str, tmp_path: Path) -> None:
    results, captions = tmp_path / "results.json", tmp_path / "captions.json"
    assert run(table, results, "coco-results").written == 3
    assert run(table, captions, "coco-captions").written == 3
    truth = COCO(str(captions))
    assert {number: truth.imgToAnns[number][0]["caption"] for number in truth.getImgIds()} == {
        391895: URIS["/val2014/COCO_val2014_000000391895.jpg"],
        60623: URIS["/val2014/COCO_val2014_000000060623.jpg"],
        384213: "a kitchen with a stove",
    }
    image = truth.loadImgs(60623)[0]
    assert (image["file_name"], image["width"], image["height"]) == ("COCO_val2014_000000060623.jpg", 64, 48)
    found = truth.loadRes(str(results))
    assert sorted(found.getImgIds()) == sorted(truth.getImgIds())

    def texts(corpus: COCO) -> dict[int, list[str]]:
        return {number: [one["caption"] for one in corpus.imgToAnns[number]] for number in corpus.getImgIds()}

    score, _ = Cider().compute_score(texts(truth), texts(found))
    assert score == pytest.approx(10 * 1.0)  # each caption is its own reference


def test_numbers_come_from_any_column(table: str, tmp_path: Path) -> None:
    run(table, tmp_path / "a.json", "coco-results", columns=("image_id=number,caption",), failed="leave-out")
    assert [one["image_id"] for one in json.loads((tmp_path / "a.json").read_text())] == [5, 6, 8]
    run(table, tmp_path / "b.json", "coco-captions", columns=("image_id=image_id",), where="number = 5")
    assert json.loads((tmp_path / "b.json").read_text())["images"][0]["id"] == id_of(next(iter(URIS)))


def test_what_has_no_number_or_anothers_is_refused_and_nothing_is_left(tmp_path: Path, table: str) -> None:
    twice = make_table(tmp_path / "twice", {"/a/7.jpg": "one", "/b/007.jpg": "two"})
    none = make_table(tmp_path / "none", {"/a/dog.jpg": "one"})
    out = tmp_path / "out.json"
    for uri, options, word in (
        (twice.uri, {}, "has the number 7 too; say with --columns image_id=COLUMN"),
        (none.uri, {}, "dog.jpg: no number at the end"),
        (table, {"columns": ("image_id=text",)}, "text is 'x', which is no number"),
        (table, {"columns": ("file_name",)}, "COCO's files have image_id and caption"),
    ):
        with pytest.raises(UsageError, match=word):
            run(uri, out, "coco-results", **options)
    assert not out.exists()


def test_a_table_without_a_caption_is_an_empty_list(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", {"/a/1.jpg": None})
    run(table.uri, tmp_path / "r.json", "coco-results")
    assert json.loads((tmp_path / "r.json").read_text()) == []
    run(table.uri, tmp_path / "c.json", "coco-captions")
    assert COCO(str(tmp_path / "c.json")).getImgIds() == []
