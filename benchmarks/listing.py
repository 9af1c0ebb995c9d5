"""How fast a bucket of a million keys becomes a manifest, and how much memory the driver takes for it.

The bucket is a stand-in: an HTTP server in a process of its own that answers ListObjectsV2 for keys that it makes up as
it is asked, so that it can have any number of them. It does so as quickly as Python can: a real one takes longer over
each page and shows less of what the driver does. With `--source cluster` ranges of keys are listed by Ray tasks on this
machine, as they are where a run joins a cluster; with `--source inventory` the keys come from an S3 Inventory in the
place of the listing: one Parquet file on disk.

    python benchmarks/listing.py --keys 1000000
    python benchmarks/listing.py --keys 10000000 --limit-mib 2048 --csv benchmarks/results/listing.csv \\
        --figure benchmarks/results/listing.svg
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from _report import report

PAGE = 1000
MIB = 2**20


@dataclass(frozen=True)
class Options:
    """Seconds, requests and peak memory of listing a bucket."""

    keys: int = 1_000_000
    source: Literal["prefix", "cluster", "inventory"] = "prefix"
    limit_mib: int | None = None
    """Memory of its own (RLIMIT_DATA) that the process which lists may take; not with `cluster`, as Ray's own part of a
    process maps more than it uses."""
    csv: str | None = None
    """Seconds, keys and the memory of the process, every `seconds`."""
    figure: str | None = None
    """The curves of these; SVG or PNG."""
    seconds: float = 5.0
    json: str | None = None
    """Also write the table, with the machine's facts, to this file."""


def key_of(number: int) -> str:
    return f"in/{number // 10_000:05d}/{number:09d}.jpg"


def first_behind(text: str, keys: int) -> int:
    """The number of the first key behind a text, which need not be a key."""
    low, high = 0, keys
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if key_of(middle) > text else (middle + 1, high)
    return low


class Bucket(BaseHTTPRequestHandler):
    keys = 0
    asked: Any = None
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        with self.asked.get_lock():
            self.asked.value += 1
        behind = query.get("continuation-token", query.get("start-after", [""]))[0]
        start = first_behind(behind, self.keys)
        stop = min(start + int(query.get("max-keys", [PAGE])[0]), self.keys)
        more = stop < self.keys
        entries = "".join(
            f"<Contents><Key>in/{n // 10_000:05d}/{n:09d}.jpg</Key><Size>{n}</Size><ETag>&quot;{n:032x}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for n in range(start, stop)
        )
        body = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>b</Name><Prefix>in/</Prefix><KeyCount>{stop - start}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>"
            + (f"<NextContinuationToken>{key_of(stop - 1)}</NextContinuationToken>" if more else "")
            + f"{entries}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of a thousand requests."""


def serve(keys: int, asked: Any, ready: Connection) -> None:
    Bucket.keys, Bucket.asked = keys, asked
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        ready.send(server.server_address[1])
        server.serve_forever()


def write_inventory(keys: int, file: str) -> str:
    """An inventory's file of as many keys; its address."""
    schema = pa.schema([("bucket", pa.string()), ("key", pa.string()), ("size", pa.int64()), ("e_tag", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, keys, 100_000):
            numbers = range(start, min(start + 100_000, keys))
            columns = [["b"] * len(numbers), [key_of(n) for n in numbers], list(numbers)]
            writer.write_table(pa.table([*columns, [f"{n:032x}" for n in numbers]], schema=schema))
    return file


class Curve:
    """Writes a line of the CSV now and then. Memory is the process's own, and what of it is resident."""

    def __init__(self, options: Options) -> None:
        self.options, self.keys, self._stop = options, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Curve:
        if self.options.csv:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.options.csv:
            self._thread.join()
            if self.options.figure:
                draw(self.options.csv, self.options.figure)

    def _sample(self) -> None:
        start, me, going = time.monotonic(), psutil.Process(), True
        with open(self.options.csv or "", "w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["seconds", "keys", "driver_mib"])
            while going:
                going = not self._stop.wait(self.options.seconds)
                found = me.memory_info()
                own = round((found.rss - getattr(found, "shared", 0)) / MIB)
                lines.writerow([round(time.monotonic() - start, 1), self.keys, own])
                file.flush()


def draw(source: str, figure: str) -> None:
    from matplotlib.figure import Figure

    with open(source) as file:
        lines = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    made = Figure(figsize=(8, 3), layout="constrained")
    axes = made.subplots()
    axes.plot([line["keys"] / 1e6 for line in lines], [line["driver_mib"] for line in lines], color="#2b6cb0")
    axes.set_xlabel("keys listed, millions")
    axes.set_ylabel("driver's memory, MiB")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    made.savefig(figure, metadata={"Date": None} if figure.endswith("svg") else None)


def main(options: Options) -> None:
    """Print one row: keys, seconds, keys a second, requests, peak memory."""
    ours, theirs = multiprocessing.Pipe()
    asked = multiprocessing.Value("q", 0)
    server = multiprocessing.Process(target=serve, args=(options.keys, asked, theirs), daemon=True)
    server.start()
    os.environ |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}

    from captionkit.inputs.images import Images
    from captionkit.inputs.inventory import Inventory
    from captionkit.inputs.kinds import InputItem
    from captionkit.inputs.listing import Inputs
    from captionkit.inputs.options import InputOptions
    from captionkit.pipeline.manifest import make_manifest
    from captionkit.progress import Meter
    from captionkit.storage import Storage, StorageOptions
    from captionkit.table.table import CaptionTable

    # Patience for a machine on which the bucket's process may get no processor for minutes.
    patience = {"timeout_seconds": 600.0, "retry_seconds": 3600.0}
    storage = Storage(StorageOptions(endpoint_url=f"http://127.0.0.1:{ours.recv()}", **patience))
    spread = None
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if options.source == "cluster":
            import ray

            from captionkit.pipeline.ray_tasks import spread_over_cluster

            ray.init("local", include_dashboard=False, logging_level="ERROR")
            stack.callback(ray.shutdown)
            spread = spread_over_cluster()
        elif options.limit_mib:
            resource.setrlimit(resource.RLIMIT_DATA, (options.limit_mib * MIB, resource.RLIM_INFINITY))
        inventory = write_inventory(options.keys, f"{folder}/_inventory") if options.source == "inventory" else ""

        class Listed(Inputs):
            """What the inventory says, by the way of the manifest that S3 would write."""

            def pieces(self) -> Iterator[Images | InputItem]:
                for entries in Inventory("manifest.json", "Parquet", (inventory,), ()).entries(self.storage):
                    yield from self._several(entries)

        start, before = time.perf_counter(), time.process_time()
        with Meter("listing", "inputs", seconds=5) as meter, Curve(options) as curve:

            def progress(listed: int) -> None:
                curve.keys = listed
                meter.update(listed)

            address = InputOptions(("s3://b/in/",))
            inputs = Listed(address, Storage()) if inventory else Inputs(address, storage, spread=spread)
            manifest = make_manifest(
                inputs, CaptionTable(f"{folder}/out", Storage()), f"{folder}/out/_runs/m", progress
            )
        took, processor = time.perf_counter() - start, time.process_time() - before
    assert manifest.images == options.keys
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    row = {
        "keys": options.keys,
        "source": options.source,
        "seconds": took,
        "processor seconds": processor,
        "µs of processor a key": 1e6 * processor / options.keys,
        "requests": asked.value,
        "peak memory, MiB": peak,
    }
    report([row], options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
