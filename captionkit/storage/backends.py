"""What every kind of storage can do here."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, Protocol, cast

from fsspec.asyn import reset_lock

from captionkit.storage.addresses import Pattern
from captionkit.storage.errors import Explain, explained
from captionkit.storage.options import Entry
from captionkit.storage.spread import Spread

# fsspec of before 2025 leaves a forked child with its parent's event loop, whose thread did not come along.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reset_lock)


class Backend(Protocol):
    """One kind of storage. Addresses are normalized and name no member. Raises StorageError and UsageError."""

    def read(self, address: str) -> bytes: ...
    def open(self, address: str) -> BinaryIO: ...
    def write(self, address: str, data: bytes) -> None: ...
    def create(self, address: str) -> AbstractContextManager[BinaryIO]: ...
    def delete(self, address: str) -> None: ...
    def stat(self, address: str) -> Entry: ...
    def is_folder(self, address: str) -> bool: ...

    def create_if_absent(self, address: str, data: bytes) -> bool | None:
        """Make an object if there is none of that name: whether this call made it. None where this kind of storage
        offers no such write; nothing is written then."""

    def read_with_age(self, address: str) -> tuple[bytes, float | None]:
        """An object, and the seconds since it was written by the storage's own clock; None where it has no clock."""

    def arrow(self, address: str) -> tuple[str, Any]:
        """Path and pyarrow filesystem of an address, None for the local one."""

    def list(self, folder: str, spread: Spread | None = None) -> Iterator[Entry]:
        """Everything below a folder but what is hidden; or the one object of that name. Streams.

        spread: where parts of a long listing may be listed, where this kind of storage can do so."""

    def glob(self, pattern: Pattern, spread: Spread | None = None) -> Iterator[Entry]:
        """Candidates for the pattern, at least all that match. Streams. spread: as of `list`."""

    def region(self, address: str) -> str | None:
        """Where a bucket is; None where storage does not say."""


@contextmanager
def spooled(publish: Callable[[BinaryIO, int], None]) -> Iterator[BinaryIO]:
    """A file on this machine's disk that is written to, then published: it and its size in bytes, if nothing raised."""
    with tempfile.NamedTemporaryFile(prefix="captionkit-") as file:
        yield cast("BinaryIO", file)
        file.flush()
        size = file.tell()
        file.seek(0)
        publish(cast("BinaryIO", file), size)


class GuardedFile(io.RawIOBase):
    """A foreign file whose errors come out as StorageError. Wrap in `io.BufferedReader`."""

    def __init__(self, file: BinaryIO, address: str, explain: Explain) -> None:
        self._file = file
        self._address = address
        self._explain = explain

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        with explained(self._address, self._explain):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with explained(self._address, self._explain):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
