"""Files on a disk of this machine, or on one mounted here."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from captionkit.storage.addresses import Pattern, spelled
from captionkit.storage.backends import GuardedFile
from captionkit.storage.errors import Cause, explain_os_error, explain_write_error, explained, failure
from captionkit.storage.options import Entries, Entry
from captionkit.storage.spread import Spread

FEWEST, MOST = 16, 8192
"""Files of a walk that come at a time: at first few, for those who ask whether there are any, then twice as many."""
WALK_S = 1.0
"""After so long the walk tells what it has found by then, at the end of a folder."""


class LocalBackend:
    """The local disk. Addresses are absolute paths."""

    def read(self, address: str) -> bytes:
        path = _path(address)
        with explained(address, explain_os_error):
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise failure("read_error", address, "not a file")  # opening a pipe would wait for ever
            with open(path, "rb") as file:
                return file.read()

    def open(self, address: str) -> BinaryIO:
        with explained(address, explain_os_error):
            file = open(_path(address), "rb", buffering=0)  # noqa: SIM115  # the caller closes it
        return io.BufferedReader(GuardedFile(file, address, explain_os_error), 1 << 20)

    def write(self, address: str, data: bytes) -> None:
        with self.create(address) as file:
            file.write(data)

    @contextlib.contextmanager
    def create(self, address: str) -> Iterator[BinaryIO]:
        """Whole or absent, even if the machine loses power: a hidden file beside it, synced, then renamed."""
        folder, name = os.path.split(address)
        beside = os.path.join(folder, f".{name[:50]}.{uuid.uuid4().hex}.part")
        with explained(address, explain_write_error):
            os.makedirs(folder, exist_ok=True)
            file = open(beside, "xb")  # noqa: SIM115  # closed below
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, address)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            if isinstance(error, OSError):  # the disk is full, say
                raise explain_write_error(error, address) from Cause.of(error)
            raise

    def delete(self, address: str) -> None:
        # As with object storage, what is gone already is deleted.
        with explained(address, explain_write_error), contextlib.suppress(FileNotFoundError):
            os.unlink(address)

    def create_if_absent(self, address: str, data: bytes) -> bool:
        """By a hard link to a whole file."""
        beside = f"{os.path.dirname(address)}/.{uuid.uuid4().hex}.part"
        self.write(beside, data)
        try:
            with explained(address, explain_write_error):
                try:
                    os.link(beside, address)
                except FileExistsError:
                    return False
                except OSError:  # no hard links there; a reader may meet the file before its bytes are in it
                    try:
                        with open(address, "xb") as file:
                            file.write(data)
                    except FileExistsError:
                        return False
        finally:
            self.delete(beside)
        return True

    def read_with_age(self, address: str) -> tuple[bytes, float]:
        data = self.read(address)
        with explained(address, explain_os_error):
            return data, _now(os.path.dirname(address)) - os.stat(address).st_mtime

    def stat(self, address: str) -> Entry:
        with explained(address, explain_os_error):
            result = os.stat(_path(address))
        if stat.S_ISDIR(result.st_mode):
            raise failure("not_found", address, "a folder, not a file")
        return _entry(address, result)

    def arrow(self, address: str) -> tuple[str, Any]:
        return address, None

    def is_folder(self, address: str) -> bool:
        return os.path.isdir(address)

    def list(self, folder: str, spread: Spread | None = None) -> Iterator[Entry]:
        for entries in self.list_batches(folder):
            yield from entries.each()

    def list_batches(self, folder: str) -> Iterator[Entries]:
        """`list`, many at a time."""
        if os.path.isdir(folder):
            yield from _walk(folder, lambda _: True, hidden=False)
        else:
            entry = self.stat(folder)
            yield Entries([entry.uri], [entry.size], [entry.version])

    def glob(self, pattern: Pattern, spread: Spread | None = None) -> Iterator[Entry]:
        start = os.path.dirname(pattern.literal)
        if os.path.isdir(start):
            for entries in _walk(start, pattern.may_hold, hidden=True):
                yield from entries.each()

    def region(self, address: str) -> str | None:
        return None


def _now(folder: str) -> float:
    """What time it is by the clock that stamps files in a folder: a file server's perhaps."""
    probe = os.path.join(folder, f".now.{uuid.uuid4().hex}")
    try:
        with open(probe, "xb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()  # a reader who may not write there
    finally:
        with contextlib.suppress(OSError):
            os.unlink(probe)


def _path(address: str) -> str | bytes:
    """The file at an address. Of a name that is not UTF-8 (Latin-1, as of old archives) the address has each such byte
    escaped, `caf\\udce9.jpg`; a file of the very name that the address spells goes before it."""
    if "\\udc" not in address or os.path.lexists(address):
        return address
    escaped = re.sub(rb"\\udc([89a-f][0-9a-f])", lambda match: bytes([int(match[1], 16)]), os.fsencode(address))
    return escaped if os.path.lexists(escaped) else address


def _entry(address: str, result: os.stat_result) -> Entry:
    return Entry(address, result.st_size, _version(result))


def _version(result: os.stat_result) -> str:
    return f"{result.st_size}-{result.st_mtime_ns}"


def _walk(root: str, descend: Callable[[str], bool], hidden: bool) -> Iterator[Entries]:
    """All files below a folder, links followed, some at first and soon some thousands at a time; one open directory per
    level and no more memory than that.

    A link to a folder in which the walk already is ends there. A link to nothing is listed, without size and
    version, and fails where it is read: nothing disappears.
    """
    with explained(root, explain_os_error):
        levels = [(os.scandir(root), _identity(root))]
    size = FEWEST
    try:
        while levels:
            found, until = Entries([], [], []), time.monotonic() + WALK_S
            with explained(root, explain_os_error):
                while levels and len(found.uris) < size:
                    item = next(levels[-1][0], None)
                    if item is None:
                        levels.pop()[0].close()
                        if time.monotonic() > until:
                            break
                        continue
                    if item.name.startswith(".") and not hidden:
                        continue
                    path = item.path
                    if not path.isascii():
                        path = spelled(path)  # a name that is not UTF-8 fails when it is read
                    if item.is_symlink() and not os.path.exists(item.path):
                        found.add(path, None, "")
                    elif item.is_file():
                        result = item.stat()
                        found.add(path, result.st_size, _version(result))
                    elif item.is_dir():
                        identity = _identity(item.path)
                        if descend(path) and identity not in (known for _, known in levels):
                            levels.append((os.scandir(item.path), identity))
            size = min(2 * size, MOST)
            if found.uris:
                yield found
    finally:
        for scan, _ in levels:
            scan.close()


def _identity(folder: str) -> tuple[int, int]:
    result = os.stat(folder)
    return result.st_dev, result.st_ino
