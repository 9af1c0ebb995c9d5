"""Where a captioner looked, on the page for millions: what the server sends, and what a browser shows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from captionkit import Captioner
from captionkit.drawing.attention import in_light
from captionkit.errors import UsageError
from captionkit.gallery.attention_maps import maps_of_caption
from captionkit.images import Limits
from captionkit.review.server import ReviewServer
from captionkit.review.word_attention import SIDE, WordAttention, texts_before
from captionkit.scenes import draw, random_scene
from captionkit.table.table import CaptionTable, Footer, to_parquet
from tests.export.table import STORAGE
from tests.gallery.test_attention_maps import captioner
from tests.support.browser import CHROMIUM, Browser, chromium
from tests.support.table_rows import rows, write

Serve = Callable[..., ReviewServer]
CAPTION = "Archive: a red ball and tree"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle that attends."""
    uri = str(tmp_path_factory.mktemp("bundle") / "b")
    captioner("soft_attention").save(uri)
    return uri


@pytest.fixture
def table(tmp_path: Path, model: str) -> str:
    """Three rows: by the captioner, by another, and by it of a picture that is gone."""
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number in (0, 1):
        draw(random_scene(number), 96).save(files[number])
    name = Captioner.load(model).fingerprint
    made = rows(files, caption=CAPTION, model=name).drop_columns(["model"])
    made = made.add_column(10, "model", [[name, "ck-other", name]])
    columns = rows([]).schema.names[:13]
    footer = Footer(name, {"say_before": "Archive: "}, {})
    STORAGE.write(f"{tmp_path}/t/captions-r-0.parquet", to_parquet(made.select(columns), footer))
    return f"{tmp_path}/t"


def get(server: ReviewServer, path: str) -> bytes:
    with urlopen(server.url + path, timeout=60) as answer:
        return bytes(answer.read())


def test_each_word_has_a_picture_dark_where_the_captioner_did_not_look(table: str, model: str, serve: Serve) -> None:
    server = serve(table, model=(model,), order="table")
    assert json.loads(get(server, "facts"))["attends"]
    cards = json.loads(get(server, "rows"))["cards"]
    words = ["a", "red", "ball", "and", "tree"]
    assert [card["words"] for card in cards] == [words, None, words]
    seen = [Image.open(io.BytesIO(get(server, f"attention/0?word={number}"))) for number in range(5)]
    assert {picture.size for picture in seen} == {(SIDE, SIDE)}
    data = STORAGE.read(table.removesuffix("t") + "0.png")
    found = maps_of_caption(Captioner.load(model), data, words, Limits(), SIDE)
    for picture, weights in zip(seen, found.maps, strict=True):
        off = np.asarray(picture.convert("RGB"), int) - in_light(found.pixels, weights)
        assert np.abs(off).mean() < 4
    for path, code in (("attention/1", 400), ("attention/0?word=5", 404), ("attention/2", 404), ("attention/9", 404)):
        with pytest.raises(HTTPError) as error:
            get(server, path)
        assert error.value.code == code, path


def test_an_ensemble_s_captions_are_shown_by_all_its_bundles(tmp_path: Path, model: str, serve: Serve) -> None:
    other = str(tmp_path / "other")
    captioner("top_down").save(other)
    both = Captioner.load([model, other])
    picture = str(tmp_path / "0.png")
    draw(random_scene(0), 96).save(picture)
    write(tmp_path / "t", rows([picture], model=both.fingerprint, caption="a ball"))
    server = serve(str(tmp_path / "t"), model=(model, other))
    assert json.loads(get(server, "rows"))["cards"][0]["words"] == ["a", "ball"]
    assert Image.open(io.BytesIO(get(server, "attention/0?word=1"))).size == (SIDE, SIDE)
    assert (
        json.loads(get(serve(str(tmp_path / "t"), model=(model,), reviews="none"), "rows"))["cards"][0]["words"] is None
    )


def test_without_a_model_no_word_can_be_clicked(table: str, serve: Serve) -> None:
    server = serve(table)
    assert not json.loads(get(server, "facts"))["attends"]
    assert [card["words"] for card in json.loads(get(server, "rows"))["cards"]] == [None] * 3
    with pytest.raises(HTTPError, match="400"):
        get(server, "attention/0")


def test_what_was_said_before_is_no_word_of_the_captioner(table: str, model: str) -> None:
    speaker = Captioner.load(model)
    attention = WordAttention(speaker, texts_before(CaptionTable(table, STORAGE)))
    assert attention.words("Archive: a dog", speaker.fingerprint) == ["a", "dog"]
    assert attention.words("a dog", speaker.fingerprint) == ["a", "dog"]
    assert attention.words(None, speaker.fingerprint) is None
    assert attention.words("a dog", "input") is None
    with pytest.raises(UsageError, match="no attention to show"):
        WordAttention(captioner("show_tell"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        made.size(1100, 900)
        yield made


LARGE = "document.querySelector('#large[open] img')"
SHOWN = f"{LARGE}?.src.split('/').pop()"
PRESSED = "[...document.querySelectorAll('#large .word[aria-pressed=true]')].map((one) => one.textContent).join()"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_a_click_on_a_word_or_picture_shows_where_it_looked(
    table: str, model: str, serve: Serve, browser: Browser, tmp_path: Path
) -> None:
    browser.open(serve(table, model=(model,), order="table").url)
    browser.wait("document.querySelectorAll('#frames .word').length === 10")
    browser.wait("document.querySelector('#frames img')?.naturalWidth > 0")
    captions = "[...document.querySelectorAll('#frames .caption')].map((one) => one.textContent)"
    assert browser.evaluate(captions) == [CAPTION] * 3
    browser.evaluate("document.querySelectorAll('#frames .word')[2].click()")
    browser.wait(f"{SHOWN} === '0?word=2' && {LARGE}.naturalWidth === {SIDE}")
    assert browser.evaluate(PRESSED) == "ball"
    browser.screenshot(tmp_path / "attention.png")
    browser.press("ArrowRight")
    browser.wait(f"{SHOWN} === '0?word=3'")
    browser.evaluate("document.querySelectorAll('#large .word')[0].click()")
    browser.wait(f"{SHOWN} === '0?word=0'")
    assert browser.evaluate(PRESSED) == "a"
    browser.evaluate("document.querySelectorAll('#large .word')[0].click()")
    browser.wait(f"{SHOWN} === '0?side=large'")
    browser.press("Escape")
    browser.wait("!document.querySelector('#large').open")
    # By the picture, and by the keyboard; another captioner's caption has nothing to click.
    browser.evaluate("document.querySelector('#frames .picture').click()")
    browser.wait(f"{SHOWN} === '0?side=large'")
    browser.press("ArrowLeft")
    browser.wait(f"{SHOWN} === '0?word=4'")
    browser.press("Escape")
    browser.evaluate("document.querySelectorAll('#frames > li')[0].focus()")
    browser.press("w")
    browser.wait(f"{SHOWN} === '0?word=0'")
    browser.press("Escape")
    browser.evaluate("document.querySelectorAll('#frames > li')[1].focus()")
    browser.press("w")
    assert not browser.evaluate("document.querySelector('#large').open")
    browser.press(" ")
    browser.wait(f"{SHOWN} === '1?side=large'")
    assert browser.evaluate("document.querySelector('#large [data-attention]').hidden")
    assert [one for one in browser.problems if "404" not in one] == []
