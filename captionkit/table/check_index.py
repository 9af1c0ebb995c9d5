"""The rows of a table as `check` reads them: each file once, and of each row as little as can be kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from captionkit.inputs.ids import address_hashes
from captionkit.schema import BROUGHT, CAPTIONED, ERROR_KINDS, FAILED, HAS_MEMBER, SCHEMA
from captionkit.table.check_report import EXAMPLES, CheckReport
from captionkit.table.table import CaptionTable, TableFile, container_of

COLUMNS = ["uri", "image_id", "status", "caption", "error_kind", "model"]


class TableIndex:
    """What is kept in memory of each row, in the order of files and rows.

    hashes: (rows,) int64, of the address. ids: (rows,) int64. containers: (rows,) int32, an index into `names`,
    or -1 for an image that lies in no container. in_input: (rows,) bool, set as inputs are found to have the row.
    """

    def __init__(
        self, table: CaptionTable, report: CheckReport, every_column: bool, progress: Callable[[int], None]
    ) -> None:
        size = len(table)
        self.table, self.report = table, report
        self.hashes, self.ids = np.empty(size, np.int64), np.empty(size, np.int64)
        self.containers = np.full(size, -1, np.int32)
        self.names: dict[str, int] = {}
        self.parts: dict[str, list[tuple[str, int, int | None]]] = defaultdict(list)
        """Of each container: version, rows and total, as each file has them."""
        self.models: Counter[str] = Counter()
        self.starts: list[tuple[int, TableFile]] = []
        self.size = 0
        for file in table.files:
            self._check_schema(file)
            start, parts = self.size, Counter[str]()
            try:
                for _, batch in table.batches(None if every_column else COLUMNS, [file]):
                    self._add(file, batch, parts)
                    progress(self.size)
            except (pa.ArrowException, OSError, KeyError, ValueError) as err:
                report.problem("unreadable", f"{file.uri}: {' '.join(str(err).split())[:300]}")
                self.containers[start : self.size] = -1
                self.size = start
                continue
            self.starts.append((start, file))
            self._compare(file, parts)
        for name in ("hashes", "ids", "containers"):
            setattr(self, name, getattr(self, name)[: self.size])
        self.in_input = np.zeros(self.size, np.bool_)
        report.files, report.rows = len(table.files), self.size

    def _check_schema(self, file: TableFile) -> None:
        with self.table.storage.open(file.uri) as stream:
            schema = pq.read_schema(stream)
        actual = {column.name: _spelled(column.type) for column in schema}
        expected = {column.name: _spelled(column.type) for column in SCHEMA}
        expected |= {name: _spelled(kind) for name, kind in file.footer.carry.items()}
        if actual != expected:
            wrong = sorted(set(actual.items()) ^ set(expected.items()))
            names = ", ".join(dict.fromkeys(name for name, _ in wrong))
            self.report.problem("schema", f"{file.uri}: {names}")

    def _add(self, file: TableFile, batch: pa.RecordBatch, parts: Counter[str]) -> None:
        here = slice(self.size, self.size + len(batch))
        uris = batch["uri"]
        self.hashes[here] = address_hashes(uris)
        self.ids[here] = batch["image_id"].to_numpy()
        of_container = pc.match_substring_regex(batch["uri"], HAS_MEMBER)
        if file.footer.containers:  # a shard that broke has a row of its own
            keys = pa.array(list(file.footer.containers), pa.string())
            of_container = pc.or_(of_container, pc.is_in(batch["uri"], keys))
        for at in np.flatnonzero(of_container.to_numpy(zero_copy_only=False)).tolist():
            name = container_of(uris[at].as_py())
            parts[name] += 1
            self.containers[self.size + at] = self.names.setdefault(name, len(self.names))
        captioned = pc.equal(batch["status"], CAPTIONED)
        failed = pc.equal(batch["status"], FAILED)
        has_caption, reason = pc.is_valid(batch["caption"]), pc.is_in(batch["error_kind"], pa.array(ERROR_KINDS))
        no_reason = pc.is_null(batch["error_kind"])
        sound = pc.or_(
            pc.and_(captioned, pc.and_(has_caption, no_reason)),
            pc.and_(failed, pc.and_(pc.invert(has_caption), reason)),
        )
        for at in np.flatnonzero(~sound.to_numpy(zero_copy_only=False)).tolist():
            self.report.problem("rules", f"{uris[at].as_py()} in {file.uri}")
        self.report.captioned += pc.sum(captioned).as_py() or 0
        self.report.failed += pc.sum(failed).as_py() or 0
        for pair in pc.value_counts(batch["model"]).to_pylist():
            if pair["values"] != BROUGHT:  # captions that were there before, beside one captioner's
                self.models[pair["values"]] += pair["counts"]
        self.size += len(batch)

    def _compare(self, file: TableFile, parts: Counter[str]) -> None:
        for name, container in file.footer.containers.items():
            rows = parts.get(name, 0)
            self.parts[name].append((container.version, rows, container.total))
            if rows != container.rows:
                self.report.problem("footers", f"{file.uri}: {container.rows:,} of {name}, and holds {rows:,}")

    def index(self) -> None:
        """Sort by address, and find what is double."""
        self.order = np.argsort(self.hashes)
        self.sorted = self.hashes[self.order]
        if (self.sorted[1:] == self.sorted[:-1]).any():
            self.order = np.argsort(self.hashes, kind="stable")  # the first of equal ones first; five times the time
        self.hashes = np.empty(0, np.int64)
        again = self.order[1:][self.sorted[1:] == self.sorted[:-1]]
        if len(again):
            self.report.problem("duplicates", *self.addresses(again), count=len(again))
            self.in_input[again] = True  # what they are too many of is asked of the first

    def find(self, uris: Sequence[str] | pa.Array) -> NDArray[np.int64]:
        """Where the rows of these addresses are, -1 for one that has none: (n,) int64."""
        if not self.size:
            return np.full(len(uris), -1)
        wanted = address_hashes(pa.array(uris, pa.string()))
        by_hash = np.argsort(wanted)  # sorted ones are found in a tenth of the time
        at = np.minimum(np.searchsorted(self.sorted, wanted[by_hash]), self.size - 1)
        places = np.empty(len(uris), np.int64)
        places[by_hash] = np.where(self.sorted[at] == wanted[by_hash], self.order[at], -1)
        return places

    def addresses(self, rows: NDArray[np.int64]) -> list[str]:
        """Some of the addresses of these rows, with the file of each."""
        misplaced = []
        chosen = np.sort(rows[:EXAMPLES])
        for start, file in self.starts:
            inside = chosen[(chosen >= start) & (chosen < start + file.rows)] - start
            if len(inside):
                uris = pa.chunked_array([batch.column(0) for _, batch in self.table.batches(["uri"], [file])])
                misplaced += [f"{uri} in {file.uri}" for uri in uris.take(pa.array(inside)).to_pylist()]
        return misplaced


def _spelled(kind: pa.DataType | str) -> str:
    """A type by its name. Parquet's lists call `element` what Arrow's call `item`."""
    return str(kind).replace("<element: ", "<item: ")
