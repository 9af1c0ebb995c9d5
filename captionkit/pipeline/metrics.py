"""The run's figures as Ray metrics: on Ray's dashboard, and for Prometheus wherever the cluster is scraped.

The driver, past whom every row comes, is the only one that reports, so nothing is counted twice when a task is retried.
Ray puts `ray_` before the names. `deploy/grafana.json` shows them.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter, Gauge, Histogram

from captionkit.pipeline.fetch import sum_retries
from captionkit.schema import CAPTIONED

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
STAGES = ("fetch", "decode", "caption")


class RunMetrics:
    """Metrics of one run, told apart by `run`."""

    def __init__(self, run_id: str) -> None:
        tags = {"run": run_id}

        def make(kind: type, name: str, description: str, *keys: str, **more: object) -> Counter | Gauge | Histogram:
            metric = kind(f"captionkit_{name}", description, tag_keys=("run", *keys), **more)
            metric.set_default_tags(tags)
            return metric

        self._images = make(Counter, "images", "Images captioned or failed", "status")
        self._failures = make(Counter, "failures", "Failed images by kind", "kind")
        self._seconds = make(Counter, "stage_seconds", "Seconds spent in a stage, added up over images", "stage")
        self._bytes = make(Counter, "read_bytes", "Bytes of encoded images read")
        self._retries = make(Counter, "retries", "Reads tried again after a fault that passes", "fault")
        self._batches = make(Histogram, "batch_size", "Images that an actor captioned at once", boundaries=BATCHES)
        self._left = make(Gauge, "images_left", "Images listed and not yet captioned or failed")
        self._unwritten = make(Gauge, "unwritten_rows", "Rows that wait in the driver for their table file")

    def add(self, rows: pa.Table) -> None:
        """Count rows that came out of the captioner, with the columns that travel behind the table's own."""
        captioned = pc.sum(pc.equal(rows["status"], CAPTIONED)).as_py() or 0
        for status, count in (("captioned", captioned), ("failed", len(rows) - captioned)):
            if count:
                self._images.inc(count, {"status": status})
        for kind in rows["error_kind"].drop_null().value_counts().to_pylist():
            self._failures.inc(kind["counts"], {"kind": kind["values"]})
        for stage in STAGES:
            seconds = pc.sum(rows[f"{stage}_s"]).as_py() or 0.0
            if seconds > 0:
                self._seconds.inc(seconds, {"stage": stage})
        for fault, count in sum_retries(rows).items():
            self._retries.inc(count, {"fault": fault})
        size = pc.sum(rows["bytes"]).as_py() or 0
        if size:
            self._bytes.inc(size)
        for batch in rows["batch"].drop_null().unique().to_pylist():
            self._batches.observe(batch)

    def level(self, left: int | None, unwritten: int) -> None:
        """How much is ahead and behind: images left (None: not known), rows not yet in a file."""
        if left is not None:
            self._left.set(left)
        self._unwritten.set(unwritten)
