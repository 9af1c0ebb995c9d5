"""A caption table as a contact sheet: one HTML file with pictures, captions, scores and failures.

from captionkit.gallery import write_gallery
write_gallery(rows, storage.read, "captions.html", title="Night of 21 November", summary={})
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from captionkit.gallery.page import render_gallery
from captionkit.storage import Storage

__all__ = ["render_gallery", "write_gallery"]


def write_gallery(
    rows: Iterable[Mapping[str, Any]],
    read: Callable[[str], bytes],
    out: str | os.PathLike[str],
    *,
    title: str,
    summary: Mapping[str, Any],
    limit: int = 200,
    thumb: int = 256,
    write: Callable[[str, bytes], None] | None = None,
) -> None:
    """Render a caption table with `render_gallery`, and write the page to `out`, whole or not at all.

    Args:
        out: where the page goes: a path, or any address that storage knows.
        write: puts bytes at an address; `Storage().write` if not given.

    The rest, and what is raised for bad values, is `render_gallery`'s.

    Raises:
        StorageError: the page could not be written.
    """
    page = render_gallery(rows, read, title=title, summary=summary, limit=limit, thumb=thumb)
    (write or Storage().write)(os.fspath(out), page.encode())
