"""Small table files into large ones, and double rows into one, without ever losing a row.

On a plain folder several files cannot be swapped for one at a single moment. The order here is the one in which no
row is ever missing:

1. The merged file is written whole. Its footer names the files it replaces, under the key `REPLACES`.
2. It is read back: every id of those files must be in it.
3. Those files are deleted.

A death before the end of 1 changes nothing. One between 1 and 3 leaves rows twice, for readers that know nothing of
footers; `unfinished_merges` recognises the replaced files and `recover` deletes them, which every run and every
`compact` does first, once it has the table's lease. A reader that lists the folder between 1 and 3 meets rows twice
too, and one that listed it before 3 and opens a file after it is told that the file is gone: compact when nobody reads.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.inputs.ids import Ids, image_id
from captionkit.schema import CAPTIONED
from captionkit.storage import Storage, StorageError, public_uri
from captionkit.table.runs import no_table
from captionkit.table.table import CaptionTable, Container, Footer, TableFile, to_parquet
from captionkit.table.writing import PREFIX, REPLACES, file_name, ids_in, open_for_writing, read_file


@dataclass
class CompactReport:
    """What `compact` did."""

    table: str
    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    """Rows of the table, which are the same after as before but for double ones."""
    merged: int = 0
    """Files that were put together with others."""
    doubles: int = 0
    """Rows taken out since the same address had another one."""
    recovered: int = 0
    """Files deleted that an earlier `compact`, which died, had put together already."""

    def text(self) -> str:
        files, rows = counted(self.files_before, "file"), counted(self.rows, "row")
        lines = [f"{self.table}: {files} before, {self.files_after:,} now, {rows}"]
        if self.recovered:
            lines.append(f"finished a compaction that had died: {self.recovered:,} replaced files deleted")
        if self.doubles:
            lines.append(f"took out {counted(self.doubles, 'row')} of addresses that had another one")
        return "\n".join(lines)


def compact(output: str, storage: Storage, *, target_rows: int = 500_000) -> CompactReport:
    """Merge a table's files of less than half of `target_rows` into ones of up to `target_rows`.

    Files of different models, search options or carried columns stay apart. Holds one merged file in memory.

    Raises:
        UsageError: there is no table, or (`LeaseError`) a run is writing to it.
        StorageError: storage fails, or (`LeaseLost`) another run has taken over. The same command goes on from there.
    """
    if target_rows < 1:
        raise UsageError(f"--target-rows {target_rows}: at least 1")
    run_id = f"{datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"
    known = CaptionTable(output, storage)
    if not known.files:
        raise no_table(known.uri, storage)
    with open_for_writing(known, f"compact-{run_id}") as (table, lease, recovered):
        report = CompactReport(public_uri(table.uri), len(table.files) + len(recovered), recovered=len(recovered))
        lease.check()
        report.doubles = remove_duplicate_rows(table)
        for number, group in enumerate(plan(table.files, target_rows)):
            lease.check()
            uri = f"{table.uri}/{PREFIX}{run_id}-{number:05d}.parquet"
            merged = _merge(table, uri, group)
            lease.check()
            for file in group:
                storage.delete(file.uri)
            gone = {file.uri for file in group}
            table.files = [file for file in table.files if file.uri not in gone] + [merged]
            report.merged += len(group)
        report.files_after, report.rows = len(table.files), len(table)
    return report


def plan(files: Iterable[TableFile], target_rows: int) -> Iterator[list[TableFile]]:
    """Groups of small files to put together: in order of their names, alike in footer, of at most `target_rows`.

    No group holds two versions of one container, since a footer counts the rows of one version only.
    """
    kinds: dict[str, list[TableFile]] = defaultdict(list)
    for file in sorted(files, key=lambda file: file.uri):
        if file.rows < target_rows / 2:
            footer = file.footer
            kinds[json.dumps([footer.model, footer.search, footer.carry], sort_keys=True)].append(file)
    for alike in kinds.values():
        group: list[TableFile] = []
        versions: dict[str, str] = {}
        for file in alike:
            has = {key: container.version for key, container in file.footer.containers.items()}
            full = sum(each.rows for each in group) + file.rows > target_rows
            if full or any(versions.get(key, version) != version for key, version in has.items()):
                if len(group) > 1:
                    yield group
                group, versions = [], {}
            group.append(file)
            versions |= has
        if len(group) > 1:
            yield group


@dataclass(frozen=True)
class _MergedFooter(Footer):
    replaces: tuple[str, ...] = ()

    def to_metadata(self) -> dict[bytes, bytes]:
        plain = Footer(self.model, self.search, self.carry, self.containers, self.runs)
        return plain.to_metadata() | {REPLACES: json.dumps(self.replaces).encode()}


def _merge(table: CaptionTable, uri: str, group: Sequence[TableFile]) -> TableFile:
    """Write the merged file of a group, and read it back."""
    rows = pa.concat_tables([read_file(table, file.uri).replace_schema_metadata(None) for file in group])
    containers: dict[str, Container] = {}
    for file in group:
        for key, part in file.footer.containers.items():
            container = containers.setdefault(key, Container(part.version))
            container.rows += part.rows
            container.doubtful += part.doubtful
            container.total = max((total for total in (container.total, part.total) if total is not None), default=None)
    first = group[0].footer
    runs = {run: maker for file in group for run, maker in file.footer.runs.items()}
    footer = _MergedFooter(first.model, first.search, first.carry, containers, runs, _names(group))
    table.storage.write(uri, to_parquet(rows, footer))
    written = np.sort(ids_in(table, uri))
    if not np.array_equal(written, np.sort(rows.column("image_id").to_numpy())):
        raise StorageError("write_error", f"{uri}: what was written reads back as something else; nothing was deleted")
    return table.read_footer(uri)


def _names(group: Sequence[TableFile]) -> tuple[str, ...]:
    return tuple(file_name(file.uri) for file in group)


class _Row(NamedTuple):
    file: TableFile
    at: int
    image_id: int
    captioned: bool
    when: datetime


def remove_duplicate_rows(table: CaptionTable) -> int:
    """Leave each address one row; the number of rows taken out.

    Of several the newest version stays, of that one a caption rather than a failure, then the newest. Doubles come
    from a run that lost its lease while a file was on its way. Takes 24 bytes of memory a row of the table.
    """
    files = list(table.files)
    hashes = [_hashes(table, file) for file in files]
    values, counts = np.unique(np.concatenate([*hashes, np.empty(0, np.int64)]), return_counts=True)
    doubled = values[counts > 1]
    if not len(doubled):
        return 0
    rows: dict[int, list[_Row]] = defaultdict(list)
    for file, keys in zip(files, hashes, strict=True):
        places = np.flatnonzero(np.isin(keys, doubled))
        if not len(places):
            continue
        candidates = read_file(table, file.uri, ["image_id", "status", "captioned_at"]).take(pa.array(places))
        for at, key, row in zip(places.tolist(), keys[places].tolist(), candidates.to_pylist(), strict=True):
            rows[key].append(_Row(file, at, row["image_id"], row["status"] == CAPTIONED, row["captioned_at"]))
    out: dict[str, list[int]] = defaultdict(list)
    for same in rows.values():
        version = max(same, key=lambda row: row.when).image_id
        kept = max(same, key=lambda row: (row.image_id == version, row.captioned, row.when))
        for row in same:
            if row is not kept:
                out[row.file.uri].append(row.at)
    for file in files:
        if file.uri in out:
            table.drop_at(file, out[file.uri])
    return sum(map(len, out.values()))


def _hashes(table: CaptionTable, file: TableFile) -> Ids:
    """A hash of each row's address, in order: (rows,) int64."""
    uris = (uri for _, batch in table.batches(["uri"], [file]) for uri in batch.column(0).to_pylist())
    return np.fromiter((image_id(uri, "") for uri in uris), np.int64, file.rows)
