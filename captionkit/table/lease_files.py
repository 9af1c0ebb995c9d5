"""The files of a table's lease: what they say, and how they are made, dated and listed on each kind of storage."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from captionkit.storage import Storage, StorageError, escape
from captionkit.storage.backends import Backend
from captionkit.storage.documents import from_document, to_document
from captionkit.storage.errors import explain_write_error, explained
from captionkit.storage.local import LocalBackend
from captionkit.storage.s3 import S3Backend

FOLDER = "_lease"
TTL, RENEW = 90.0, 20.0
SETTLE = 2.0
"""Seconds after which what was written without a condition is read back, by when everybody's writes have arrived."""
_NAME = re.compile(r"/(\d{6,})\.parquet$")
_LOST_RACE = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")


@dataclass(frozen=True)
class Holder:
    """What a lease file says."""

    token: str
    run_id: str
    host: str
    pid: int
    place: str
    """The boot and the process namespace in which `pid` means something; "" where the system does not say."""
    born: int | None
    """When the process began, in ticks since boot: a number used again is another process."""
    started_at: str
    renewed: float
    """By the holder's own clock, in seconds since 1970."""
    ttl: float
    renew: float
    renewals: int = 0
    released: bool = False

    @classmethod
    def here(cls, run_id: str, ttl: float, renew: float) -> Holder:
        return cls(
            secrets.token_hex(8),
            run_id,
            socket.gethostname(),
            os.getpid(),
            _place(),
            _born(os.getpid()),
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            time.time(),
            ttl,
            renew,
        )

    def to_bytes(self, schema: pa.Schema) -> bytes:
        """As a Parquet file of the table's columns without rows (see `runs`)."""
        return to_document(asdict(self), schema)

    @classmethod
    def from_bytes(cls, data: bytes) -> Holder:
        """One that cannot be read is somebody's all the same: it is still being written, or of a later version."""
        try:
            return cls(**from_document(data))
        except (ValueError, TypeError):
            return cls("", "of an unknown run", "an unknown host", 0, "", None, "unknown", 0.0, TTL, RENEW)

    def died_here(self) -> bool:
        """Whether it was a process of this machine, and is no more."""
        if not self.place or (self.host, self.place) != (socket.gethostname(), _place()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False  # somebody else's, and alive
        return self.born is not None and _born(self.pid) not in (self.born, None)


class Seen(NamedTuple):
    """A lease file, as it was read."""

    number: int
    holder: Holder
    age: float
    """Seconds since it was written."""
    sure: bool
    """Whether the age is the storage's own word."""


class LeaseFiles:
    """The lease files of one table: made, read and dated as their storage can."""

    def __init__(self, table_uri: str, storage: Storage) -> None:
        self.table_uri = storage.normalize(table_uri)
        self.storage = storage
        self.folder = storage.join(self.table_uri, FOLDER)
        self._backend: Backend = storage._object(self.folder)[1]

    def uri(self, number: int) -> str:
        return f"{self.folder}/{number:06d}.parquet"

    def numbers(self) -> list[int]:
        try:
            found = [entry.uri for entry in self.storage.glob(escape(self.folder) + "/*.parquet")]
        except StorageError as err:
            if err.kind == "not_found" and not err.hopeless:
                return []
            raise
        return sorted(int(match[1]) for uri in found if (match := _NAME.search(uri)))

    def latest(self) -> Seen | None:
        while numbers := self.numbers():
            seen = self.read(numbers[-1])
            if seen is not None:  # else deleted since, which only happens once there is a higher one
                return seen
        return None

    def read(self, number: int) -> Seen | None:
        """A lease file and its age; None where there is none."""
        uri = self.uri(number)
        try:
            if isinstance(self._backend, S3Backend):
                return self._read_s3(self._backend, number, uri)
            made = Holder.from_bytes(self.storage.read(uri))
            if isinstance(self._backend, LocalBackend):
                return Seen(number, made, self._now_on_disk() - os.stat(uri).st_mtime, True)
        except (StorageError, FileNotFoundError) as err:
            if isinstance(err, FileNotFoundError) or (err.kind == "not_found" and not err.hopeless):
                return None
            raise
        return Seen(number, made, time.time() - made.renewed, False)

    def _read_s3(self, backend: S3Backend, number: int, uri: str) -> Seen:
        bucket, key = backend._split(uri)

        async def get() -> tuple[bytes, float]:
            answer = await backend._fs._call_s3("get_object", Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                data: bytes = await body.read()
            date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
            now = parsedate_to_datetime(date) if date else datetime.now(timezone.utc)
            return data, (now - answer["LastModified"]).total_seconds()

        with explained(uri, backend._explain):
            from fsspec.asyn import sync

            data, age = sync(backend._fs.loop, get)
        return Seen(number, Holder.from_bytes(data), age, True)

    def _now_on_disk(self) -> float:
        """What time it is by the clock that stamps files there, a file server's perhaps."""
        probe = os.path.join(self.folder, f".now.{secrets.token_hex(8)}")
        try:
            with open(probe, "xb") as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return time.time()  # a reader who may not write there
        finally:
            with contextlib.suppress(OSError):
                os.unlink(probe)

    def create(self, number: int, data: bytes) -> bool:
        """Make a lease file if there is none of that number; whether this call made it."""
        uri = self.uri(number)
        if isinstance(self._backend, LocalBackend):
            return self._create_on_disk(uri, data)
        if isinstance(self._backend, S3Backend):
            made = self._create_s3(self._backend, uri, data)
            if made is not None:
                return made
        if self.storage.exists(uri):
            return False
        self.storage.write(uri, data)
        time.sleep(SETTLE)
        return True

    def _create_on_disk(self, uri: str, data: bytes) -> bool:
        beside = os.path.join(self.folder, f".{secrets.token_hex(8)}.part")
        self.storage.write(beside, data)
        try:
            with explained(uri, explain_write_error):
                try:
                    os.link(beside, uri)
                except FileExistsError:
                    return False
                except OSError:  # no hard links there; a reader may meet this one before its words are in it
                    try:
                        with open(uri, "xb") as file:
                            file.write(data)
                    except FileExistsError:
                        return False
        finally:
            self.storage.delete(beside)
        return True

    def _create_s3(self, backend: S3Backend, uri: str, data: bytes) -> bool | None:
        """None where the server knows no conditional PUT."""
        bucket, key = backend._split(uri)
        with explained(uri, backend._explain_write):
            try:
                backend._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except OSError as err:
                response = getattr(err.__cause__, "response", None) or {}
                code = str(response.get("Error", {}).get("Code"))
                # 409: another such PUT was under way, and neither is sure of having won; the caller looks again.
                if isinstance(err, FileExistsError) or code in _LOST_RACE:
                    return False
                if code in ("NotImplemented", "501"):
                    return None
                raise
        return True

    def write(self, number: int, data: bytes) -> None:
        self.storage.write(self.uri(number), data)

    def delete(self, number: int) -> None:
        self.storage.delete(self.uri(number))


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> int | None:
    """When a process began, in ticks since boot; None where there is none to be seen, 0 for one that has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (OSError, ValueError):
        return None
    return 0 if state in "ZX" else int(fields[18])
