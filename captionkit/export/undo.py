"""What undoes an export that has changed files where they lie: a line of JSON for each, written before the change.

Metadata is a small part of a picture, and all else stays byte for byte. So a line holds the bytes that were taken out
between a beginning and an end that are the same, and checksums of the whole file before and after: a file is put back
only where it is still what the export made of it, and comes back byte for byte.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.export.report import Report
from captionkit.storage import Storage, StorageError
from captionkit.storage.addresses import split_scheme

KIND = "captionkit undo"


class UndoFile:
    """An undo file that is being written; made by `open_undo`. Safe to use from many threads."""

    def __init__(self, file: BinaryIO, storage: Storage) -> None:
        self._file, self._storage = file, storage
        self._lock = threading.Lock()
        self._write({"kind": KIND, "version": 1})

    def _write(self, value: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(value).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def replace(self, address: str, old: bytes | None, new: bytes) -> None:
        """Change a local file, or make one, where it lies; links are followed, and its mode stays.

        Args:
            old: what it holds; None where there is none.

        Raises:
            StorageError: it could not be written. What is in the undo file of it does no harm.
        """
        path = os.path.realpath(address)
        before = old or b""
        start = _same(before, new)
        end = _same(before[start:][::-1], new[start:][::-1])
        taken = base64.b64encode(before[start : len(before) - end]).decode()
        self._write(
            {
                "path": path,
                "old": None if old is None else sha256(old).hexdigest(),
                "new": sha256(new).hexdigest(),
                "start": start,
                "end": end,
                "taken": taken,
            }
        )
        _put(self._storage, path, new)


@contextmanager
def open_undo(address: str, storage: Storage) -> Iterator[UndoFile]:
    """A new undo file on the local disk.

    Raises:
        UsageError: it is there already, or cannot be made.
    """
    path = _local(address, storage)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "xb")  # noqa: SIM115  # closed below
    except FileExistsError as err:
        raise UsageError(
            f"--in-place {address} is there already, and undoes something else; name another file"
        ) from err
    except OSError as err:
        raise UsageError(f"--in-place {address}: {err}") from err
    with file:
        yield UndoFile(file, storage)


class UndoReport(Report):
    """Counts of what was put back; `written` are the files."""

    def text(self) -> str:
        verb = "would be put back" if self.dry_run else "put back"
        return "\n".join([f"{counted(self.written, 'file')} {verb}", *self.details()])


def undo(address: str, storage: Storage, *, dry_run: bool = False) -> UndoReport:
    """Put back what an export changed in place, the last change first.

    Raises:
        UsageError: this is no undo file.
    """
    report = UndoReport("undo", address, dry_run)
    for change in reversed(_changes(_local(address, storage))):
        path = change["path"]
        try:
            now = storage.read(path)
        except StorageError as err:
            if err.kind != "not_found":
                report.fail(err.kind, str(err))
            elif change["old"] is None:
                report.left_out["was gone already"] += 1
            else:
                report.fail("gone", f"{path}: it is no longer there")
            continue
        if sha256(now).hexdigest() == change["old"]:
            report.left_out["was as before already"] += 1
            continue
        start, end = change["start"], len(now) - change["end"]
        old = now[:start] + base64.b64decode(change["taken"]) + now[end:]
        if sha256(now).hexdigest() != change["new"]:
            report.fail("changed since", f"{path}: it has been changed since; it was left alone")
        elif change["old"] is not None and sha256(old).hexdigest() != change["old"]:
            report.fail("damaged undo file", f"{path}: what is kept of it is damaged; it was left alone")
        else:
            report.written += 1
            report.files += 1
            if dry_run:
                continue
            if change["old"] is None:
                storage.delete(path)
            else:
                _put(storage, path, old)
    return report


def _same(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common at their beginning."""
    most = min(len(one), len(other))
    different = np.frombuffer(one, np.uint8, most) != np.frombuffer(other, np.uint8, most)
    return int(different.argmax()) if different.any() else most


def _changes(path: str) -> list[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            first, *lines = file.read().split(b"\n")
        if json.loads(first).get("kind") != KIND:
            raise ValueError("its first line says so")
        # The last line is empty, or was cut off when the export died: before its file was changed.
        return [json.loads(line) for line in lines[:-1]]
    except (OSError, ValueError, AttributeError) as err:
        raise UsageError(f"{path} is no undo file of captionkit's: {err}") from err


def _put(storage: Storage, path: str, data: bytes) -> None:
    """Write a file in one atomic step, with the mode that it had."""
    mode = os.stat(path).st_mode if os.path.exists(path) else None
    storage.write(path, data)
    if mode is not None:
        os.chmod(path, mode & 0o7777)


def _local(address: str, storage: Storage) -> str:
    uri = storage.normalize(address)
    if split_scheme(uri)[0]:
        raise UsageError(f"{address}: undo files lie on the local disk, as the files that they undo do")
    return uri
