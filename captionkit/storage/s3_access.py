"""One object denied, or all of them? A 403 says neither."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

DENIED_LIMIT = 100
"""Objects of a bucket denied, and none given, after which it counts as closed where its keys cannot be listed."""


class Access:
    """What each bucket has given and denied to this process."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._closed: set[str] = set()
        self._denied: Counter[str] = Counter()
        self._lock = threading.Lock()

    def given(self, bucket: str) -> None:
        """An object of this bucket could be read."""
        if bucket not in self._open:  # asked at each read: without the lock
            with self._lock:
                self._open.add(bucket)
                self._closed.discard(bucket)

    def closed(self, bucket: str, ask: Callable[[], bool | None]) -> bool:
        """One more object was denied: whether all of them are.

        ask: whether any other object can be read, None where that cannot be found out. Called once for a bucket, as
        long as it answers so.
        """
        with self._lock:
            if bucket in self._open or bucket in self._closed:
                return bucket in self._closed
            self._denied[bucket] += 1
            if self._denied[bucket] == 1:
                others = ask()
                if others is not None:
                    (self._open if others else self._closed).add(bucket)
            elif self._denied[bucket] >= DENIED_LIMIT:
                self._closed.add(bucket)
            return bucket in self._closed
