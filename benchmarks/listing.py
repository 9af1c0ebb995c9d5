"""How fast a bucket of a million keys becomes a manifest, and how much memory the driver takes for it.

The bucket is a stand-in that answers ListObjectsV2 in a process of its own, as quickly as Python can: a real one
takes longer over each page and shows less of what the driver does. With `--source inventory` the keys come from an S3
Inventory in the place of the listing: one Parquet file on disk.

    python benchmarks/listing.py --keys 1000000
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from _report import report

PAGE = 1000


@dataclass(frozen=True)
class Options:
    """Seconds and peak memory of listing a bucket."""

    keys: int = 1_000_000
    source: Literal["prefix", "inventory"] = "prefix"
    json: str | None = None
    """Also write the table, with the machine's facts, to this file."""


class Bucket(BaseHTTPRequestHandler):
    keys = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("continuation-token", ["0"])[0])
        stop = min(start + PAGE, self.keys)
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
            + (f"<NextContinuationToken>{stop}</NextContinuationToken>" if more else "")
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


def serve(keys: int, ready: Connection) -> None:
    Bucket.keys = keys
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        ready.send(server.server_address[1])
        server.serve_forever()


def write_inventory(keys: int, file: str) -> str:
    """An inventory's file of as many keys; its address."""
    schema = pa.schema([("bucket", pa.string()), ("key", pa.string()), ("size", pa.int64()), ("e_tag", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, keys, 100_000):
            numbers = range(start, min(start + 100_000, keys))
            names = [f"in/{n // 10_000:05d}/{n:09d}.jpg" for n in numbers]
            columns = [["b"] * len(numbers), names, list(numbers), [f"{n:032x}" for n in numbers]]
            writer.write_table(pa.table(columns, schema=schema))
    return file


def main(options: Options) -> None:
    """Print one row: keys, seconds, keys a second, peak memory."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(options.keys, theirs), daemon=True)
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

    storage = Storage(StorageOptions(endpoint_url=f"http://127.0.0.1:{ours.recv()}"))
    with tempfile.TemporaryDirectory() as folder:
        inventory = write_inventory(options.keys, f"{folder}/_inventory")

        class Listed(Inputs):
            """What the inventory says, by the way of the manifest that S3 would write."""

            def pieces(self) -> Iterator[Images | InputItem]:
                for entries in Inventory("manifest.json", "Parquet", (inventory,), ()).entries(self.storage):
                    yield from self._several(entries)

        start, before = time.perf_counter(), time.process_time()
        with Meter("listing", "inputs", seconds=5) as meter:
            kind = Inputs if options.source == "prefix" else Listed
            inputs = kind(InputOptions(("s3://b/in/",)), storage if options.source == "prefix" else Storage())
            manifest = make_manifest(
                inputs, CaptionTable(f"{folder}/out", Storage()), f"{folder}/out/_runs/m", meter.update
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
        "peak memory, MiB": peak,
    }
    report([row], options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
