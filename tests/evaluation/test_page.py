"""The page: the right images, safe whatever the captions contain, without external files."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Mapping

import numpy as np
from PIL import Image

from captionkit.evaluation.card import Decoding, ScoreCard
from captionkit.evaluation.page import choose, render_page
from captionkit.metrics import Scores, Usage

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(1)>"
USAGE = Usage(captions=1, mean_length=1, shortest=1, longest=1, vocabulary=1, distinct=1, novel=1)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "JPEG")
    return file.getvalue()


def make_decoding(name: str, cider: Mapping[str, float], caption: str = "a dog", measure: str = "CIDEr-D") -> Decoding:
    scores = Scores({measure: sum(cider.values()) / len(cider)}, {image: {measure: v} for image, v in cider.items()})
    return Decoding(name, {image: f"{caption} {image}" for image in cider}, scores, USAGE)


def make_card(*decodings: Decoding, reference: str = "one dog") -> ScoreCard:
    return ScoreCard(
        "title", {"corpus": "here"}, decodings, {image: [reference] for image in decodings[0].captions}, USAGE
    )


def titles(html: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(\w+) ", html)


def test_best_and_worst_are_of_the_best_decoding_and_never_the_same_image() -> None:
    figures = {f"/{name}.jpg": value for name, value in zip("abcde", [0.1, 0.5, 0.3, 0.9, 0.7], strict=True)}
    card = make_card(make_decoding("greedy", dict.fromkeys(figures, 0.2)), make_decoding("beam 3", figures))
    assert choose(card, card.decodings[1], "CIDEr-D", 2) == {
        "Best": ["/d.jpg", "/e.jpg"],
        "Worst": ["/a.jpg", "/c.jpg"],
        "Random": choose(card, card.decodings[0], "CIDEr-D", 2)["Random"],
    }
    everything = choose(card, card.decodings[1], "CIDEr-D", 99)
    assert sorted([*everything["Best"], *everything["Worst"]]) == sorted(figures) == sorted(everything["Random"])
    html = render_page(card, lambda _: picture(), 2)
    assert titles(html) == ["Best", "Worst", "Random"]
    assert html.index("a dog /d.jpg") < html.index("a dog /a.jpg")
    assert "Captions are those of beam 3" in html
    assert "CIDEr-D 90.0" in html
    assert html == render_page(card, lambda _: picture(), 2)


def test_hostile_texts_stay_texts() -> None:
    decoding = make_decoding(HOSTILE, {f"/{HOSTILE}.jpg": 0.5}, HOSTILE)
    other = make_decoding("other", {f"/{HOSTILE}.jpg": 0.1}, HOSTILE + "2")
    card = ScoreCard(
        HOSTILE, {HOSTILE: HOSTILE}, [decoding, other], {f"/{HOSTILE}.jpg": [HOSTILE]}, USAGE, {HOSTILE: HOSTILE}
    )

    def read(uri: str) -> bytes:
        raise OSError(HOSTILE)

    html = render_page(card, read, 1)
    assert "<script" not in html
    assert "onerror=alert(1)>" not in html
    assert html.count("</style>") == 1


def test_the_page_is_whole_and_its_policy_lets_in_just_its_own_style() -> None:
    html = render_page(make_card(make_decoding("table", {"/a.jpg": 0.5})), lambda _: picture(), 3)
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.replace("&#39;", "'").startswith(f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'")
    assert all(source.startswith("data:image/webp;base64,") for source in re.findall(r'<img src="([^"]*)"', html))
    assert "http://" not in html
    assert "https://" not in html


def test_a_picture_that_cannot_be_shown_says_why_and_costs_no_other() -> None:
    def read(uri: str) -> bytes:
        if uri == "/b.jpg":
            raise OSError("the disk is gone")
        return picture()

    html = render_page(make_card(make_decoding("table", {"/a.jpg": 0.5, "/b.jpg": 0.1})), read, 3)
    assert "No picture: the disk is gone" in html
    assert "data:image/webp" in html


def test_without_figures_the_page_shows_random_pictures() -> None:
    decoding = Decoding("table", {"/a.jpg": ""}, Scores({}, {"/a.jpg": {}}, {"METEOR": "no Java"}), USAGE)
    html = render_page(make_card(decoding), lambda _: picture(), 3)
    assert titles(html) == ["Random"]
    assert "(no caption)" in html
    assert "METEOR is absent" in html


def test_figures_that_are_no_numbers_rank_last() -> None:
    decoding = make_decoding("table", {"/a.jpg": math.nan, "/b.jpg": 0.0, "/c.jpg": 0.1}, measure="SPICE")
    assert choose(make_card(decoding), decoding, "SPICE", 1) | {"Random": []} == {
        "Best": ["/c.jpg"],
        "Worst": ["/a.jpg"],
        "Random": [],
    }


def test_the_frame_that_was_captioned_is_shown() -> None:
    pages = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    data = io.BytesIO()
    pages[0].save(data, "TIFF", save_all=True, append_images=pages[1:])
    figures = {"/a.tif": 0.5, "/b.tif": 0.4, "/c.tif#page=3": 0.3}
    html = render_page(
        make_card(make_decoding("table", figures)), lambda _: data.getvalue(), 3, frames={"/b.tif": "middle"}
    )
    shown = {re.search(r">([^<]+[.]tif[^<]*)<", part)[1]: part for part in html.split("<figure")[1:]}  # type: ignore[index]
    found = {}
    for name, part in shown.items():
        picture = base64.b64decode(re.findall(r"base64,([A-Za-z0-9+/=]+)", part)[0])
        found[name.rpartition("/")[2]] = int(np.argmax(Image.open(io.BytesIO(picture)).convert("RGB").getpixel((9, 9))))
    assert found == {"a.tif": 0, "b.tif": 1, "c.tif#page=3": 2}
