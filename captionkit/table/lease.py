"""One writer per table: a lease that no dead job can keep.

Lease files lie in ``OUTPUT/_lease/`` and are numbered; the highest number holds. Whoever wants the lease looks whether
that one is released, expired or of a process that is dead on this very machine, and then creates the next number,
which only one can: by a hard link on disk, by a PUT with ``If-None-Match: *`` on S3. The holder writes its own file
anew every `renew` seconds, and has lost the lease once a higher number is there. Numbers only grow, also past a
release, so a job that slept through everything cannot take an old state for its own.

What is assumed:

- Ages are told by the storage's own clock: S3's ``Date`` and ``Last-Modified``, on disk the time of a file made there
  now. Clocks of machines may differ as they like.
- Other storage (``gs://``, ``hdfs://`` …) is weaker. There is no conditional write that all of fsspec offers: a file
  is written, and read back after two seconds; of two that both saw none the later one stays, and the other finds
  out, unless it stalled for longer than that. Ages are told by this machine's clock, and what it takes for expired is
  watched for two renewals first: a wrong clock can make a job wait, and never robs a living one.
- A lease is no lock in the storage: what its holder had begun to write when it lost the lease still arrives. `check`
  comes before each write to keep that down to one file, whose double rows ``captionkit compact`` takes out.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from types import TracebackType

import pyarrow as pa

from captionkit.errors import UsageError
from captionkit.schema import SCHEMA
from captionkit.storage import Storage, StorageError
from captionkit.table import lease_files
from captionkit.table.lease_files import RENEW, TTL, Holder, LeaseFiles, Seen


class LeaseError(UsageError):
    """Another run is writing to this table.

    Args:
        holder: Who that is.
    """

    def __init__(self, message: str, holder: Holder) -> None:
        super().__init__(message)
        self.holder = holder


class LeaseLost(StorageError):
    """Another run has taken this table over, since this one did not answer for longer than its lease."""


def holders(table_uri: str, storage: Storage) -> list[Holder]:
    """All who are writing to a table now, the whole or a share of it, as far as can be told without waiting."""
    shares = ["", *LeaseFiles(table_uri, storage).shares()]
    return [lease for share in shares if (lease := holder(table_uri, storage, share)) is not None]


def holder(table_uri: str, storage: Storage, share: str = "") -> Holder | None:
    """Whoever holds the lease of a table, or of a share of it, now, as far as can be told without waiting."""
    seen = LeaseFiles(table_uri, storage, share).latest()
    if seen is None or seen.holder.released or seen.age >= seen.holder.ttl or seen.holder.died_here():
        return None
    return seen.holder


class Lease:
    """The right to write to one table. A context manager; `check` before each write.

    Args:
        table_uri: The table's folder.
        run_id: What others are told about the holder.
        schema: The table's columns, which its lease files have too. May be set anew once it is known.
        ttl: Seconds without a sign of life after which others may take over.
        renew: Seconds between two signs of life.
        share: The lease of this share of the table ("3/16") instead. Who may have which at the same time is for
            `captionkit.table.writing.open_for_writing` to see to.

    Raises (from `__enter__` and `acquire`):
        LeaseError: another run holds it.
        StorageError: the table's folder cannot be read or written.
    """

    def __init__(
        self,
        table_uri: str,
        storage: Storage,
        run_id: str,
        *,
        schema: pa.Schema = SCHEMA,
        ttl: float = TTL,
        renew: float = RENEW,
        share: str = "",
    ) -> None:
        self.schema = schema
        self._files = LeaseFiles(table_uri, storage, share)
        self._me = Holder.here(run_id, ttl, renew)
        self._number = 0
        self._confirmed = 0.0
        self._lost: LeaseLost | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lease, and keep it until `release`."""
        while True:
            begun = _clock()
            seen = self._files.latest()
            if seen is not None:
                if seen.holder.token == self._me.token:  # created, though the answer to that was lost on its way
                    break
                if not self._is_free(seen):
                    raise LeaseError(_refusal(self._files.table_uri, seen), seen.holder)
            self._number = seen.number + 1 if seen else 1
            self._me = replace(self._me, renewed=time.time())
            if self._files.create(self._number, self._me.to_bytes(self.schema)) and self._is_mine():
                break
            # Somebody was quicker: look who.
        self._confirmed = begun
        # The last one stays: whoever is listing the folder at this moment meets it or this one, never neither.
        for number in self._files.numbers():
            if number < self._number - 1:
                self._files.delete(number)
        self._thread = threading.Thread(target=self._keep, name="table lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure, by asking the storage, that the table may still be written to.

        Raises:
            LeaseLost: another run has taken over. Nothing more may be written.
            StorageError: the storage has not answered for so long that this cannot be told.
        """
        try:
            self._renew()
        except LeaseLost:
            raise
        except StorageError:
            if _clock() - self._confirmed > self._me.ttl / 2:
                raise

    def release(self) -> None:
        """Let others at the table; nothing where the lease is lost or was never had."""
        self._stop.set()
        if self._thread is None:
            return
        with self._lock:
            self._thread = None
            # A lease that cannot be given back ends by itself.
            with contextlib.suppress(StorageError):
                if self._lost is None and self._is_mine():
                    self._me = replace(self._me, released=True)
                    self._files.write(self._number, self._me.to_bytes(self.schema))

    def _keep(self) -> None:
        while not self._stop.wait(self._me.renew):
            try:
                self._renew()
            except LeaseLost:
                return
            except StorageError:
                continue  # the next renewal may get through; whether that was in time `check` will see

    def _renew(self) -> None:
        with self._lock:
            if self._lost is not None:
                raise self._lost
            if self._thread is None:
                return
            begun = _clock()
            overslept = begun - self._confirmed > self._me.ttl
            self._demand_mine(begun)
            self._me = replace(self._me, renewed=time.time(), renewals=self._me.renewals + 1)
            self._files.write(self._number, self._me.to_bytes(self.schema))
            if overslept:
                # Somebody who had looked just before this renewal may be about to take over.
                time.sleep(lease_files.SETTLE)
                self._demand_mine(begun)
            self._confirmed = begun

    def _is_mine(self) -> bool:
        if self._files.numbers()[-1:] != [self._number]:
            return False
        seen = self._files.read(self._number)
        return seen is not None and seen.holder.token == self._me.token

    def _demand_mine(self, now: float) -> None:
        if self._is_mine():
            return
        seen = self._files.latest()
        who = f"run {seen.holder.run_id} on host {seen.holder.host} took it over" if seen else "its lease was deleted"
        self._lost = LeaseLost(
            "write_error",
            f"{self._files.table_uri}: this run may no longer write to the table: {who}, as it had not given a sign of "
            f"life for {now - self._confirmed:.0f} s. Run the same command again for what is missing.",
            True,
        )
        raise self._lost

    def _is_free(self, seen: Seen) -> bool:
        if seen.holder.released or seen.holder.died_here():
            return True
        if seen.age < seen.holder.ttl:
            return False
        if not seen.sure:
            time.sleep(2 * seen.holder.renew)
            again = self._files.latest()
            return again is not None and (again.number, again.holder) == (seen.number, seen.holder)
        return True


def _refusal(table_uri: str, seen: Seen) -> str:
    left = max(1, round(seen.holder.ttl - seen.age)) if seen.age < seen.holder.ttl else seen.holder.ttl
    return (
        f"another run, {seen.holder.run_id} on host {seen.holder.host} (process {seen.holder.pid}), is writing to the "
        f"table at {table_uri} since {seen.holder.started_at}; last seen {max(0.0, seen.age):.0f} s ago. Wait for it, "
        f"or stop it; if it is dead, its lease ends by itself in {left:.0f} s."
    )


def _clock() -> float:
    """Seconds that also pass while the machine is suspended, where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
