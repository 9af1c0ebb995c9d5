"""The page in a real browser: what a reviewer sees, types and leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from captionkit.review.job import write_page
from captionkit.review.options import ReviewOptions
from captionkit.review.server import ReviewServer
from captionkit.table.reviews import Reviews, reviews_of
from tests.export.table import STORAGE, make_table
from tests.review.conftest import CAPTIONS, HOSTILE
from tests.support.browser import CHROMIUM, Browser, chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

Serve = Callable[..., ReviewServer]
TEXTS = "[...document.querySelectorAll('#frames > li > figure .caption')].map((one) => one.textContent)"
LOADED = "document.querySelector('#frames img')?.naturalWidth > 0"
SAVED = "document.getElementById('saving').textContent === 'saved'"


@pytest.fixture(scope="module")
def shared() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def browser(shared: Browser) -> Iterator[Browser]:
    """A browser of which no script complains."""
    shared.problems.clear()
    shared.size(1200, 800)
    yield shared
    shared.open("about:blank")
    assert [one for one in shared.problems if "404" not in one] == []


def count(browser: Browser) -> str:
    return str(browser.evaluate("document.getElementById('count').textContent"))


def test_a_table_is_reviewed_by_keyboard(table: str, serve: Serve, browser: Browser) -> None:
    server = serve(table, reviewer="ada")
    browser.open(server.url)
    browser.wait(LOADED)
    # The lowest score comes first; a failed row, which has none, last.
    assert browser.evaluate(TEXTS) == [
        "a tree",
        HOSTILE,
        "two cats",
        "a red boat",
        "a dog in the grass",
        "truncated: ends early",
    ]
    for key in ("a", "j", "r", "e"):
        browser.press(key)
    browser.type("a blue boat")
    browser.press("Enter")
    browser.wait(SAVED)
    browser.wait("document.querySelectorAll('.badge:not([hidden])').length === 3")
    assert "3 reviewed: 1 approved, 1 edited, 1 rejected" in browser.evaluate("document.body.innerText")
    assert browser.evaluate(TEXTS)[3] == "a blue boat"
    saved = Reviews(reviews_of(table), STORAGE)
    folder = Path(table).parent
    decided = [saved.get(str(folder / f"{number}.jpg")) for number in (5, 4, 2, 1)]
    assert [one and (one.decision, one.caption) for one in decided] == [
        ("approved", "a tree"),
        None,
        ("rejected", None),
        ("edited", "a blue boat"),
    ]
    browser.press("k")
    browser.press("u")
    browser.wait(SAVED)
    browser.wait("document.querySelectorAll('.badge:not([hidden])').length === 2")
    assert Reviews(saved.uri, STORAGE).get(str(folder / "1.jpg")) is None


def test_escape_leaves_a_caption_as_it_was(table: str, serve: Serve, browser: Browser) -> None:
    browser.open(serve(table).url)
    browser.wait(LOADED)
    browser.press("e")
    browser.type("never mind")
    browser.press("Escape")
    assert browser.evaluate(TEXTS)[0] == "a tree"
    assert browser.evaluate("document.querySelector('textarea')") is None


def test_a_failed_save_is_shown_and_the_decision_does_not_stay(
    table: str, serve: Serve, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(table)

    def full(self: Reviews) -> None:
        raise OSError("the disk is full")

    browser.open(server.url)
    browser.wait(LOADED)
    with monkeypatch.context() as broken:
        broken.setattr(Reviews, "save", full)
        browser.press("a")
        browser.wait("document.getElementById('saving').textContent.startsWith('NOT SAVED')")
    assert browser.evaluate("document.querySelectorAll('.badge:not([hidden])').length") == 0
    browser.problems.clear()
    browser.press("k")
    browser.press("a")
    browser.wait(SAVED)


def test_hostile_captions_are_shown_and_do_nothing(table: str, serve: Serve, browser: Browser) -> None:
    browser.open(serve(table).url)
    browser.wait(LOADED)
    assert HOSTILE in browser.evaluate(TEXTS)
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert browser.evaluate("document.querySelectorAll('#frames img[src=x]').length") == 0


def test_words_filters_and_orders_choose_rows(table: str, serve: Serve, browser: Browser) -> None:
    browser.open(serve(table).url)
    browser.wait(LOADED)
    browser.press("/")
    browser.type("DOG")
    browser.wait("document.getElementById('count').textContent === '1 of 6 rows'")
    assert browser.evaluate(TEXTS) == ["a dog in the grass"]
    set_to = (
        "(() => {{ const field = document.querySelector('[name={}]'); field.value = {!r}; "
        "field.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )
    browser.evaluate(set_to.format("words", ""))
    browser.evaluate(set_to.format("state", "failed"))
    browser.wait("document.querySelector('#frames .failed') && document.querySelectorAll('#frames > li').length === 1")
    browser.evaluate(set_to.format("state", ""))
    browser.evaluate(set_to.format("where", "length(caption) < 7"))
    browser.wait("document.querySelectorAll('#frames > li').length === 1 && !document.querySelector('#frames .failed')")
    browser.evaluate(set_to.format("where", "length(caption"))
    browser.wait("document.getElementById('count').textContent.includes('--where')")
    browser.problems.clear()  # the browser notes that the answer was a 400


def test_a_picture_that_is_gone_says_why_and_others_open_large(table: str, serve: Serve, browser: Browser) -> None:
    browser.open(serve(table).url)
    browser.wait(LOADED)
    browser.wait("document.querySelector('.missing')?.textContent.includes('there is nothing at this address')")
    browser.press("j")
    browser.press(" ")
    browser.wait("document.querySelector('#large[open] img')?.naturalWidth > 0")
    browser.press(" ")
    browser.wait("!document.querySelector('#large[open]')")


def test_long_tables_come_page_by_page(tmp_path: Path, serve: Serve, browser: Browser) -> None:
    table = make_table(tmp_path / "long", {f"/p/{number:04}.jpg": f"caption {number}" for number in range(300)}).uri
    browser.open(serve(table, order="table", reviews="none").url)
    browser.wait("document.querySelectorAll('#frames > li').length >= 40")
    assert browser.evaluate("document.querySelectorAll('#frames > li').length") < 300
    browser.wait("scrollTo(0, document.body.scrollHeight), document.querySelectorAll('#frames > li').length === 300")
    assert browser.evaluate(TEXTS) == [f"caption {number}" for number in range(300)]
    assert (
        browser.evaluate("document.querySelectorAll('#frames [data-do=approve]:not([hidden])')[0].offsetParent") is None
    )


def test_two_models_stand_side_by_side_with_what_differs(
    table: str, tmp_path: Path, serve: Serve, browser: Browser
) -> None:
    folder = tmp_path
    others = {str(folder / "0.jpg"): "a cat in the grass", str(folder / "1.jpg"): CAPTIONS[1]}
    against = make_table(tmp_path / "other", others).uri
    browser.open(serve(table, order="table", against=against).url)
    browser.wait(LOADED)
    marked = "[...document.querySelectorAll('#frames > li:first-child mark')].map((one) => one.textContent)"
    assert browser.evaluate(marked) == ["dog", "cat"]
    assert browser.evaluate("document.querySelectorAll('#frames > li:nth-child(2) mark').length") == 0
    browser.evaluate("document.querySelector('[name=differs]').click()")
    browser.wait("document.getElementById('count').textContent === '1 of 6 rows'")


def test_the_page_that_stands_for_itself_is_shown(table: str, tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "page.html"
    assert write_page(ReviewOptions(table, output=str(page), limit=3), STORAGE) == 3
    browser.open(page.as_uri())
    browser.wait("document.readyState === 'complete'")
    assert sorted(browser.evaluate(TEXTS.replace("#frames > li > figure", "#frames"))) == sorted(
        ["a tree", HOSTILE, "two cats"]
    )
