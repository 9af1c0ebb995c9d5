"""Reading in parts: bodies that go on where a connection broke, and files of which only what is read is fetched."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from fsspec.caching import ReadAheadCache

from captionkit.storage.errors import Explain, StorageError, explained, failure
from captionkit.storage.retrying import Retries

T = TypeVar("T")

SLOWEST = 1000
"""Bytes a second; what comes slower, over as long as one waits for an answer, counts as not coming."""


class Changed(Exception):
    """The object is another one than that of which parts are here already."""


class Body:
    """The bytes of an object from `start` to before `end` (None: its end), received in one or several answers.

    version: of the object that is meant, "" for whichever there is.
    """

    def __init__(self, start: int = 0, end: int | None = None, version: str = "", patience: float = 60.0) -> None:
        self.start, self.end, self.version = start, end, version
        self.data = bytearray()
        self._fixed = bool(version)
        self._skip = 0
        self._patience = patience
        self._since, self._window = 0.0, 0

    @property
    def range(self) -> str | None:
        """What to ask for next, as the header `Range` has it; None for everything."""
        first = self.start + len(self.data)
        if first == 0 and self.end is None:
            return None
        return f"bytes={first}-{'' if self.end is None else self.end - 1}"

    def begin(self, version: str, first: int, total: int | None) -> None:
        """An answer: of which version, its first byte's place in the object, and the object's size where known.

        Raises Changed where it does not go together with what is here.
        """
        if self.version and version != self.version and (self.data or self._fixed):
            self.data.clear()
            if not self._fixed:  # then from the beginning
                self.version, self.end = "", None
            raise Changed
        self.version = self.version or version
        self._skip = self.start + len(self.data) - first  # a server without ranges begins at the beginning again
        if total is not None:
            self.end = total if self.end is None else min(self.end, total)
        self._since, self._window = time.monotonic(), 0

    def add(self, chunk: bytes) -> None:
        """The next bytes of the answer. Raises TimeoutError where hardly any come."""
        now = time.monotonic()
        self._window += len(chunk)
        if now - self._since > self._patience:
            if self._window < SLOWEST * self._patience:
                raise TimeoutError
            self._since, self._window = now, 0
        if self._skip:
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            chunk = chunk[skipped:]
        if self.end is not None:
            chunk = chunk[: self.end - self.start - len(self.data)]
        self.data += chunk

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask for."""
        return self.end is not None and len(self.data) == self.end - self.start

    @property
    def whole(self) -> bool:
        """Whether all is here, once an answer has ended."""
        return self.done or (self.end is None and self._skip == 0)


class RangeFile(io.RawIOBase):
    """A seekable file over `fetch(start, end)`. Wrap in `io.BufferedReader`."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self._size, self._at = size, 0
        self._cache = ReadAheadCache(8 << 20, fetch, size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        data = self._cache._fetch(self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at


class ResumedFile(io.RawIOBase):
    """A foreign file that is opened anew where it was when it breaks. Wrap in `io.BufferedReader`.

    seekable: whether the foreign file is; else what was read already is read again to get to the same place.
    """

    def __init__(
        self, address: str, reopen: Callable[[], BinaryIO], explain: Explain, retries: Retries, seekable: bool = True
    ) -> None:
        self._address, self._reopen, self._explain, self._retries = address, reopen, explain, retries
        self._seekable = seekable
        self._at = 0
        self._file: BinaryIO | None = self._attempt(reopen)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        data = self._attempt(lambda: self._there().read(len(buffer)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if not self._seekable:
            raise failure("read_error", self._address, "the server gives no parts of a file", "copy it elsewhere")
        self._at = self._attempt(lambda: self._there().seek(offset, whence))
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()

    def _attempt(self, action: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                with explained(self._address, self._explain):
                    return action()
            except StorageError as error:
                if error.fault:
                    self._drop()
                raise

        return self._retries.call(guarded)

    def _there(self) -> BinaryIO:
        if self._file is None:
            file = self._reopen()
            if self._seekable:
                file.seek(self._at)
            else:
                left = self._at
                while left and (skipped := len(file.read(min(left, 1 << 20)))):
                    left -= skipped
            self._file = file
        return self._file

    def _drop(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file is not None:
            with contextlib.suppress(Exception):  # it is broken
                file.close()


def buffered(file: io.RawIOBase) -> BinaryIO:
    return io.BufferedReader(file, 1 << 20)


def cut_short(address: str) -> StorageError:
    return failure("read_error", address, "the answer was cut short", fault="broken")


def changed(address: str, fixed: bool) -> StorageError:
    """fixed: parts of it have been handed out already, so that it cannot begin anew."""
    return failure("read_error", address, "it changed while it was being read", fault="" if fixed else "broken")
