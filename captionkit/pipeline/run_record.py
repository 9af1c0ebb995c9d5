"""The run record: what a run was told, did, and took, kept beside the table."""

from __future__ import annotations

import json
import platform
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import captionkit
from captionkit.pipeline.fetch import sum_retries
from captionkit.pipeline.machines import FailedMachine
from captionkit.schema import BROUGHT, FAILED, SCHEMA
from captionkit.storage import Storage, public_uri, redact, retry_counts
from captionkit.storage.documents import to_document

STEADY_SHARE = 0.1
"""A steady rate is told from rows that came over more than this share of the time until the first of them."""
PACKAGES = ("ray", "torch", "torchvision", "pyarrow", "pillow", "fsspec", "s3fs")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    installed = {name: version(name) for name in PACKAGES}
    return {"captionkit": captionkit.__version__, "python": platform.python_version(), **installed}


@dataclass
class RunRecord:
    """One run. `options` is a config file that repeats it (`--config` takes the record itself), but for passwords and
    signatures in addresses, which are never written down."""

    run_id: str
    options: dict[str, Any]
    model: dict[str, Any]
    """Fingerprint, address, and what the bundle says of itself."""
    status: str = "running"
    """running, succeeded, too_many_failed, time_is_up (`--until`), stopped or broken."""
    error: str | None = None
    started_at: str = field(default_factory=now)
    renewed_at: str = field(default_factory=now)
    """When this record was last written; a run that lives writes it every half minute."""
    ended_at: str | None = None
    versions: dict[str, str] = field(default_factory=versions)
    total: int | None = None
    """Images to caption in this run, as far as known; None where shards have yet to be counted."""
    counts: dict[str, int] = field(default_factory=dict)
    """listed, containers, duplicates (addresses, and members of shards), done before, replaced; captioned and failed by
    this run; of the captioned ones, existing: captions that the images brought (`--existing`)."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Files of folders and members of shards that were taken for no images, by suffix."""
    odd_texts: dict[str, int] = field(default_factory=dict)
    """Carried texts of shards that are not_utf8, not_json or too_long (`captionkit.inputs.kinds.ODD_TEXTS`)."""
    notes: list[str] = field(default_factory=list)
    """What the log said of lists, and of what the table has no place for."""
    failures: dict[str, int] = field(default_factory=dict)
    """Failed rows of this run by kind."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage. listing, starting (Ray), captioning follow one another; waiting (for the first captions: actors start
    and load the model) and writing are parts of captioning. fetch, decode and caption are sums over all images, of work
    done side by side."""
    images_per_second: float | None = None
    """The steady rate: rows after the first batch of them, by the seconds after it. None where one batch was all, and
    where all came nearly at once."""
    batch_sizes: dict[str, int] = field(default_factory=dict)
    """Images captioned, by the size of the batch that they were in."""
    bytes_read: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    """Times that storage was asked again after a fault that passes, by the fault (`captionkit.storage.FAULTS`): by the
    driver, and for every row that came back."""
    files: list[str] = field(default_factory=list)
    resources: dict[str, float] = field(default_factory=dict)
    """What the Ray cluster had when the run started."""
    failed_machines: list[FailedMachine] = field(default_factory=list)
    """Machines on which the captioner could not be built: host, Ray node, error, and how often it was tried."""

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._retried_fetching = Counter[str]()
        self.count_retries_since(retry_counts())
        self.counts = {"captioned": 0, "failed": 0, **self.counts}

    def count_retries_since(self, before: Mapping[str, int]) -> None:
        """Take as this run's what this process has tried again since it had tried so much (`retry_counts`)."""
        self._retried_before = Counter(before)

    @property
    def rows(self) -> int:
        return self.counts["captioned"] + self.counts["failed"]

    def add(self, rows: pa.Table) -> None:
        """Count rows that came out of the captioner."""
        failed = rows.filter(pc.equal(rows["status"], FAILED))
        self.counts["failed"] += len(failed)
        self.counts["captioned"] += len(rows) - len(failed)
        if self.options.get("existing", "replace") != "replace":
            brought = pc.sum(pc.equal(rows["model"], BROUGHT)).as_py() or 0
            self.counts["existing"] = self.counts.get("existing", 0) + brought
        self.counts["duplicates"] = self.counts.get("duplicates", 0) + (pc.sum(rows["duplicate_members"]).as_py() or 0)
        for text in rows["passed_over"].drop_null().to_pylist():
            self.pass_over(json.loads(text))
        for text in rows["odd_texts"].drop_null().to_pylist():
            self.odd_texts = dict(Counter(self.odd_texts) + Counter(json.loads(text)))
        _count(self.failures, failed["error_kind"])
        self.add_work(rows)

    def add_work(self, rows: pa.Table) -> None:
        """Count what was done for rows, be they of the table or not."""
        _count(self.batch_sizes, rows["batch"].drop_null().cast(pa.string()))
        self.bytes_read += pc.sum(rows["bytes"]).as_py() or 0
        self._retried_fetching += sum_retries(rows)
        for stage in ("fetch", "decode", "caption"):
            self.spend(stage, pc.sum(rows[f"{stage}_s"]).as_py() or 0.0)

    def pass_over(self, files: Mapping[str, int]) -> None:
        """Count what is no image, by suffix."""
        for suffix, count in files.items():
            self.passed_over[suffix] = self.passed_over.get(suffix, 0) + count

    def measure(self, since: float, rows: int) -> None:
        """Work out the steady rate: of the rows after the first `rows`, which had come by `since` (monotonic).

        Where all came nearly at once, as from one row group, what lies between them says nothing.
        """
        seconds = time.monotonic() - since
        if self.rows > rows and seconds > STEADY_SHARE * self.seconds.get("waiting", 0.0):
            self.images_per_second = round((self.rows - rows) / seconds, 2)

    def spend(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 3)

    def broke(self, error: BaseException) -> None:
        """Note what ended the run: of a remote error, whose text is a page of stack, the last line."""
        lines = [line for line in re.sub(r"\x1b\[[\d;]*m", "", str(error)).splitlines() if line.strip()]
        self.status, self.error = "broken", redact(f"{type(error).__name__}: {lines[-1].strip() if lines else ''}")

    def write(self, storage: Storage, uri: str, schema: pa.Schema = SCHEMA) -> None:
        """Write it beside a table of this schema: a Parquet file without rows, the record as JSON in its footer."""
        storage.write(uri, to_document(self.to_json(), schema))

    def to_json(self) -> dict[str, Any]:
        """The record as it is now, fit to be shown."""
        self.retries = dict(Counter(retry_counts()) - self._retried_before + self._retried_fetching)
        self.seconds["wall"] = round(time.monotonic() - self._began, 3)
        self.renewed_at = now()
        shown = asdict(self)
        for part in ("options", "model", "files"):
            shown[part] = _public(shown[part])
        return shown


def _public(value: Any) -> Any:
    """The same with every address in its public form."""
    if isinstance(value, dict):
        return {name: _public(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public(each) for each in value]
    return public_uri(value) if isinstance(value, str) else value


def _count(counts: dict[str, int], values: pa.ChunkedArray) -> None:
    for pair in values.value_counts().to_pylist():
        counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
