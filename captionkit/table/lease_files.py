"""The files of a table's lease: what they say, and how they are made, dated and listed on each kind of storage."""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from captionkit.storage import Storage, StorageError, escape
from captionkit.storage.documents import from_document, to_document

FOLDER = "_lease"
TTL, RENEW = 90.0, 20.0
SETTLE = 2.0
"""Seconds after which what was written without a condition is read back, by when everybody's writes have arrived."""
_SHARE = re.compile(r"/share-(\d+)-of-(\d+)/\d{6,}\.parquet$")
_NAME = re.compile(r"/(\d{6,})\.parquet$")


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
    """The lease files of one table, or of one share of it: made, read and dated as their storage can."""

    def __init__(self, table_uri: str, storage: Storage, share: str = "") -> None:
        self.table_uri = storage.normalize(table_uri)
        self.storage = storage
        self.folder = storage.join(self.table_uri, FOLDER) + (f"/share-{share.replace('/', '-of-')}" if share else "")

    def shares(self) -> list[str]:
        """The shares of the table that have, or had, a lease: "3/16"."""
        try:
            uris = [entry.uri for entry in self.storage.glob(escape(self.folder) + "/share-*/*.parquet")]
        except StorageError as err:
            if err.kind == "not_found" and not err.fatal:
                return []
            raise
        return sorted({f"{match[1]}/{match[2]}" for uri in uris if (match := _SHARE.search(uri))})

    def uri(self, number: int) -> str:
        return f"{self.folder}/{number:06d}.parquet"

    def numbers(self) -> list[int]:
        try:
            uris = [entry.uri for entry in self.storage.glob(escape(self.folder) + "/*.parquet")]
        except StorageError as err:
            if err.kind == "not_found" and not err.fatal:
                return []
            raise
        return sorted(int(match[1]) for uri in uris if (match := _NAME.search(uri)))

    def latest(self) -> Seen | None:
        while numbers := self.numbers():
            seen = self.read(numbers[-1])
            if seen is not None:  # else deleted since, which only happens once there is a higher one
                return seen
        return None

    def read(self, number: int) -> Seen | None:
        """A lease file and its age; None where there is none."""
        try:
            data, age = self.storage.read_with_age(self.uri(number))
        except StorageError as err:
            if err.kind == "not_found" and not err.fatal:
                return None
            raise
        holder = Holder.from_bytes(data)
        if age is None:
            return Seen(number, holder, time.time() - holder.renewed, False)
        return Seen(number, holder, age, True)

    def create(self, number: int, data: bytes) -> bool:
        """Make a lease file if there is none of that number; whether this call made it."""
        uri = self.uri(number)
        created = self.storage.create_if_absent(uri, data)
        if created is not None:
            return created
        if self.storage.exists(uri):
            return False
        self.storage.write(uri, data)
        time.sleep(SETTLE)
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
