"""Pictures for the page: read, made small and kept for a while, a few at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from captionkit.drawing.thumbnails import small_webp
from captionkit.gallery.page import LIMITS, READERS

KEPT_BYTES = 64 * 2**20
SIDES = (320, 1280)
"""Longer sides that may be asked for: of a tile, and of the picture alone."""


class Pictures:
    """Small pictures by the address of the image. Safe to use from many threads.

    Args:
        read: returns an image's bytes by its address.
    """

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._slots = threading.BoundedSemaphore(READERS)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, uri: str, side: int) -> bytes:
        """A WebP picture.

        Raises whatever `read` raises, and ImageError where there is no image within the limits.
        """
        key = (uri, side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._slots:
            data = small_webp(self._read(uri), side, LIMITS)[0]
        with self._lock:
            if key not in self._kept:
                self._kept[key] = data
                self._bytes += len(data)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data
