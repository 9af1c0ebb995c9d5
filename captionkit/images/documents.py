"""Pages of PDF documents by PDFium (pypdfium2), drawn at the size that the model wants. No scripts are run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captionkit.images import frames, geometry
from captionkit.images.picture import Picture, Reserve, needs, unsupported
from captionkit.images.structure import cut_short, damaged
from captionkit.images.types import Preprocessing

_LOCK = threading.Lock()
"""PDFium is not to be used from two threads at once."""


def read(data: bytes, preprocessing: Preprocessing, reserve: Reserve, frame: str | int) -> Iterator[Picture]:
    """The page, or those among which is chosen. Their size is in points, 72 an inch.

    Raises ImageError.
    """
    with _opened(data) as document:
        for number in frames.chosen(_count(document), frame):
            yield _page(document, number, preprocessing, reserve)


def count(data: bytes) -> int:
    """How many pages there are. Raises ImageError."""
    with _opened(data) as document:
        return _count(document)


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    try:
        import pypdfium2
    except ImportError as error:
        raise needs("a PDF document", "pdf") from error
    if b"%%EOF" not in data[-2048:]:  # PDFium would show what is left
        raise cut_short("PDF document", data)
    try:
        with _LOCK:
            document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise unsupported("a PDF document with a password", "save it without one") from error
        raise damaged("PDF document", "its structure is broken") from error
    try:
        yield document
    except pypdfium2.PdfiumError as error:
        raise damaged("PDF document", "a page of it is broken") from error
    finally:
        with _LOCK:
            document.close()


def _count(document: Any) -> int:
    with _LOCK:
        count = len(document)
    if not count:
        raise damaged("PDF document", "there is no page in it")
    return count


def _page(document: Any, number: int, preprocessing: Preprocessing, reserve: Reserve) -> Picture:
    with _LOCK:
        width, height = document[number].get_size()
    if not (0 < width < 1e6 and 0 < height < 1e6):
        raise damaged("PDF document", "a page's width or height is 0")
    scale = geometry.target_side(preprocessing) / min(width, height)
    reserve(round(width * scale), round(height * scale))  # outside of the lock: it may have to wait
    with _LOCK:
        image = document[number].render(scale=scale).to_pil()
    stored = (max(1, round(width)), max(1, round(height)))
    return Picture(image, stored, scale=stored[0] / image.width)
