"""Captions of several searches beside each other: safe whatever they say, and the same in every form."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionkit.drawing.comparison import MOST_IN_PICTURE, ComparedImage, Comparison, Told
from captionkit.drawing.thumbnails import Thumbnail
from captionkit.errors import UsageError
from tests.gallery.test_page import HOSTILE, Page


def thumb() -> Thumbnail:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(data, "WEBP")
    return Thumbnail("data:image/webp;base64," + base64.b64encode(data.getvalue()).decode(), 64, 48)


def compared(text: str = "a red ball", name: str = "a.jpg", attends: bool = False) -> ComparedImage:
    maps = np.full((len(text.split()), 3, 3), 1 / 9, np.float32) if attends else None
    captions = [Told("greedy", "a ball", -1.5, {"BLEU-1": 0.25}), Told("beam 3", text, -0.5, {"BLEU-1": 0.5}, maps)]
    pixels = np.full((32, 32, 3), 200, np.uint8) if attends else None
    return ComparedImage(name, thumb(), pixels, "", captions, ["one red ball"])


def of(*images: ComparedImage) -> Comparison:
    return Comparison("mine", ["greedy", "beam 3"], images, {"greedy": {"BLEU-1": 0.25}, "beam 3": {"BLEU-1": 0.5}})


def test_text_has_each_search_with_score_and_bleu_and_the_references() -> None:
    lines = str(of(compared(), ComparedImage("gone.jpg", error="not_found: no such file"))).splitlines()
    assert lines == [
        "a.jpg",
        "  greedy  −1.50  a ball  BLEU-1 25.0",
        "  beam 3  −0.50  a red ball  BLEU-1 50.0",
        "  reference: one red ball",
        "gone.jpg",
        "  no caption: not_found: no such file",
        "all images with references",
        "  greedy  BLEU-1 25.0",
        "  beam 3  BLEU-1 50.0",
    ]


def test_a_page_and_a_notebook_show_the_same_and_where_it_looked() -> None:
    comparison = of(compared(attends=True))
    for html in (comparison.page(), comparison._repr_html_()):
        text = re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))
        assert all(words in text for words in ("greedy", "beam 3", "a red ball", "−0.50", "50.0", "one red ball"))
        assert html.count("<img") == 1 + 3
        assert re.findall(r'<tr class="ck-best"><th scope="row">(.*?)</th>', html) == ["beam 3"]
    assert "<!doctype" not in comparison._repr_html_()


@pytest.mark.parametrize("words", HOSTILE)
def test_no_text_of_others_becomes_html(words: str) -> None:
    image = compared(words, words, attends=True)
    page = Page(of(image, ComparedImage(words, error=words)).page())
    plain = Page(of(compared("plain", "plain", attends=True), ComparedImage("plain", error="plain")).page())
    tags = sorted(tag for tag, _ in page.elements if tag not in ("img", "li"))  # one for each word
    assert tags == sorted(tag for tag, _ in plain.elements if tag not in ("img", "li"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_a_picture_grows_with_what_it_shows_and_takes_any_words() -> None:
    def height(*images: ComparedImage) -> int:
        return Image.open(io.BytesIO(of(*images).picture())).height

    one = height(compared("$x^{ $", "$\\frac$"))
    assert height(compared(), compared()) > 1.8 * one
    assert height(compared(attends=True)) > one
    with pytest.raises(UsageError, match="too many for one picture"):
        of(*[compared()] * (MOST_IN_PICTURE + 1)).picture()


def test_the_ending_says_what_is_written(tmp_path: Path) -> None:
    for ending, begin in (("html", b"<!doctype"), ("png", b"\x89PNG")):
        of(compared()).save(tmp_path / f"c.{ending}")
        assert (tmp_path / f"c.{ending}").read_bytes().startswith(begin)
    with pytest.raises(UsageError, match=r"c\.txt: a comparison is written as \.html"):
        of(compared()).save(tmp_path / "c.txt")
