"""The caption job from beginning to end."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from captionkit.config import to_config
from captionkit.counting import counted
from captionkit.inputs.ids import Ids, IdSet
from captionkit.inputs.kinds import odd_texts, passed_over
from captionkit.inputs.listing import Inputs
from captionkit.inputs.share import Share
from captionkit.model.bundle_files import BundleError, read_bundles
from captionkit.model.captioner import Captioner
from captionkit.model.device import pick_dtype
from captionkit.model.engines import engine_for
from captionkit.pipeline.caption_actor import ActorOptions, CaptionActor
from captionkit.pipeline.cluster import Pool, connect, node_cpus, plan_pool, raised_by_task, require_gpus
from captionkit.pipeline.contents import start_contents
from captionkit.pipeline.copies import FoundCopies, copied_rows
from captionkit.pipeline.fetch import FetchOptions
from captionkit.pipeline.finished import next_time
from captionkit.pipeline.guard import Guard, RowsMissing
from captionkit.pipeline.kept_listing import KeptListing
from captionkit.pipeline.listing import Listing
from captionkit.pipeline.machines import Machines, Waiting, no_progress
from captionkit.pipeline.manifest import Manifest, ManifestMaker, delete_manifest, replace_changed
from captionkit.pipeline.metrics import RunMetrics
from captionkit.pipeline.options import CaptionOptions
from captionkit.pipeline.preflight import (
    check_carry,
    check_existing,
    check_options,
    check_recaption,
    check_same_maker,
)
from captionkit.pipeline.ray_address import named_cluster
from captionkit.pipeline.ray_log import listen
from captionkit.pipeline.ray_tasks import spread_over_cluster
from captionkit.pipeline.run_record import RunRecord, now
from captionkit.pipeline.signals import JobStopped, TimeIsUp, stop_at, stop_behind, stop_on_signals
from captionkit.pipeline.stream import caption_stream
from captionkit.progress import Meter, log_line
from captionkit.schema import CONFIDENCE, schema_with
from captionkit.storage import Storage, StorageError, redact
from captionkit.storage.spread import Spread
from captionkit.table.failures import failed_rows
from captionkit.table.lease import Lease
from captionkit.table.recaption import Chosen, RecaptionWriter, choose
from captionkit.table.runs import RUNS
from captionkit.table.table import CaptionTable, Footer, Maker
from captionkit.table.writer import TableWriter, stored_columns
from captionkit.table.writing import OpenTable, alone, open_for_writing

RENEW_SECONDS = 30.0
"""Time between two writings of a living run's record."""


@dataclass(frozen=True)
class _Listed:
    """What captioning needs to know once inputs are listed, or a part of them, and the table is ours to write to."""

    table: CaptionTable
    lease: Lease
    manifest: Manifest
    """Of this part."""
    last: bool
    """Whether it is the last part."""
    carry: dict[str, pa.DataType]
    """Columns behind the table's own: the carried ones, behind `CONFIDENCE` where the captioner has a calibration."""
    chosen: Chosen
    """Captions to be made anew."""

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
        self.files = read_bundles(options.captioner.model, self.storage)
        try:
            captioner = Captioner.from_files(self.files, device="cpu", dtype="float32", engine=None)
        except BundleError as err:
            raise BundleError(f"--model {' '.join(map(redact, options.captioner.model))}: {err}") from err
        self.preprocessing = captioner.preprocessing
        self.fingerprint = captioner.fingerprint
        self.calibration = captioner.calibration
        captioner.check(options.search, options.words.banned, options.words.prefix)
        # As JSON has it, since it is held against what the table's files say.
        self.maker = Maker(self.fingerprint, json.loads(json.dumps(asdict(options.search) | asdict(options.words))))
        self.table = CaptionTable(options.table.output, self.storage)
        # A table keeps the columns that it has: without a calibration, what is added to it has no confidence.
        known = [CONFIDENCE.name in file.footer.carry for file in self.table.files]
        self.added = {CONFIDENCE.name: CONFIDENCE.type} if (known[0] if known else self.calibration) else {}
        self.until = next_time(options.table.until, datetime.now().astimezone()) if options.table.until else None
        self.inputs = inputs or Inputs(options.inputs, self.storage, output=self.table.uri)
        self._check_maker(self.table)
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
        self._first: tuple[float, int] | None = None
        """When the first rows came (monotonic), and how many."""
        self.contents: ray.actor.ActorHandle | None = None
        """Tells fetch tasks which image was the first with its contents (`--dedupe`)."""
        self._seen = IdSet()
        """Ids of the rows that have come: a shard may be in one part of the listing, and a member of it in another."""
        self.before: dict[str, dict[str, Any]] = {}
        """Some captions that this run has replaced, by address."""
        self.run_id = f"{stamp}-{secrets.token_hex(3)}"
        self.base = f"{self.table.uri}/{RUNS}/{self.run_id}"
        self.record = RunRecord(
            self.run_id,
            # Addresses in full, so that the record means the same wherever it is read.
            # Whom to tell may be a secret: addresses that take messages are.
            to_config(options)
            | {"input": [self.storage.normalize(uri) for uri in options.inputs.input], "when_finished": None},
            {"fingerprint": self.fingerprint, "uri": " ".join(options.captioner.model) or None, "note": captioner.note},
        )
        if self.calibration and not self.added:
            self.record.notes.append(
                f"captioner {self.fingerprint} is calibrated, but the table was begun without a column "
                f"`{CONFIDENCE.name}`, which its new rows lack too; another --output would have it"
            )
            log_line(self.record.notes[-1])
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
        record, listing, listed = self.record, None, None
        try:
            self.inputs.check()
            self._check_output()
            share = self.options.table.share or ""
            with stop_on_signals(), open_for_writing(self.table, self.run_id, share) as opened:
                self._check_maker(opened.table)
                chosen = self._choose(opened)
                with self._cluster() as spread, self._listing(opened, chosen, spread) as listing:
                    with stop_at(self.until):
                        listed = self._next(listing, opened, chosen)
                    if listed.manifest.units:
                        listed = self._caption(listed, listing, lambda: self._next(listing, opened, chosen))
                if listing.total.copies:
                    self._copy(listed, listing)
        except TimeIsUp:
            record.status = "time_is_up"
        except JobStopped:
            record.status = "stopped"
            raise
        except BaseException as err:
            if (stopped := stop_behind(err)) is not None:
                record.status = "stopped"
                raise stopped from None
            cause = raised_by_task(err)
            record.broke(cause)
            if cause is err:
                raise
            raise cause from None
        else:
            failed = record.counts["failed"] / max(1, record.rows)
            record.status = "too_many_failed" if failed > self.options.table.max_failed else "succeeded"
            if listing.kept is not None:
                listing.kept.forget()
        finally:
            # A record of a run that found its input missing would only litter the output.
            if listed is not None:
                record.ended_at = now()
                record.write(self.storage, self.record_uri, listed.schema)
            if listing is not None:
                delete_manifest(listing.units, self.storage)
        return record

    def _check_output(self) -> None:
        """Whether anything can be written at all; a fault that passes is left to the lease, which has more patience."""
        try:
            self.storage.check_writable(self.table.uri)
        except StorageError as err:
            if not err.fault:
                raise

    def _check_maker(self, table: CaptionTable) -> None:
        options = self.options.table
        if options.recaption_where is not None:
            check_recaption(table, options.recaption_where, self.maker)
        check_same_maker(table, self.maker, mixed=options.mixed or options.recaption_where is not None)

    def _choose(self, opened: OpenTable) -> Chosen:
        """The captions to make anew; rows that are to come again as if they were missing are taken out."""
        table, chosen, retried = opened.table, Chosen(), 0
        if self.options.table.retry_failed:
            opened.lease.check()
            retried = table.drop(failed_rows(table))
        if self.options.table.recaption_where is not None:
            opened.lease.check()
            chosen, failed = choose(table, self.options.table.recaption_where, self.maker)
            retried += table.drop(failed)
        self.record.counts["retried"] = retried
        return chosen

    @contextmanager
    def _cluster(self) -> Iterator[Spread | None]:
        """The cluster that the options name, or that this process has joined, for the listing to be spread over it.
        Ray of this run's own starts once there is something to caption."""
        if not ray.is_initialized() and named_cluster(self.options.cluster.address) is None:
            yield None
            return
        start = time.monotonic()
        connection, spread = connect(self.options.cluster), spread_over_cluster()
        if connection != "found":
            self.record.spend("starting", time.monotonic() - start)
        try:
            with stop_on_signals():  # ray.init() replaced our handler
                yield spread
        finally:
            spread.executor.shutdown()
            if connection != "found":
                ray.shutdown()

    def _listing(self, opened: OpenTable, chosen: Chosen, spread: Spread | None) -> Listing:
        options = self.options
        inputs = Inputs(options.inputs, self.storage, output=opened.table.uri, spread=spread)
        share = Share.parse(options.table.share) if options.table.share else None
        maker = ManifestMaker(
            inputs, opened.table, f"{self.base}.manifest", share, chosen, of_done=not options.table.mixed
        )
        # Which columns there are to carry is known when all is listed, and what is chosen is told from what is not.
        ahead = not options.inputs.carry and options.table.recaption_where is None
        kept = KeptListing(inputs, self.storage, opened.table.uri, options.table.share or "")
        return Listing(inputs, maker, kept=kept, ahead=ahead)

    def _next(self, listing: Listing, opened: OpenTable, chosen: Chosen) -> _Listed:
        """The next part of the inputs, once it is listed, with the table in order for it."""
        start, lease, share = time.monotonic(), opened.lease, self.options.table.share
        with Meter("listing", "inputs", seconds=self.options.cluster.progress_seconds) as meter:
            manifest = listing.next(self.record.rows, meter.update)
        carry = self.added | dict(listing.inputs.carry_types)
        lease.schema = schema_with(carry)
        lease.check()
        with alone(opened, self.run_id, share or "") as table:
            self._check_maker(table)
            check_carry(table, carry)
            check_existing(self.options.inputs, carry)
            if listing.maker.had_rows:
                replace_changed(manifest, table)
        listing.total.replaced += manifest.replaced
        listed = _Listed(table, lease, manifest, listing.finished, carry, chosen)
        self._count(manifest, listing.inputs)
        self.record.spend("listing", time.monotonic() - start)
        if listing.finished:
            self.record.notes += listing.inputs.notes
            log_line(_summary(listing.total, listing.inputs))
        else:
            log_line(
                f"captioning starts with {counted(manifest.images, 'image')}; listing goes on, "
                f"{listing.maker.listed:,} inputs so far"
            )
        return listed

    def _count(self, manifest: Manifest, inputs: Inputs) -> None:
        counts = self.record.counts
        for name, number in {
            "listed": manifest.listed,
            "containers": manifest.containers,
            "duplicates": manifest.duplicates,
            "done_before": manifest.done,
            "containers_done_before": manifest.finished_containers,
            "replaced": manifest.replaced,
            **({"copies": manifest.copies} if self.options.inputs.dedupe else {}),
        }.items():
            counts[name] = counts.get(name, 0) + number
        counts["blank"] = inputs.blank
        self.record.pass_over(manifest.passed_over)

    def _caption(self, listed: _Listed, listing: Listing, more: Callable[[], _Listed]) -> _Listed:
        """Caption what is listed, part by part; the last part."""
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
                bundle = ray.put(self.files)
                self.contents = start_contents() if options.inputs.dedupe else None
                record.spend("starting", time.monotonic() - start)
                while True:
                    dataset = self._dataset(listed, pool, machines, bundle)
                    with Waiting(pool, hours) as waiting:
                        try:
                            self._consume(dataset, listed, listing, waiting)
                        except Exception as err:
                            cause = machines.explain(no_progress(err, waiting, hours))
                            if cause is err:
                                raise
                            raise cause from err
                    if listed.last:
                        break
                    with stop_at(self.until):
                        listed = more()
                    if not listed.manifest.units:
                        break
        finally:
            if connection != "found":
                ray.shutdown()
        self._tell_of_shards(listing.total)
        return listed

    def _tell_of_shards(self, manifest: Manifest) -> None:
        """Log what was met in shards, beyond what was met when inputs were listed."""
        duplicates = self.record.counts["duplicates"] - manifest.duplicates
        if duplicates:
            log_line(f"{duplicates:,} members of shards have the name of one before them (one row each)")
        in_shards = Counter(self.record.passed_over) - manifest.passed_over
        if in_shards:
            log_line(f"passed over in shards {passed_over(in_shards)}")
        if self.record.odd_texts:
            log_line(odd_texts(self.record.odd_texts))

    def _dataset(self, listed: _Listed, pool: Pool, machines: Machines, bundle: ray.ObjectRef) -> ray.data.Dataset:
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
            renamed={name: source for source, name in inputs.carried().items()},
            skip=inputs.existing_stored() if inputs.existing == "skip" else None,
            each_page=inputs.frame == "each",
            contents=self.contents,
            done=ray.put(_done_within(listed)) if manifest.partial else None,
        )
        actor = ActorOptions(
            search=options.search,
            words=options.words,
            dtype=options.captioner.dtype,
            engine=engine_for(options.captioner.engine, manifest.images if _all_known(listed) else None),
            device=pool.device,
            threads=pool.threads,
            run_id=self.run_id,
            carry=fetch.carry,
            confidence=bool(self.added),
            existing=inputs.existing_stored(),
            skip=fetch.skip is not None,
        )
        batch_size = options.captioner.images_at_once(pool.gpus > 0)
        return caption_stream(
            manifest.units,
            fetch,
            pool,
            self.actor,
            (bundle, actor),
            batch_size,
            wait_hours=options.cluster.wait_for_machines,
            machines=machines,
        )

    def _consume(self, dataset: ray.data.Dataset, listed: _Listed, listing: Listing, waiting: Waiting) -> None:
        record, manifest = self.record, listed.manifest
        before, files_before = record.rows, list(record.files)
        writer = self._writer(listed)
        total = None if manifest.unknown else manifest.images
        known = listed.last and not listing.total.unknown
        record.total = listing.total.images + listing.total.copies if known else None
        metrics = RunMetrics(self.run_id)
        found = FoundCopies(self.storage, f"{self.base}.manifest-found-{len(listing.units)}", listing.inputs)
        start = renewed = time.monotonic()
        guard = Guard(listed.table, manifest, self._seen)
        try:
            with (
                stop_at(self.until),
                Meter("captioning", "images", total, self.options.cluster.progress_seconds) as meter,
            ):
                for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                    waiting.rows_came()
                    rows = guard.fresh(rows)
                    while guard.ends and isinstance(writer, TableWriter):
                        writer.end(**guard.ends.pop())
                    if self.contents is not None:
                        record.add_work(rows.filter(pc.is_valid(rows["same_as"])))
                        rows = found.set_aside(rows)
                    if not len(rows):
                        continue
                    record.add(rows)
                    metrics.add(rows)
                    listing.check()
                    if self._first is None:
                        self._first = time.monotonic(), len(rows)
                        record.spend("waiting", self._first[0] - start)
                    written = len(writer.files)
                    with _spending(record, "writing"):
                        writer.add(rows)
                    done = record.rows - before + found.count
                    meter.update(done, _failed_note(record))
                    metrics.level(None if total is None else total - done, writer.unwritten)
                    if len(writer.files) > written or time.monotonic() - renewed > RENEW_SECONDS:
                        record.files, renewed = [*files_before, *writer.files], time.monotonic()
                        record.measure(*self._first)
                        record.write(self.storage, self.record_uri, listed.schema)
        finally:
            # Flush on any exit, so finished captions are not lost.
            with _spending(record, "writing"):
                writer.flush()
                listing.found(found.take(), found.count)
            record.files = [*files_before, *writer.files]
            record.spend("captioning", time.monotonic() - start)
            if self._first is not None:
                record.measure(*self._first)
            if found.count:
                record.counts["copies"] = record.counts.get("copies", 0) + found.count
            if guard.again:
                record.counts["came_again"] = record.counts.get("came_again", 0) + guard.again
            if isinstance(writer, RecaptionWriter):
                self.before = writer.before
                record.counts |= {"recaptioned": writer.replaced, "kept": writer.kept}
        if isinstance(writer, RecaptionWriter):
            guard.demand_all(record.rows - writer.in_containers, writer.lost(manifest.containers_to_do))
            log_line(_recaptioned(writer))
        else:
            guard.demand_all(record.rows - before + found.count)

    def _copy(self, listed: _Listed, listing: Listing) -> None:
        """Give images that were not read the rows of those with the same contents."""
        copies, record, start = listing.total.copies, self.record, time.monotonic()
        writer, copied = self._table_writer(listed), 0
        before = list(record.files)
        table = CaptionTable(listed.table.uri, self.storage)
        try:
            with stop_at(self.until):
                for rows in copied_rows(listing.copy_units, table, self.storage, self.run_id, listed.carry):
                    record.add(rows)
                    writer.add(rows)
                    copied += len(rows)
        finally:
            writer.flush()
            record.files = [*before, *writer.files]
            record.counts["copied"] = copied
            record.spend("copying", time.monotonic() - start)
        if copied < copies:
            raise RowsMissing(
                f"{counted(copies - copied, 'image')} of the same contents as others lack rows, as these do. "
                "The same command captions what is missing"
            )
        log_line(f"{counted(copied, 'image')} of the same contents as others: each has its row, with their captions")

    def _table_writer(self, listed: _Listed) -> TableWriter:
        """Writes files of the table that this run's captions are in, behind those that it has written."""
        options = self.options.table
        return TableWriter(
            listed.table,
            self.run_id,
            Footer(*self.maker, {name: str(kind) for name, kind in listed.carry.items()}),
            stored_columns(listed.carry),
            flush_rows=options.flush_rows,
            flush_seconds=options.flush_minutes * 60,
            number=len(self.record.files),
            each_page=self.options.inputs.frame == "each",
            before_write=listed.lease.check,
        )

    def _writer(self, listed: _Listed) -> TableWriter | RecaptionWriter:
        options, writer = self.options.table, self._table_writer(listed)
        if options.recaption_where is None:
            return writer
        return RecaptionWriter(
            writer,
            listed.table,
            listed.chosen,
            self.maker,
            stored_columns(listed.carry),
            flush_rows=options.flush_rows,
            flush_seconds=options.flush_minutes * 60,
            before_write=listed.lease.check,
        )


def _all_known(listed: _Listed) -> bool:
    """Whether it is known how many images there are to caption."""
    return listed.last and not listed.manifest.unknown


def _done_within(listed: _Listed) -> Ids:
    """Ids of the rows that stand of containers to be read again, sorted."""
    done = listed.table.ids_within(listed.manifest.partial)
    return done[listed.chosen.find(done) < 0]


def _recaptioned(writer: RecaptionWriter) -> str:
    parts = [f"{counted(writer.replaced, 'caption')} replaced"]
    if writer.kept:
        parts.append(f"{writer.kept:,} left as they were, since the new captioner failed on their images")
    if absent := int((~writer.came).sum()):
        parts.append(f"{absent:,} left as they were, since their images could not be read or are not among the inputs")
    return "; ".join(parts)


def _plural(what: str) -> tuple[str, str]:
    return what, "files of pages" if what == "file of pages" else f"{what}s"


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
        unknown = {"tar shard": manifest.unknown - manifest.paged, "file of pages": manifest.paged}
        parts = [counted(manifest.images, "image")] if manifest.images or not manifest.paged else []
        parts += [counted(count, *_plural(what)) for what, count in unknown.items() if count]
        parts = [" and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts) + " to caption"]
    if manifest.anew:
        parts[0] += f", {manifest.anew:,} of them anew"
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
    if manifest.copies:
        parts.append(f"{counted(manifest.copies, 'image')} of the same contents as others (not read; --dedupe)")
    if manifest.paged and inputs.options.dedupe:
        parts.append(f"{counted(manifest.paged, *_plural('file of pages'))} read each, copies or not (--frame each)")
    if manifest.duplicates:
        parts.append(f"{counted(manifest.duplicates, 'address', 'addresses')} listed again (one row each)")
    if inputs.blank:
        parts.append(f"{counted(inputs.blank, 'list row')} without an address")
    parts += inputs.notes
    if inputs.ignored:
        parts.append(f"passed over {passed_over(inputs.ignored)}")
    return "; ".join(parts)
