"""A caption table as a page: one HTML file with pictures, captions, scores and failures.

from captionkit.gallery import write_gallery
write_gallery(rows, storage.read, "captions.html", title="Night of 21 November", summary={})
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
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
    frames: Mapping[str, str] = MappingProxyType({}),
    write: Callable[[str, bytes], None] | None = None,
) -> None:
    """Render a caption table with `render_gallery`, and write the page to `out` atomically.

    Args:
        out: a path, or any address that `Storage` can write to.
        write: writes bytes to an address. Default: `Storage().write`.

    The other arguments and errors are those of `render_gallery`.

    Raises:
        StorageError: the page could not be written.
    """
    page = render_gallery(rows, read, title=title, summary=summary, limit=limit, thumb=thumb, frames=frames)
    (write or Storage().write)(os.fspath(out), page.encode())
