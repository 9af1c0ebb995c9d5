"""Captions are cut as the reference implementation cuts them, and none loses its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from captionkit.metrics.errors import MetricError
from captionkit.metrics.tokens import ptb_tokenize, tokenize_captions

pytest.importorskip("pycocoevalcap", reason="the reference implementation is an extra")
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

java = pytest.mark.skipif(shutil.which("java") is None, reason="the PTB tokenizer needs Java, which is missing here")

PLAIN = [
    "A man isn't riding (slowly) a horse; it's 5:30 p.m. .",
    "",
    "the U.S.",
    'He left -- quickly ... "why?" they\'d ask',
    "naïve café – 東京 “quoted” ''",
    "a\tdog  with   blanks \x85 and\u00a0more",
    "two\nlines",
    "",
]


@java
def test_captions_are_cut_as_by_the_reference_implementation() -> None:
    theirs = PTBTokenizer().tokenize({"all": [{"caption": caption} for caption in PLAIN]})["all"]
    assert len(theirs) == len(PLAIN)
    assert ptb_tokenize(PLAIN) == theirs
    assert theirs[0] == "a man is n't riding -lrb- slowly -rrb- a horse it 's 5:30 p.m."


@java
def test_a_caption_with_line_breaks_of_any_kind_costs_no_other_its_place() -> None:
    odd = [
        "a\rdog",
        "one\r\ncat",
        "x\x0by",
        "x\x0cy",
        "x\u2028y",
        "x\u2029y",
        "x\ud800y",
        "last one",
    ]  # a lone surrogate has no bytes
    assert [line.replace(" ", "") for line in ptb_tokenize(odd)] == [
        "adog",
        "onecat",
        "xy",
        "xy",
        "xy",
        "xy",
        "x?y",
        "lastone",
    ]
    assert ptb_tokenize(odd)[-1] == "last one"


def test_nothing_is_cut_into_nothing() -> None:
    assert ptb_tokenize([]) == []


def test_without_java_words_are_the_captioners_own_or_those_given() -> None:
    assert tokenize_captions(["A t-shirt's  Cat."], "words") == ["a tshirts cat"]
    assert tokenize_captions([" A t-shirt's\nCat. "], "none") == ["A t-shirt's Cat."]


@pytest.mark.parametrize("program", ["exit 3", "echo one; echo two"])
def test_a_tokenizer_that_fails_or_loses_count_is_an_error(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "java"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MetricError, match="for 1 caption "):
        ptb_tokenize(["a dog"])
