"""The contact sheet: safe whatever the table says, the same for the same table, honest about what it leaves out."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionkit.drawing.formatting import address, figure, moments, number, one_line, share
from captionkit.gallery import render_gallery, write_gallery
from captionkit.gallery.survey import FAILURES_PER_KIND, MAX_NAMES, survey

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script src=https://evil.example/x.js></script>",
    "</title></style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "' onfocus='alert(1)' autofocus='",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "<iframe src='//evil.example'></iframe>",
    "<svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}<b>&lt;i&gt;</b>",
    "<!--",
    "]]>",
]


class Page(HTMLParser):
    """A page as a browser takes it in: its elements with their attributes, its text, its own script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.inline: dict[str, str] = {}
        self._within = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.inline[self._within] = self.inline.get(self._within, "") + data
        else:
            self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] or "" for element, attrs in self.elements if element == tag and name in attrs]

    def policy(self) -> dict[str, str]:
        [content] = [
            attrs["content"] for _, attrs in self.elements if attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        assert content is not None
        return {name: rest.strip() for name, _, rest in (part.strip().partition(" ") for part in content.split(";"))}


def picture(width: int = 40, height: int = 30, colour: str = "teal") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "JPEG")
    return file.getvalue()


PICTURE = picture()


def read(uri: str) -> bytes:
    return PICTURE


def captioned(index: int = 0, **values: Any) -> dict[str, Any]:
    return {
        "uri": f"s3://archive/{index:04}.jpg",
        "image_id": index,
        "status": "captioned",
        "caption": f"a dog number {index}",
        "score": -0.5,
        "alternatives": [],
        "width": 40,
        "height": 30,
        "error_kind": None,
        "error": None,
        "model": "m1",
        "run_id": "r1",
        "captioned_at": datetime(2026, 11, 21, 22, 10, tzinfo=timezone.utc),
        **values,
    }


def failed(index: int, kind: str = "not_found", error: str = "no such object", **values: Any) -> dict[str, Any]:
    return captioned(
        index, status="failed", caption=None, score=None, alternatives=None, error_kind=kind, error=error, **values
    )


def render(rows: Any, **options: Any) -> str:
    return render_gallery(rows, options.pop("read", read), **{"title": "Night", "summary": {}, **options})


def names(page: Page) -> list[str]:
    """The pictures on the page, by the name each has."""
    return page.attributes("img", "alt")


def assert_harmless(html: str) -> Page:
    """Nothing on the page runs, loads or leads anywhere but its own."""
    page = Page(html)
    for tag, attrs in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "link", "audio", "video"), tag
        assert not [name for name in attrs if name.startswith("on") or name in ("style", "srcset", "srcdoc", "action")]
        assert (attrs.get("src") or "data:image/webp;base64,").startswith("data:image/webp;base64,")
        for name in ("href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
    assert [attrs for tag, attrs in page.elements if tag == "script"] == [{}]
    assert [attrs for tag, attrs in page.elements if tag == "style"] == [{}]
    assert not re.search(r"url\(|@import|https?:", page.inline["style"])
    assert not re.search(r"https?:|fetch\(|import\(|innerHTML|\beval\(", page.inline["script"])
    return page


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_shown_and_does_nothing(hostile: str) -> None:
    plain = Page(render([captioned(alternatives=[{"caption": "a", "score": -1.0}]), failed(1)]))
    html = render(
        [
            captioned(uri=hostile, caption=hostile, model=hostile, run_id=hostile)
            | {"alternatives": [{"caption": hostile, "score": -1.0}]},
            failed(1, kind=hostile, error=hostile, uri=f"s3://archive/{hostile}"),
        ],
        title=hostile,
        summary={hostile: hostile, "table": [hostile]},
    )
    page = assert_harmless(html)
    count = page.text.count(" ".join(hostile.split()))
    assert count >= 4, "the caption, the alternative, the kind and the reason are shown as they are"
    assert [tag for tag, _ in page.elements if tag in ("b", "i", "img", "script")] == [
        tag for tag, _ in plain.elements if tag in ("b", "i", "img", "script")
    ]


def test_hostile_reasons_of_read_are_shown_and_do_nothing() -> None:
    def bad(uri: str) -> bytes:
        raise OSError(HOSTILE[1])

    page = assert_harmless(render([captioned()], read=bad))
    assert f"No picture: {HOSTILE[1]}" in page.text


def test_the_policy_lets_the_pages_own_script_and_style_run_and_nothing_else() -> None:
    page = assert_harmless(render([captioned(), failed(1)]))
    policy = page.policy()
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inline[kind].encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    assert policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in str(policy)


def test_the_policy_comes_before_anything_it_is_to_hold() -> None:
    elements = [tag for tag, _ in Page(render([captioned()])).elements]
    assert elements[:4] == ["html", "head", "meta", "meta"]
    assert elements.index("style") > 3


def test_credentials_and_reordered_text_do_not_reach_the_page() -> None:
    html = render([captioned(uri="https://user:hunter2@host.example/\u202egpj.exe", caption="a\x00b\ud800c")])
    assert "hunter2" not in html
    assert "\u202e" not in html
    html.encode()
    assert "a\ufffdb?c" in html


def test_pictures_are_small_upright_and_inside_the_page() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "secret place"  # orientation: a quarter turn; description
    Image.new("RGB", (80, 40), "teal").save(file, "JPEG", exif=exif)
    page = Page(render([captioned()], read=lambda uri: file.getvalue(), thumb=32))
    [source] = page.attributes("img", "src")
    data = base64.b64decode(source.removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(data)) as small:
        assert (small.format, small.size) == ("WEBP", (16, 32))
    assert b"secret place" not in data
    assert (page.attributes("img", "width"), page.attributes("img", "height")) == (["16"], ["32"])


def test_small_pictures_are_not_enlarged() -> None:
    page = Page(render([captioned()], read=lambda uri: picture(20, 10), thumb=256))
    assert (page.attributes("img", "width"), page.attributes("img", "height")) == (["20"], ["10"])


@pytest.mark.parametrize(
    "error", [OSError("gone"), KeyError(), ValueError(""), MemoryError(), RuntimeError("é" * 9999)]
)
def test_a_picture_that_cannot_be_read_costs_only_itself(error: Exception) -> None:
    def sometimes(uri: str) -> bytes:
        if uri.endswith("0001.jpg"):
            raise error
        return PICTURE

    page = Page(render([captioned(index) for index in range(3)], read=sometimes))
    assert names(page) == ["0000.jpg", "0002.jpg"]
    assert "a dog number 1" in page.text
    assert page.text.count("No picture: ") == 1
    assert str(error)[:100] in page.text or type(error).__name__ in page.text
    assert len(page.text) < 5000


@pytest.mark.parametrize("data", [b"", b"no picture", PICTURE[: len(PICTURE) // 4], None])
def test_bytes_that_are_no_picture_get_a_placeholder(data: Any) -> None:
    page = Page(render([captioned()], read=lambda uri: data))
    assert names(page) == []
    assert "No picture: " in page.text


def test_the_same_table_gives_the_same_page_in_any_order() -> None:
    rows = [captioned(index, model=f"m{index % 2}") for index in range(50)] + [failed(index) for index in range(50, 80)]
    page = render(rows, limit=7)
    assert render(rows, limit=7) == page
    assert render(rows[::-1], limit=7) == page


def test_a_large_table_is_sampled_and_the_page_says_so() -> None:
    rows = [captioned(index) for index in range(1000)]
    page = Page(render(rows, limit=20))
    shown = names(page)
    assert len(shown) == 20
    assert shown == sorted(shown)
    assert "20 of 1,000 captioned images" in page.text
    # Spread: the chance that twenty fair draws all miss one half of the table is one in half a million.
    assert shown[0] < "0500.jpg" <= shown[-1]


def test_a_growing_table_keeps_most_of_its_sample() -> None:
    before = set(names(Page(render([captioned(index) for index in range(500)], limit=20))))
    after = set(names(Page(render([captioned(index) for index in range(550)], limit=20))))
    assert len(before & after) >= 12


def test_only_sampled_pictures_are_read() -> None:
    asked: list[str] = []

    def counting(uri: str) -> bytes:
        asked.append(uri)
        return PICTURE

    render([captioned(index) for index in range(100)] + [failed(100)], read=counting, limit=5)
    assert len(asked) == len(set(asked)) == 5


def test_a_table_that_fits_is_shown_whole() -> None:
    page = Page(render([captioned(index) for index in range(12)], limit=12))
    assert len(names(page)) == 12
    assert "All 12 captioned images" in page.text


def test_no_pictures_may_be_asked_for() -> None:
    page = Page(render([captioned()], limit=0))
    assert names(page) == []
    assert "No pictures were asked for." in page.text


def test_failures_stand_by_kind_with_counts_most_frequent_first() -> None:
    rows = [failed(index, "not_found") for index in range(3)]
    rows += [failed(index, "corrupt", f"broken at byte {index}") for index in range(100, 1300)]
    rows += [failed(2000, "", "who knows"), captioned(3000)]
    text = Page(render(rows)).text
    failures = text[text.index("Failures") :]
    assert re.search(r"1,204 images, >?99\.9 % of the table", failures)
    assert failures.index("corrupt 1,200") < failures.index("not_found 3") < failures.index("unknown 1")
    assert f"{FAILURES_PER_KIND} of them shown" in failures
    assert failures.count("broken at byte") == FAILURES_PER_KIND
    assert failures.count("no such object") == 3


def test_without_failures_there_is_no_section_for_them() -> None:
    page = Page(render([captioned()]))
    assert "failures" not in page.attributes("section", "id")


def test_any_number_of_kinds_stays_a_page() -> None:
    found = survey((failed(index, f"kind{index}") for index in range(10 * MAX_NAMES)), 10)
    assert len(found.failures) == MAX_NAMES + 1
    assert (found.failures[0].name, sum(kind.count for kind in found.failures)) == ("other", 10 * MAX_NAMES)


def test_an_empty_table_is_a_page_too() -> None:
    page = assert_harmless(render([]))
    assert "No image in this table has a caption." in page.text
    assert "nan" not in page.text.lower()


def test_rows_may_come_from_a_generator() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from (captioned(index) for index in range(30))

    assert render(rows(), limit=5) == render(list(rows()), limit=5)


def test_odd_values_of_a_strangers_table_do_not_break_the_page() -> None:
    odd: list[Any] = [
        None,
        float("nan"),
        "",
        "text",
        7,
        -3.5,
        True,
        [None],
        ["a"],
        [{"caption": None}],
        {"a": 1},
        b"\xff",
    ]
    rows: list[dict[str, Any]] = [{}, {"status": "captioned"}]
    columns = [column for column in captioned() if column != "status"]
    rows += [
        captioned(index, **{column: value}) for index, (column, value) in enumerate(itertools.product(columns, odd))
    ]
    page = assert_harmless(render(rows, limit=1000))
    assert len(names(page)) == len(rows) - 1


def test_a_table_read_by_pandas_is_shown() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([captioned(0, captioned_at=None), failed(1), captioned(2)])
    page = Page(render(frame.to_dict("records")))
    assert names(page) == ["0000.jpg", "0002.jpg"]
    assert "21 Nov 2026, 22:10 UTC" in page.text


def test_the_header_says_what_the_table_and_the_summary_say() -> None:
    rows = [captioned(0, score=-0.25), captioned(1, score=-2.0, run_id="r2"), failed(2)]
    text = Page(
        render(rows, summary={"images_per_second": 412.4, "captioned": 2, "failed": 7, "seconds_asleep": 3})
    ).text
    assert "captioned 2 failed 1 33.3 %" in text
    assert "images per second 412" in text
    assert "model m1" in text
    assert "run r1, r2" in text
    assert "failed in this run 7" in text
    assert "captioned in this run" not in text
    assert "seconds asleep 3" in text


def test_alternatives_and_scores_stand_with_their_caption() -> None:
    others = [{"caption": "a cat", "score": -1.25}, {"caption": "", "score": float("nan")}]
    page = Page(render([captioned(alternatives=others)]))
    assert "2 alternatives a cat −1.25 (no words) –" in page.text
    assert page.attributes("li", "data-score") == ["-0.5"]


def test_captions_that_were_replaced_come_first_with_what_they_were() -> None:
    rows = [captioned(index) for index in range(20)]
    rows[7]["before"] = {"caption": "<b>what it was</b>", "score": -2.5}
    html = render(rows, limit=3)
    assert_harmless(html)
    assert html.count('class="before"') == 1
    assert "&lt;b&gt;what it was&lt;/b&gt;" in html
    assert "1 are shown" in html


@pytest.mark.parametrize("options", [{"limit": -1}, {"thumb": 15}])
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        render([], **options)


def test_the_page_is_written_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [captioned(caption="ein schöner Hund")]
    for out in (tmp_path / "page.html", "relative.html", tmp_path.joinpath("new", "folder", "page.html").as_uri()):
        write_gallery(rows, read, out, title="Night", summary={})
    pages = [tmp_path / "page.html", tmp_path / "relative.html", tmp_path / "new/folder/page.html"]
    assert {page.read_text("utf-8") for page in pages} == {render(rows)}


def test_a_given_write_gets_the_whole_page() -> None:
    written: dict[str, bytes] = {}
    write_gallery([], read, "s3://b/page.html", title="Night", summary={}, write=written.__setitem__)
    assert written == {"s3://b/page.html": render([]).encode()}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_000_000, "1,000,000"),
        (-1200, "−1,200"),
        (412.4, "412"),
        (6.254, "6.25"),
        (-0.5, "−0.5"),
        (float("inf"), "–"),
    ],
)
def test_numbers_read_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


def test_shares_are_never_rounded_to_all_or_nothing() -> None:
    assert [
        share(*parts) for parts in ((0, 5), (5, 5), (1, 10**6), (10**6 - 1, 10**6), (13, 10**4), (1, 3), (0, 0))
    ] == [
        "0 %",
        "100 %",
        "<0.01 %",
        ">99.9 %",
        "0.13 %",
        "33.3 %",
        "0 %",
    ]


def test_moments_say_no_more_than_they_must() -> None:
    start = datetime(2026, 11, 21, 22, 10, tzinfo=timezone.utc)
    assert moments(start, start) == "21 Nov 2026, 22:10 UTC"
    assert moments(start, start.replace(hour=23)) == "21 Nov 2026, 22:10–23:10 UTC"
    assert moments(start, start.replace(day=22, hour=5)) == "21 Nov 2026, 22:10 – 22 Nov 2026, 05:10 UTC"


def test_figures_of_any_kind_become_text() -> None:
    value = {"beam": 5, "open": True, "rates": [1.5, None], "where": "s3://a"}
    assert figure(value) == "beam 5, open yes, rates 1.5, –, where s3://a"


def test_texts_are_cut_and_addresses_split() -> None:
    assert one_line("a \n\t b" + "x" * 10**6, 10) == "a bxxxxxx…"
    assert address("s3://a/b/c.jpg") == ("s3://a/b/", "c.jpg")
    assert address("c.jpg") == ("", "c.jpg")
