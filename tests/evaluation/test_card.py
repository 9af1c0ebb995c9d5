"""The score card: every figure, what is missing and why, and nothing that a caption could break."""

from __future__ import annotations

import json
import math

from captionkit.evaluation.card import Decoding, ScoreCard
from captionkit.evaluation.published import FLICKR8K
from captionkit.metrics import METRICS, Scores, Usage

USAGE = Usage(captions=2, mean_length=2.5, shortest=2, longest=3, vocabulary=4, distinct=0.5, novel=None)


def make_card(**changes: object) -> ScoreCard:
    scores = Scores(
        corpus={"BLEU-4": 0.1234, "CIDEr-D": 1.2346, "SPICE": math.nan},
        images={
            "/a.jpg": {"BLEU-4": 0.25, "CIDEr-D": 2.0, "SPICE": math.nan},
            "/b.jpg": {"BLEU-4": 0, "CIDEr-D": 0.469},
        },
        absent={"METEOR": "Java is missing (no `java` on the PATH)"},
    )
    captions = {"/a.jpg": "a dog | runs", "/b.jpg": ""}
    values: dict[str, object] = {
        "title": "s3://models/x",
        "facts": {"corpus": "captions|1.jsonl"},
        "decodings": [Decoding("greedy", captions, scores, USAGE, 0.0042), Decoding("beam 3", captions, scores, USAGE)],
        "references": {"/a.jpg": ["one dog"], "/b.jpg": ["a cat", "eine Straße"]},
        "reference_usage": USAGE,
    }
    return ScoreCard(**{**values, **changes})  # type: ignore[arg-type]


def rows(markdown: str) -> dict[str, list[str]]:
    """Table rows by their first cell."""
    cells = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    return {first: rest for first, *rest in cells}


def test_the_card_shows_each_decoding_beside_published_figures() -> None:
    markdown = make_card().to_markdown()
    assert "- METEOR is absent: Java is missing (no \\`java\\` on the PATH)." in markdown
    assert "Not comparable" not in markdown
    assert "no caption" not in markdown
    assert "- corpus: captions\\|1.jsonl" in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("| greedy")]
    assert lines[0].split(" | ")[1:] == ["12.3", "–", "123.5", "– |"]
    assert lines[1].split(" | ")[1:] == ["2.5", "2", "3", "4", "50.0 %", "–", "4.2 ms |"]
    published = rows(markdown)
    assert published["merge, VGG16"][:4] == ["17.8", "–", "46.9", "–"]
    assert published["hard attention"][0] == "21.3"
    assert published["references"][-1] == "–"


def test_published_figures_are_those_of_the_papers() -> None:
    figures = {paper.name: list(paper.figures.values()) for paper in FLICKR8K}
    assert figures == {
        "Google NIC": [63, 41, 27],
        "soft attention": [19.5],
        "hard attention": [21.3],
        "init-inject, VGG16": [19.1, 48.1],
        "merge, VGG16": [17.8, 46.9],
    }
    assert all(set(paper.figures) <= set(METRICS) for paper in FLICKR8K)


def test_the_card_says_what_it_is_not() -> None:
    scores = Scores({"BLEU-4": 0.1}, {"/a.jpg": {"BLEU-4": 0.1}, "/b.jpg": {"BLEU-4": 0.1}}, {}, "words", "no Java")
    decoding = Decoding("table", {"/a.jpg": "", "/b.jpg": ""}, scores, USAGE)
    markdown = make_card(decodings=[decoding], missing={"/b.jpg": "truncated: *cut*"}).to_markdown()
    assert "**Not comparable with published figures**: no Java." in markdown
    assert "**1 of 2 images have no caption, and count as empty ones**: /b.jpg (truncated: \\*cut\\*)." in markdown
    many = make_card(decodings=[decoding], missing={f"/{number}.jpg": "gone" for number in range(7)}).to_markdown()
    assert "/4.jpg (gone), and 2 more." in many


def test_the_json_card_holds_every_image_and_is_json() -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    card = json.loads(make_card(missing={"/b.jpg": "why"}).to_json(), parse_constant=refuse)
    assert card["scores"]["beam 3"] == {"BLEU-4": 12.34, "CIDEr-D": 123.46, "SPICE": None}
    assert card["absent"]["METEOR"].startswith("Java is missing")
    assert card["missing"] == {"/b.jpg": "why"}
    assert card["seconds_per_image"] == {"greedy": 0.0042, "beam 3": None}
    assert card["usage"]["people"]["vocabulary"] == 4
    assert len(card["published"]) == len(FLICKR8K)
    assert card["images"]["/b.jpg"]["references"] == ["a cat", "eine Straße"]
    assert card["images"]["/b.jpg"]["captions"]["greedy"] == {"caption": "", "BLEU-4": 0, "CIDEr-D": 46.9}


def test_an_address_that_is_not_utf8_does_not_stop_the_card() -> None:
    scores = Scores({}, {"/\udcff.jpg": {}})
    decoding = Decoding("table", {"/\udcff.jpg": "a"}, scores, USAGE)
    card = make_card(decodings=[decoding], references={"/\udcff.jpg": ["a"]}, missing={"/\udcff.jpg": "x"})
    assert card.to_markdown().encode()
    assert json.loads(card.to_json().encode("utf-8", "backslashreplace"))["images"].keys() == {"/\udcff.jpg"}
