"""The evaluated images and the training captions, from one corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captionkit.errors import UsageError
from captionkit.evaluation.options import JudgedCorpusOptions
from captionkit.evaluation.references import read_references
from captionkit.storage import Storage


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    rows = [
        {"uri": "a.jpg", "captions": ["A dog.", "One dog"], "split": "test"},
        {"uri": "b.jpg", "captions": ["A cat!"], "split": "train"},
        {"uri": "c.jpg", "captions": ["Two cats"], "split": "test"},
        {"uri": "d.jpg", "captions": ["A bird"], "split": "val"},
    ]
    file = tmp_path / "captions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_split_is_evaluated_and_training_captions_are_known(corpus: str, tmp_path: Path) -> None:
    reference_set = read_references(JudgedCorpusOptions((corpus,)), Storage())
    assert reference_set.references == {
        str(tmp_path / "a.jpg"): ("A dog.", "One dog"),
        str(tmp_path / "c.jpg"): ("Two cats",),
    }
    assert reference_set.training_captions == {"a cat"}
    few = read_references(JudgedCorpusOptions((corpus,), split="val", train_split="none", limit=1), Storage())
    assert list(few.references.values()) == [("A bird",)]
    assert few.training_captions is None


def test_a_list_says_which_images(corpus: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("d.jpg\n")
    options = JudgedCorpusOptions((corpus,), split="mine", split_list=str(tmp_path / "list.txt"))
    assert list(read_references(options, Storage()).references) == [str(tmp_path / "d.jpg")]


def test_all_takes_every_image_and_an_unknown_split_is_named(corpus: str) -> None:
    assert len(read_references(JudgedCorpusOptions((corpus,), split="all"), Storage()).references) == 4
    with pytest.raises(UsageError, match=r"--split dev: the corpus has test \(2 images\), train \(1 image\)"):
        read_references(JudgedCorpusOptions((corpus,), split="dev"), Storage())
