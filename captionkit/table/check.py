"""Proof of the promise on a finished table: every input has exactly one row.

Of the table: every file is readable Parquet of the schema, what its footer counts is in it, each row is a caption or a
failure with its reason, no address has two, and one model made all captions. Of its inputs: they are listed anew, as
the run records or the user name them, and each is looked for; on request each image within shards too. Memory: some 50
bytes a row of the table, nothing for the inputs but the names in one shard at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from captionkit.errors import UsageError
from captionkit.inputs.containers import CONTAINER_ERRORS, image_members
from captionkit.inputs.ids import image_ids
from captionkit.inputs.images import Images, in_batches
from captionkit.inputs.kinds import InputItem, passed_over
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.storage import Storage, StorageError, StorageOptions, has_pages, join_member, public_uri, redact
from captionkit.storage.archives import listing
from captionkit.table.check_index import TableIndex
from captionkit.table.check_report import CheckReport
from captionkit.table.lease import holders
from captionkit.table.runs import no_table, read_run_records
from captionkit.table.table import CaptionTable
from captionkit.table.writing import unfinished_merges

INPUT_OPTIONS = ("input", "format", "uri_column", "image_column", "stat_listed")
"""The options that decide what the inputs of a run are."""
CHUNK = 8192


def check(
    output: str,
    storage: Storage,
    *,
    coverage: bool = True,
    inputs: Sequence[str] = (),
    members: bool = False,
    every_column: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> CheckReport:
    """Check a table, and that it covers its inputs.

    Args:
        coverage: List the inputs anew: those of the newest run, and of earlier ones that had come to their end.
        inputs: Addresses to list in place of those that run records name. How they are read is as in the newest run.
        members: Look for the row of each image in shards and Parquet files, not only for their number.
        every_column: Read all columns, to be sure that all are readable; else those that the promise is about.
        progress: Called with the number of rows read, then of inputs listed.

    Raises:
        UsageError: there is no table.
        StorageError: storage fails.
    """
    table = CaptionTable(output, storage, skip_unreadable=True)
    report = CheckReport(public_uri(table.uri))
    if not table.files and not table.unreadable:
        raise no_table(table.uri, storage)
    for uri, reason in table.unreadable.items():
        report.problem("unreadable", f"{uri}: {reason}")
    for merged, replaced in unfinished_merges(table).items():
        for uri in replaced:
            report.problem("replaced", f"{uri} (by {merged})")
        table.files = [file for file in table.files if file.uri not in replaced]
    for writer in holders(table.uri, storage):
        report.note("writing", f"{writer.run_id} on host {writer.host} since {writer.started_at}")
    runs = read_run_records(table.uri, storage)
    rows = TableIndex(table, report, every_column, progress)
    several = any(run["options"].get("mixed") or run["options"].get("recaption_where") for run in runs)
    _check_models(table, report, rows.models, mixed=several)
    rows.index()
    if coverage:
        if inputs:
            runs = [_naming(inputs, runs, storage)]
        _Coverage(rows, report, progress, members).check(runs)
    return report


def _naming(inputs: Sequence[str], runs: list[dict[str, Any]], storage: Storage) -> dict[str, Any]:
    """The record that a run over these inputs would have, with the other options of the newest run."""
    options = runs[0]["options"] if runs else {}
    return {"run_id": "", "options": {**options, "input": [storage.normalize(address) for address in inputs]}}


def _check_models(table: CaptionTable, report: CheckReport, counts: Counter[str], *, mixed: bool) -> None:
    every = [maker for file in table.files for maker in file.footer.makers()]
    report.models = sorted(set(counts) | {maker.model for maker in every})
    makers = {json.dumps(maker, sort_keys=True) for maker in every}
    kinds = report.models if len(report.models) > 1 else sorted(makers)
    if len(kinds) > 1 and not mixed:
        report.problem("models", *kinds, count=len(kinds))


class _Coverage:
    """Looks for each input's row."""

    def __init__(self, rows: TableIndex, report: CheckReport, progress: Callable[[int], None], members: bool) -> None:
        self.rows, self.report, self.progress, self.members = rows, report, progress, members
        self.listed: set[int] = set()
        """Indices of the containers that are among the inputs."""

    def check(self, runs: list[dict[str, Any]]) -> None:
        report, is_complete = self.report, True
        if not runs:
            report.problem("coverage", f"there is no run record in {self.rows.table.uri}/_runs that would name them")
            return
        report.listed = 0
        for number, run in enumerate(_distinct(runs)):
            try:
                inputs = _inputs(run, self.rows.table)
                self._items(inputs)
                where = f"in the inputs of run {run['run_id']}" if run["run_id"] else "in --input"
                if inputs.blank:
                    report.note("blank", where, count=inputs.blank)
                for note in inputs.notes:
                    report.note("lists", note)
                self._pass_over(inputs.ignored, where)
            except (UsageError, StorageError) as err:
                is_complete = False
                # The archive of an earlier night may be gone, and its rows in good order.
                tell = report.note if number else report.problem
                denied = isinstance(err, StorageError) and err.kind == "permission"
                hint = " (run records keep no passwords; of web addresses, ~/.netrc may)" if denied else ""
                tell("coverage", f"those of run {run['run_id']}: {err}{hint}" if run["run_id"] else str(err))
        extra = ~self.rows.in_input
        extra &= ~np.isin(self.rows.containers, np.array(sorted(self.listed), np.int32))
        if is_complete and extra.any():
            places = np.flatnonzero(extra)
            report.note("extra", *self.rows.addresses(places), count=len(places))

    def _pass_over(self, files: Counter[str], where: str) -> None:
        if files:
            self.report.note("passed_over", f"{passed_over(files)} {where}", count=files.total())

    def _items(self, inputs: Inputs) -> None:
        for batch in in_batches(inputs.pieces(), CHUNK):
            if isinstance(batch, Images):
                self._images(batch)
            else:
                self._images(Images.of([item for item in batch if item.kind == "image"]))
                for item in batch:
                    if item.kind != "image":
                        if (at := int(self.rows.find([item.name])[0])) >= 0:
                            self.rows.in_input[at] = True
                        self._container(item, item.name)
            self.report.listed = (self.report.listed or 0) + len(batch)
            self.progress(self.report.listed)

    def _images(self, images: Images) -> None:
        places = self.rows.find(images.names)
        found = np.flatnonzero(places >= 0)
        at = places[found]
        self.rows.in_input[at] = True
        images_found = images.take(found)
        changed = self.rows.ids[at] != image_ids(images_found.names, images_found.versions)
        for name in images_found.names.filter(pa.array(changed)).to_pylist():
            self.report.note("changed", name)
        for item in images.take(np.flatnonzero(places < 0)).items():
            if (name := item.name) in self.rows.parts:  # its pages have rows of their own
                self._container(item, name)
            else:
                self.report.problem("missing", name)

    def _container(self, item: InputItem, name: str) -> None:
        """A shard or a Parquet file of images: whether all of its rows are there."""
        self.listed.add(self.rows.names.get(name, -2))
        parts = self.rows.parts.get(name, [])
        current = [part for part in parts if part[0] == item.version]
        if parts and not current:
            self.report.note("changed", name)
            return
        if self.members:
            self._members(item, name)
        present = sum(rows for _, rows, _ in current)
        totals = [total for _, _, total in current if total is not None]
        total = max([*totals, sum(item.row_groups)]) if item.kind == "parquet" else max(totals, default=None)
        if total is not None and present >= total:
            return
        if not parts and item.kind == "tar" and self._holds_no_image(item):
            return
        of = f"of {total:,} rows" if total is not None else "rows, and its end was not reached"
        self.report.problem("unfinished", f"{name}: {present:,} {of}")

    def _holds_no_image(self, item: InputItem) -> bool:
        """Whether a shard of which the table has no row has none to give; read up to its first image."""
        try:
            return next(self._images_in(item, Counter()), None) is None
        except CONTAINER_ERRORS:
            return False  # a broken shard has a row that says so

    def _images_in(self, item: InputItem, others: Counter[str]) -> Iterator[str]:
        """Names of the images in a shard."""
        with self.rows.table.storage.open(item.uri) as stream:
            for member, _, _ in image_members(listing(stream), others):
                yield member.name

    def _members(self, item: InputItem, name: str) -> None:
        """The images within a container, each by its address."""
        if item.kind == "image":
            pages = max(total or 0 for _, _, total in self.rows.parts[name])
            self._find([f"{name}#page={page}" for page in range(1, pages + 1)] if pages > 1 else [name])
            return
        if item.kind == "parquet":
            self._find([join_member(name, str(row)) for row in range(sum(item.row_groups))])
            return
        others: Counter[str] = Counter()
        members: dict[str, None] = {}
        try:
            for member in self._images_in(item, others):
                members[join_member(name, member)] = None
        except CONTAINER_ERRORS as err:
            if isinstance(err, StorageError) and err.fatal:
                raise
            if int(self.rows.find([name])[0]) < 0:  # else a failed row says so
                self.report.problem("coverage", f"{name}: {redact(' '.join(str(err).split()))[:300]}")
            if members:
                members.popitem()  # what broke may be this one's own data, which nobody has read here
        self._find(list(members))
        self._pass_over(others, f"in {name}")

    def _find(self, members: list[str]) -> None:
        for at, member in zip(self.rows.find(members).tolist(), members, strict=True):
            if at < 0 and not (has_pages(member) and self.rows.find([f"{member}#page=1"])[0] >= 0):
                self.report.problem("members", member)


def _distinct(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest run, and those earlier ones that came to their end; of those that had the same inputs, one."""
    distinct: dict[str, dict[str, Any]] = {}
    for number, run in enumerate(runs):
        if not number or run.get("status") in ("succeeded", "too_many_failed"):
            inputs = {name: run["options"].get(name) for name in INPUT_OPTIONS}
            distinct.setdefault(json.dumps(inputs, sort_keys=True), run)
    return list(distinct.values())


def _inputs(run: dict[str, Any], table: CaptionTable) -> Inputs:
    """What a run was to caption, from where it found it unless other storage is asked for."""
    storage = table.storage
    if storage.options == StorageOptions():
        storage = Storage(_options(StorageOptions, run))
    return Inputs(_options(InputOptions, run), storage, output=table.uri)


def _options(kind: Any, run: dict[str, Any]) -> Any:
    known = {each.name for each in fields(kind)}
    try:
        return TypeAdapter(kind).validate_python({name: run["options"][name] for name in known & set(run["options"])})
    except ValidationError as err:
        raise UsageError(f"the run record does not say what was captioned: {err.errors()[0]['msg']}") from err
