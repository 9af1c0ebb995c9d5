"""How far a job is, read from its run record: from anywhere, while it runs and after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from captionkit.errors import UsageError
from captionkit.storage import Storage
from captionkit.table.runs import read_run_records

SILENT_SECONDS = 180.0
"""A running job renews its record more often than this; one that does not is dead or cut off."""


@dataclass(frozen=True)
class Status:
    """One run, as its record tells."""

    record: dict[str, Any]
    age: float
    """Seconds since the record was last renewed."""

    @property
    def state(self) -> str:
        """The record's status; "silent" for one that is marked as running and has not renewed itself for long."""
        status: str = self.record["status"]
        return "silent" if status == "running" and self.age > SILENT_SECONDS else status

    @property
    def share(self) -> str:
        """The share of the inputs that was the run's, as in 3/16; "" for all."""
        return self.record["options"].get("share") or ""

    def __str__(self) -> str:
        record, counts = self.record, self.record["counts"]
        done = counts.get("captioned", 0) + counts.get("failed", 0)
        total = record.get("total")
        share = f" of {total:,} ({done / total:.1%})" if total else ""
        rate = record.get("images_per_second")
        part = f" (share {self.share})" if self.share else ""
        lines = [
            f"run {record['run_id']}{part}: {self.state}, last renewed {self.age:,.0f} s ago",
            f"  {done:,}{share} image{'' if done == 1 and not share else 's'}, {counts.get('failed', 0):,} failed; "
            f"{counts.get('done_before', 0):,} were done before",
        ]
        if rate:
            left = f", about {(total - done) / rate / 60:,.0f} min left" if total and self.state == "running" else ""
            lines.append(f"  {rate:,.1f} images/s{left}")
        lines += [f"  {count:,} × {kind}" for kind, count in sorted(record["failures"].items(), key=lambda p: -p[1])]
        retries = record.get("retries") or {}
        if retries:
            kinds = ", ".join(f"{count:,} × {fault}" for fault, count in sorted(retries.items(), key=lambda p: -p[1]))
            lines.append(f"  storage was asked again {sum(retries.values()):,} times: {kinds}")
        for machine in record.get("failed_machines") or ():
            lines.append(f"  the captioner could not be built on {machine['host']}: {machine['error']}")
        lines += [f"  {note}" for note in record.get("notes") or ()]
        if record.get("error"):
            lines.append(f"  {record['error']}")
        if self.state == "silent":
            lines.append("  it is dead or cut off from storage; the same command goes on where it stopped")
        return "\n".join(lines)


def newest(runs: list[Status]) -> list[Status]:
    """Of runs, the latest first, that one; where it was of a share, the latest of each share of that count."""
    of = runs[0].share.partition("/")[2]
    latest = {run.share: run for run in reversed(runs) if run.share.partition("/")[2] == of}
    return sorted(latest.values(), key=lambda run: int(run.share.partition("/")[0])) if of else runs[:1]


def read_status(output: str, storage: Storage) -> list[Status]:
    """The runs of a caption table, the latest first.

    Raises:
        UsageError: there is no run record.
        StorageError: it cannot be read.
    """
    statuses = []
    for record in read_run_records(storage.normalize(output), storage):
        try:
            last = datetime.fromisoformat(record.get("ended_at") or record["renewed_at"])
        except (ValueError, KeyError):
            continue  # of another version
        statuses.append(Status(record, (datetime.now(timezone.utc) - last).total_seconds()))
    if not statuses:
        raise UsageError(f"{output} holds no run record: no caption job has written there yet")
    return statuses
