"""A table of a million rows: how memory and rate stand over the whole run, and what comes after it.

A caption job with everything real but the captioner: a stub that captions every image alike, so that what is
measured is the pipeline. Images are tiny, and links to two hundred different files. In order:

1. the run: rows, seconds, memory of the driver and of the workers every few seconds, as CSV, and their curves;
2. the same command again, with nothing to do;
3. the anti-join of a listing of ten million addresses with a table of as many rows, and `check` of that table, each in
   a process of its own that may take `--limit-gib`.

    python benchmarks/million.py                                   # all, into benchmarks/results/
    python benchmarks/million.py --rows 20000 --ids 200000 --csv /tmp/m.csv --figure /tmp/m.svg
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import tyro
from _report import Row, report

IMAGES_DRAWN = 200
SIZE = 32
MIB = 2**20


@dataclass(frozen=True)
class Options:
    """Rows against seconds and memory, of a run, a rerun, an anti-join and a check."""

    rows: int = 1_000_000
    """Images of the run."""
    ids: int = 10_000_000
    """Rows of the table that is joined and checked; 0 leaves that out."""
    seconds: float = 5.0
    """Between two lines of the CSV."""
    csv: str = "benchmarks/results/million.csv"
    figure: str = "benchmarks/results/million.svg"
    """The curves; SVG or PNG."""
    limit_gib: float = 2.0
    """What the anti-join and the check may take."""
    fetch_threads: int = 16
    folder: str | None = None
    """Where images and tables lie; default: a temporary folder, which is removed."""
    json: str | None = None
    """Also write the table, with the machine's facts, to this file."""


class StubCaption(NamedTuple):
    text: str
    score: float


class Stub:
    """A captioner that does not look."""

    def __init__(self, fingerprint: str, preprocessing: Any) -> None:
        self.fingerprint, self.preprocessing = fingerprint, preprocessing

    def caption_pixels(self, pixels: Any, *_: Any, **__: Any) -> list[list[StubCaption]]:
        return [[StubCaption("a small image of something", -0.5)] for _ in range(len(pixels))]


def make_images(folder: Path, count: int) -> None:
    """`count` images in folders of a thousand, as links to some of them."""
    import io

    from captionkit.scenes.drawing import draw
    from captionkit.scenes.scene import random_scene

    seen = folder.parent / "drawn"
    seen.mkdir(parents=True)
    for seed in range(IMAGES_DRAWN):
        buffer = io.BytesIO()
        draw(random_scene(seed), 48).save(buffer, "JPEG", quality=80)
        (seen / str(seed)).write_bytes(buffer.getvalue())
    for number in range(count):
        place = folder / f"{number // 1000:05d}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        os.link(seen / f"{number % IMAGES_DRAWN}", place / f"{number:08d}.jpg")


# The run


def caption(folder: str, output: str, options: Options) -> Any:
    """The caption job with the stub in the captioner's place; its run record."""
    from captionkit.images import Preprocessing
    from captionkit.inputs.options import InputOptions
    from captionkit.pipeline.caption_actor import CaptionActor
    from captionkit.pipeline.job import CaptionJob
    from captionkit.pipeline.options import CaptionOptions, ClusterOptions, OutputOptions
    from captionkit.schema import TRANSIENT, schema_with

    preprocessing = Preprocessing(size=SIZE, resize=SIZE)

    class StubActor(CaptionActor):
        def __init__(self, bundle: Any, options: Any) -> None:
            self.captioner = Stub(job_fingerprint, preprocessing)  # type: ignore[assignment]
            self.options, self.part = options, None
            self.schema = pa.schema([*schema_with(dict(options.carry)), *TRANSIENT])

    job = CaptionJob(
        CaptionOptions(
            InputOptions((folder,)),
            OutputOptions(output),
            cluster=ClusterOptions(actors="1", fetch_threads=options.fetch_threads, progress_seconds=10.0),
        ),
        actor=StubActor,
    )
    job_fingerprint = job.fingerprint
    job.preprocessing = preprocessing
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    stop = threading.Event()
    sampler = threading.Thread(target=sample, args=(job.record, options, stop), daemon=True)
    sampler.start()
    try:
        return job.run()
    finally:
        stop.set()
        sampler.join()


def sample(record: Any, options: Options, stop: threading.Event) -> None:
    """Write a line of the CSV now and then. Memory is a process's own: without Ray's object store, which all map."""
    start, me = time.monotonic(), psutil.Process()
    with open(options.csv, "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["seconds", "rows", "driver_mib", "workers_mib", "largest_worker_mib", "spilled_mib"])
        while not stop.wait(options.seconds):
            workers = [own_memory(child) for child in me.children(recursive=True) if is_worker(child)]
            figures = [own_memory(me), sum(workers), max(workers, default=0), spilled()]
            lines.writerow([round(time.monotonic() - start, 1), record.rows, *(round(size / MIB) for size in figures)])
            file.flush()


def is_worker(process: psutil.Process) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return bool(line) and (line[0].startswith("ray::") or "captionkit.images.decoder_worker" in line)


def own_memory(process: psutil.Process) -> int:
    try:
        found = process.memory_info()
    except psutil.Error:
        return 0
    return int(found.rss - getattr(found, "shared", 0))


def spilled() -> int:
    """Bytes that Ray has moved from its object store to disk: in a steady state none."""
    home = Path(tempfile.gettempdir(), "ray", "session_latest")
    return sum(file.stat().st_size for file in home.resolve().glob("ray_spilled_objects*/*") if file.is_file())


# Ten million rows


def make_table(output: Path, listing: Path, count: int) -> None:
    """A table of that many captioned rows, the list of their addresses, and the record of the run that made it."""
    from captionkit.inputs.ids import image_id
    from captionkit.schema import SCHEMA
    from captionkit.storage.documents import to_document
    from captionkit.table.table import Footer, to_parquet

    (output / "_runs").mkdir(parents=True)
    writer = None
    for part, start in enumerate(range(0, count, 500_000)):
        uris = [f"s3://archive/{n // 10_000:05d}/{n:09d}.jpg" for n in range(start, min(count, start + 500_000))]
        same: dict[str, Any] = {
            "status": "captioned",
            "caption": "a small image of something",
            "score": -0.5,
            "width": 48,
            "height": 48,
            "model": "stub",
            "run_id": "r",
            "captioned_at": 0,
        }
        made = {"uri": pa.array(uris), "image_id": pa.array([image_id(uri, "") for uri in uris])}
        columns = [
            made[name] if name in made else pa.repeat(pa.scalar(same.get(name), kind), len(uris))
            for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)
        ]
        table = pa.Table.from_arrays(columns, schema=SCHEMA)
        (output / f"captions-r-{part:05d}.parquet").write_bytes(to_parquet(table, Footer("stub", {}, {})))
        writer = writer or pq.ParquetWriter(listing, pa.schema([("uri", pa.string())]))
        writer.write_table(pa.table({"uri": uris}))
    assert writer is not None
    writer.close()
    record = {"run_id": "r", "status": "succeeded", "started_at": "2026", "options": {"input": [str(listing)]}}
    record["options"]["stat_listed"] = False  # type: ignore[index]
    (output / "_runs" / "r.parquet").write_bytes(to_document(record, SCHEMA))


def join(output: Path, listing: Path) -> str:
    """Plan a run on inputs that the table holds all of."""
    from captionkit.inputs.listing import Inputs
    from captionkit.inputs.options import InputOptions
    from captionkit.pipeline.manifest import make_manifest, replace_changed
    from captionkit.storage import Storage
    from captionkit.table.table import CaptionTable

    table = CaptionTable(str(output), Storage())
    inputs = Inputs(InputOptions((str(listing),), stat_listed=False), Storage())
    manifest = make_manifest(inputs, table, f"{output}/_runs/m")
    replace_changed(manifest, table)
    assert manifest.done == manifest.listed == len(table)
    assert not manifest.units
    return f"{manifest.done:,} ids joined"


def prove(output: Path, _listing: Path) -> str:
    from captionkit.storage import Storage
    from captionkit.table.check import check

    report = check(str(output), Storage())
    assert report.ok, report.text()
    return f"{report.rows:,} rows checked"


def again(folder: str, output: str) -> str:
    """The run's command once more."""
    from captionkit.inputs.options import InputOptions
    from captionkit.pipeline.job import CaptionJob
    from captionkit.pipeline.options import CaptionOptions, OutputOptions

    record = CaptionJob(CaptionOptions(InputOptions((folder,)), OutputOptions(output))).run()
    assert record.rows == 0
    return f"{record.counts['done_before']:,} rows of which nothing was to do"


def _apart(send: Any, action: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    start = time.perf_counter()
    result = action(*arguments)
    send.send((result, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10))


def measured(action: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """What an action returns in a process of its own, its seconds, and its peak memory in MiB."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_apart, args=(theirs, action, arguments))
    process.start()
    theirs.close()
    try:
        result: tuple[Any, float, float] = ours.recv()
    except EOFError:
        sys.exit(f"{action.__name__} failed")
    process.join()
    return result


def run_job(folder: str, output: str, options: Options) -> dict[str, Any]:
    record = caption(folder, output, options)
    return {"rows": record.rows, "failed": record.counts["failed"], "seconds": record.seconds}


def draw_curves(options: Options) -> None:
    from matplotlib.figure import Figure

    with open(options.csv) as file:
        lines = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    minutes = [line["seconds"] / 60 for line in lines]
    figure = Figure(figsize=(8, 5), layout="constrained")
    rows, memory = figure.subplots(2, 1, sharex=True)
    rows.plot(minutes, [line["rows"] for line in lines], color="#2b6cb0")
    rows.set_ylabel("rows")
    for name, label, colour in (
        ("driver_mib", "driver", "#2b6cb0"),
        ("largest_worker_mib", "largest worker", "#c05621"),
        ("workers_mib", "all workers", "#718096"),
    ):
        memory.plot(minutes, [line[name] for line in lines], label=label, color=colour)
    memory.set_ylim(bottom=0)
    memory.set_ylabel("memory, MiB")
    memory.set_xlabel("minutes")
    memory.legend(loc="center right", frameon=False)
    for axes in (rows, memory):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    rows.set_ylim(bottom=0)
    rows.yaxis.set_major_formatter("{x:,.0f}")
    figure.savefig(options.figure, metadata={"Date": None} if options.figure.endswith("svg") else None)


def main(options: Options) -> None:
    """Print a row for each of the measurements; leave with 1 where one took more memory than it may."""
    rows: list[Row] = []
    home = Path(options.folder or tempfile.mkdtemp(prefix="captionkit-million-"))
    too_much = False
    try:
        if options.rows:
            make_images(home / "in", options.rows)
            did, seconds, _ = measured(run_job, str(home / "in"), str(home / "out"), options)
            assert did["rows"] == options.rows
            assert did["failed"] == 0
            took = ", ".join(f"{stage} {value:,.0f}" for stage, value in did["seconds"].items())
            print(f"{did['rows'] / seconds:,.0f} rows a second; seconds of stages: {took}", flush=True)
            rows.append({"what": f"{did['rows']:,} rows captioned", "seconds": seconds, "peak memory, MiB": None})
            draw_curves(options)
            result, seconds, peak = measured(again, str(home / "in"), str(home / "out"))
            rows.append({"what": result, "seconds": seconds, "peak memory, MiB": peak})
        if options.ids:
            table, listing = home / "table", home / "list.parquet"
            make_table(table, listing, options.ids)
            for action in (join, prove):
                result, seconds, peak = measured(action, table, listing)
                rows.append({"what": result, "seconds": seconds, "peak memory, MiB": peak})
                too_much |= peak > options.limit_gib * 1024
    finally:
        if options.folder is None:
            shutil.rmtree(home)
    if rows:
        report(rows, options.json)
    sys.exit(int(too_much))


if __name__ == "__main__":
    main(tyro.cli(Options))
