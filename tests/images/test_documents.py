"""PDF by PDFium; the file is cairo's."""

from __future__ import annotations

import sys

import pytest

from captionkit.images import ImageError, Limits, Preprocessing, decode
from tests.support.image_files import stored

SQUARE = Preprocessing(size=40, resize=40, mode="squash")
PDF = stored("two-pages.pdf")


def test_pages() -> None:
    """The first: red and white. The second: green and blue with a white disc."""
    pytest.importorskip("pypdfium2")
    colours = {}
    for frame in ("first", "middle", "best"):
        page = decode(PDF, SQUARE, Limits(frame=frame))
        assert (page.width, page.height) == (45, 30)  # points
        colours[frame] = page.pixels[3, 10].tolist()
    assert colours == {"first": [204, 0, 0], "middle": [0, 170, 0], "best": [0, 170, 0]}


def test_what_is_said_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypdfium2")
    for data, kind in ((PDF[:-200], "truncated"), (b"%PDF-1.7\n" + bytes(500) + b"%%EOF", "corrupt")):
        with pytest.raises(ImageError) as caught:
            decode(data, SQUARE)
        assert caught.value.kind == kind
    with pytest.raises(ImageError) as caught:
        decode(PDF, SQUARE, Limits(max_pixels=1000))
    assert caught.value.kind == "too_many_pixels"
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(ImageError, match=r"a PDF document is read with an extra: pip install 'captionkit\[pdf\]'"):
        decode(PDF, SQUARE)
