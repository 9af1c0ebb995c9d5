"""The caption job from beginning to end."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import pyarrow as pa
import ray
import torch

from captionkit.config import to_config
from captionkit.counting import counted
from captionkit.inputs.kinds import passed_over
from captionkit.inputs.listing import Inputs
from captionkit.inputs.share import Share
from captionkit.model.bundle_files import BundleError, read_files
from captionkit.model.captioner import Captioner
from captionkit.model.device import pick_dtype
from captionkit.model.engines import engine_for
from captionkit.pipeline.caption_actor import ActorOptions, CaptionActor
from captionkit.pipeline.cluster import Pool, connect, node_cpus, plan_pool, raised_by_task, require_gpus
from captionkit.pipeline.fetch import FetchOptions
from captionkit.pipeline.finished import next_time
from captionkit.pipeline.guard import Guard
from captionkit.pipeline.machines import Machines, Waiting, no_progress
from captionkit.pipeline.manifest import Manifest, delete_manifest, make_manifest, replace_changed
from captionkit.pipeline.metrics import RunMetrics
from captionkit.pipeline.options import CaptionOptions
from captionkit.pipeline.preflight import check_carry, check_options, check_same_maker
from captionkit.pipeline.ray_log import listen
from captionkit.pipeline.run_record import RunRecord, now
from captionkit.pipeline.signals import JobStopped, TimeIsUp, stop_at, stop_behind, stop_on_signals
from captionkit.pipeline.stream import caption_stream
from captionkit.progress import Meter, log_line
from captionkit.schema import CONFIDENCE, schema_with
from captionkit.storage import Storage, StorageError
from captionkit.table.failures import failed_rows
from captionkit.table.lease import Lease
from captionkit.table.runs import RUNS
from captionkit.table.table import CaptionTable, Footer
from captionkit.table.writer import TableWriter, stored_columns
from captionkit.table.writing import OpenTable, alone, open_for_writing

RENEW_SECONDS = 30.0
"""Time between two writings of a living run's record."""


@dataclass(frozen=True)
class _Listed:
    """What captioning needs to know once inputs are listed and the table is ours to write to."""

    table: CaptionTable
    lease: Lease
    manifest: Manifest
    carry: dict[str, pa.DataType]
    """Columns behind the table's own: the carried ones, behind `CONFIDENCE` where the captioner has a calibration."""

    @property
    def schema(self) -> pa.Schema:
        return schema_with(self.carry)


class CaptionJob:
    """Caption what the options name. `run` does it; what is wrong with the options comes out of the constructor.

    Args:
        inputs: The options' inputs, where they were checked before this module was imported.
        actor: What captions; a stand-in measures the rest.

    Raises (from the constructor):
        UsageError: an option is out of range, the bundle cannot be used, or the table is another model's.
        BundleError: the captioner cannot be loaded.
        StorageError: the output cannot be read.
    """

    def __init__(
        self, options: CaptionOptions, inputs: Inputs | None = None, *, actor: type[CaptionActor] = CaptionActor
    ) -> None:
        check_options(options)
        self.options, self.actor = options, actor
        # Which schemes are allowed is asked of what the data name, not of what the user does.
        self.storage = Storage(options.storage).without_scheme_limit()
        self.files = read_files(options.captioner.model, self.storage)
        try:
            captioner = Captioner.from_files(self.files, device="cpu", dtype="float32", engine=None)
        except BundleError as err:
            raise BundleError(f"--model {options.captioner.model}: {err}") from err
        self.preprocessing = captioner.preprocessing
        self.fingerprint = captioner.fingerprint
        self.calibration = captioner.calibration
        self.added = {CONFIDENCE.name: CONFIDENCE.type} if self.calibration else {}
        captioner.check(options.search, options.words.banned, options.words.prefix)
        # As JSON has it, since it is held against what the table's files say.
        self.search = json.loads(json.dumps(asdict(options.search) | asdict(options.words)))
        self.table = CaptionTable(options.table.output, self.storage)
        self.until = next_time(options.table.until, datetime.now().astimezone()) if options.table.until else None
        self.inputs = inputs or Inputs(options.inputs, self.storage, output=self.table.uri)
        check_same_maker(self.table, self.fingerprint, self.search, mixed=options.table.mixed)
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
        self.run_id = f"{stamp}-{secrets.token_hex(3)}"
        self.base = f"{self.table.uri}/{RUNS}/{self.run_id}"
        self.record = RunRecord(
            self.run_id,
            # Addresses in full, so that the record means the same wherever it is read.
            # Whom to tell may be a secret: addresses that take messages are.
            to_config(options)
            | {"input": [self.storage.normalize(uri) for uri in options.inputs.input], "when_finished": None},
            {"fingerprint": self.fingerprint, "uri": options.captioner.model, "note": captioner.note},
        )
        if captioner.note:
            log_line(f"captioner {self.fingerprint}: {captioner.note}")

    @property
    def record_uri(self) -> str:
        return f"{self.base}.parquet"

    def run(self) -> RunRecord:
        """List, caption, write. Returns the run record, which also lies at `record_uri`, unless time was up before
        anything could be listed.

        Raises:
            UsageError: an input does not exist or holds no image, or another run is writing to the table (before Ray
            starts).
            StorageError: storage fails in a way that would fail every row alike.
            JobStopped: after what was captioned by then is written.
        """
        record, listed = self.record, None
        try:
            self.inputs.check()
            self._check_output()
            share = self.options.table.share or ""
            with stop_on_signals(), open_for_writing(self.table, self.run_id, share) as opened:
                self._check_maker(opened.table)
                with stop_at(self.until):
                    listed = self._list(opened)
                if listed.manifest.units:
                    self._caption(listed)
        except TimeIsUp:
            record.status = "time_is_up"
        except JobStopped:
            record.status = "stopped"
            raise
        except BaseException as err:
            if (stopped := stop_behind(err)) is not None:
                record.status = "stopped"
                raise stopped from None
            found = raised_by_task(err)
            record.broke(found)
            if found is err:
                raise
            raise found from None
        else:
            failed = record.counts["failed"] / max(1, record.rows)
            record.status = "too_many_failed" if failed > self.options.table.max_failed else "succeeded"
        finally:
            # A record of a run that found its input missing would only litter the output.
            if listed is not None:
                record.ended_at = now()
                record.write(self.storage, self.record_uri, listed.schema)
                delete_manifest(listed.manifest.units, self.storage)
        return record

    def _check_output(self) -> None:
        """Whether anything can be written at all; a fault that passes is left to the lease, which has more patience."""
        try:
            self.storage.check_writable(self.table.uri)
        except StorageError as err:
            if not err.fault:
                raise

    def _check_maker(self, table: CaptionTable) -> None:
        check_same_maker(table, self.fingerprint, self.search, mixed=self.options.table.mixed)

    def _list(self, opened: OpenTable) -> _Listed:
        start = time.monotonic()
        table, lease, share = opened.table, opened.lease, self.options.table.share
        inputs = Inputs(self.options.inputs, self.storage, output=table.uri)
        retried = 0
        if self.options.table.retry_failed:
            # Taken out, they are missing, and come again like all that is.
            lease.check()
            retried = table.drop(failed_rows(table))
        with Meter("listing", "inputs", seconds=self.options.cluster.progress_seconds) as meter:
            manifest = make_manifest(
                inputs, table, f"{self.base}.manifest", meter.update, Share.parse(share) if share else None
            )
        carry = self.added | dict(inputs.carry_types)
        lease.schema = schema_with(carry)
        lease.check()
        with alone(opened, self.run_id, share or "") as table:
            self._check_maker(table)
            check_carry(table, carry)
            replace_changed(manifest, table)
        listed = _Listed(table, lease, manifest, carry)
        self.record.spend("listing", time.monotonic() - start)
        self.record.counts |= {
            "listed": manifest.listed,
            "containers": manifest.containers,
            "duplicates": manifest.duplicates,
            "blank": inputs.blank,
            "done_before": manifest.done,
            "containers_done_before": manifest.finished_containers,
            "replaced": manifest.replaced,
            "retried": retried,
        }
        self.record.pass_over(manifest.passed_over)
        log_line(_summary(manifest, inputs))
        return listed

    def _caption(self, listed: _Listed) -> None:
        options, record = self.options, self.record
        start = time.monotonic()
        connection = connect(options.cluster)
        try:
            # ray.init() replaced our SIGTERM handler; install it again.
            with stop_on_signals():
                resources = ray.cluster_resources()
                record.resources = {name: resources.get(name, 0.0) for name in ("CPU", "GPU", "memory")}
                gpus = resources.get("GPU", 0.0)
                pool = plan_pool(options.cluster, node_cpus(), gpus, grows=connection != "started")
                if pool.device == "cpu":
                    pick_dtype(options.captioner.dtype, torch.device("cpu"))  # refuse one that is not for CPUs
                require_gpus(pool.gpus, f"--gpus-per-actor {pool.gpus:g}", connection)
                record.write(self.storage, self.record_uri, listed.schema)
                machines, hours = Machines(pool), options.cluster.wait_for_machines
                record.failed_machines = machines.failed
                listen().on_failed_start = machines.failed_start
                dataset = self._dataset(listed, pool, machines)
                record.spend("starting", time.monotonic() - start)
                with Waiting(pool, hours) as waiting:
                    try:
                        self._consume(dataset, listed, waiting)
                    except Exception as err:
                        found = machines.explain(no_progress(err, waiting, hours))
                        if found is err:
                            raise
                        raise found from err
        finally:
            if connection != "found":
                ray.shutdown()

    def _dataset(self, listed: _Listed, pool: Pool, machines: Machines) -> ray.data.Dataset:
        options, manifest = self.options, listed.manifest
        inputs = options.inputs
        fetch = FetchOptions(
            storage=options.storage,
            preprocessing=self.preprocessing,
            limits=inputs.limits(),
            threads=options.cluster.fetch_threads,
            image_column=inputs.image_column,
            decode_seconds=inputs.decode_seconds,
            carry=tuple((name, kind) for name, kind in listed.carry.items() if name not in self.added),
            done=ray.put(listed.table.ids_within(manifest.partial)) if manifest.partial else None,
        )
        actor = ActorOptions(
            search=options.search,
            words=options.words,
            dtype=options.captioner.dtype,
            engine=engine_for(options.captioner.engine, None if manifest.unknown else manifest.images),
            device=pool.device,
            threads=pool.threads,
            run_id=self.run_id,
            carry=fetch.carry,
            calibration=self.calibration,
        )
        batch_size = options.captioner.images_at_once(pool.gpus > 0)
        return caption_stream(
            manifest.units,
            fetch,
            pool,
            self.actor,
            (ray.put(self.files), actor),
            batch_size,
            wait_hours=options.cluster.wait_for_machines,
            machines=machines,
        )

    def _consume(self, dataset: ray.data.Dataset, listed: _Listed, waiting: Waiting) -> None:
        options, record, manifest = self.options.table, self.record, listed.manifest
        footer = Footer(self.fingerprint, self.search, {name: str(kind) for name, kind in listed.carry.items()})
        writer = TableWriter(
            listed.table,
            self.run_id,
            footer,
            stored_columns(listed.carry),
            flush_rows=options.flush_rows,
            flush_seconds=options.flush_minutes * 60,
            before_write=listed.lease.check,
        )
        record.total = total = None if manifest.unknown else manifest.images
        metrics = RunMetrics(self.run_id)
        start = first = renewed = time.monotonic()
        first_rows = 0
        guard = Guard(listed.table, manifest)
        try:
            with (
                stop_at(self.until),
                Meter("captioning", "images", total, self.options.cluster.progress_seconds) as meter,
            ):
                for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                    waiting.rows_came()
                    rows = guard.fresh(rows)
                    if not len(rows):
                        continue
                    record.add(rows)
                    metrics.add(rows)
                    if not first_rows:
                        first, first_rows = time.monotonic(), len(rows)
                        record.spend("waiting", first - start)
                    written = len(writer.files)
                    with _spending(record, "writing"):
                        writer.add(rows)
                    meter.update(record.rows, _failed_note(record))
                    metrics.level(None if total is None else total - record.rows, writer.unwritten)
                    if len(writer.files) > written or time.monotonic() - renewed > RENEW_SECONDS:
                        record.files, renewed = writer.files, time.monotonic()
                        record.measure(first, first_rows)
                        record.write(self.storage, self.record_uri, listed.schema)
        finally:
            # Flush on any exit, so finished captions are not lost.
            with _spending(record, "writing"):
                writer.flush()
            record.files = writer.files
            record.spend("captioning", time.monotonic() - start)
            record.measure(first, first_rows)
            if guard.again:
                record.counts["came_again"] = guard.again
        guard.demand_all(record.rows)
        duplicates = record.counts["duplicates"] - manifest.duplicates
        if duplicates:
            log_line(f"{duplicates:,} members of shards have the name of one before them (one row each)")
        in_shards = Counter(record.passed_over) - manifest.passed_over
        if in_shards:
            log_line(f"passed over in shards {passed_over(in_shards)}")


@contextmanager
def _spending(record: RunRecord, stage: str) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    finally:
        record.spend(stage, time.monotonic() - start)


def _failed_note(record: RunRecord) -> str:
    return f"{record.counts['failed']:,} failed" if record.counts["failed"] else ""


def _summary(manifest: Manifest, inputs: Inputs) -> str:
    parts = [f"{counted(manifest.images, 'image')} to caption"]
    if manifest.unknown:
        parts = [f"{counted(manifest.images, 'image')} and {counted(manifest.unknown, 'tar shard')} to caption"]
    done = manifest.done, manifest.finished_containers
    if any(done):
        parts.append(
            "already in the table: "
            + " and ".join(
                counted(n, *what)
                for n, what in zip(done, (("image",), ("shard or file", "shards or files")), strict=True)
                if n
            )
        )
    if manifest.replaced:
        parts.append(f"{counted(manifest.replaced, 'row')} replaced, as the image has changed since")
    if manifest.duplicates:
        parts.append(f"{counted(manifest.duplicates, 'address', 'addresses')} listed again (one row each)")
    if inputs.blank:
        parts.append(f"{counted(inputs.blank, 'list row')} without an address")
    parts += inputs.notes
    if inputs.ignored:
        parts.append(f"passed over {passed_over(inputs.ignored)}")
    return "; ".join(parts)
