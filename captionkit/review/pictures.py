"""Pictures for the page: read, made small and kept for a while, a few at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType

from captionkit.drawing.thumbnails import small_webp
from captionkit.gallery.page import LIMITS, READERS
from captionkit.images import Limits
from captionkit.inputs.kinds import limits_of

KEPT_BYTES = 64 * 2**20
SIDES = (320, 1280)
"""Longer sides that may be asked for: of a tile, and of the picture alone."""


class Pictures:
    """Small pictures by the address of the image. Safe to use from many threads.

    Args:
        read: returns an image's bytes by its address.
        frames: which frame of an image with several a run has captioned (`captionkit.table.runs.frames_of`).
    """

    def __init__(self, read: Callable[[str], bytes], frames: Mapping[str, str] = MappingProxyType({})) -> None:
        self.read, self._frames = read, frames
        self._slots = threading.BoundedSemaphore(READERS)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, str], bytes] = OrderedDict()
        self._bytes = 0

    def limits(self, uri: str, run_id: str = "") -> Limits:
        """The limits for an image, with the frame of it that a run has captioned."""
        return limits_of(uri, LIMITS, self._frames.get(run_id, ""))

    def get(self, uri: str, side: int, run_id: str = "") -> bytes:
        """A WebP picture, of the frame that this run has captioned.

        Raises whatever `read` raises, and ImageError where there is no image within the limits.
        """
        key = (uri, side, self._frames.get(run_id, ""))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._slots:
            data = small_webp(self.read(uri), side, self.limits(uri, run_id))[0]
        with self._lock:
            if key not in self._kept:
                self._kept[key] = data
                self._bytes += len(data)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data
