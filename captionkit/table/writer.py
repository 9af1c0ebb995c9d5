"""Rows into table files, by the driver alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from captionkit.schema import HAS_MEMBER, SCHEMA
from captionkit.storage import page_of, without_page
from captionkit.table.table import CaptionTable, Container, Footer, TableFile, container_of, to_parquet

CONCAT_TABLES = 64
"""Tables that are copied into one at a time."""


class TableWriter:
    """Gathers rows and writes them as table files, large ones, but not later than `flush_seconds`.

    Args:
        footer: What every file of this run says of itself.
        columns: The stored columns; others of the added rows are dropped.
        name: What the files' names begin with.
        number: Of the first file, in its name.
        each_page: Whether the pages of files in containers are rows of these.
        before_write: Called before each file; raises where this run may not write any more.
    """

    def __init__(
        self,
        table: CaptionTable,
        run_id: str,
        footer: Footer,
        columns: list[str],
        *,
        flush_rows: int,
        flush_seconds: float,
        name: str = "captions",
        number: int = 0,
        each_page: bool = False,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._table, self._run_id, self._footer, self._columns = table, run_id, footer, columns
        self._flush_rows, self._flush_seconds, self._name = flush_rows, flush_seconds, name
        self._before_write, self._number, self._each_page = before_write, number, each_page
        self._fresh: list[pa.Table] = []
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._containers: dict[str, Container] = {}
        self._last = time.monotonic()
        self.files: list[str] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows in, with the columns of the table plus `version` and `container_rows`."""
        self._count_containers(rows)
        self._fresh.append(rows.select(self._columns))
        if len(self._fresh) >= CONCAT_TABLES:
            self._gather()
        self._buffered += len(rows)
        if self._buffered >= self._flush_rows or time.monotonic() - self._last >= self._flush_seconds:
            self.flush()

    @property
    def unwritten(self) -> int:
        """Rows that wait for their file."""
        return self._buffered

    def _count_containers(self, rows: pa.Table) -> None:
        # Most archives are of plain images: Arrow looks for the others, as no loop in Python could at this rate.
        within = pc.or_(pc.match_substring_regex(rows["uri"], HAS_MEMBER), pc.is_valid(rows["container_rows"]))
        for row in rows.select(["uri", "version", "container_rows", "error_kind"]).filter(within).to_pylist():
            base = container_of(row["uri"])
            container = self._containers.setdefault(base, Container(row["version"]))
            container.rows += 1
            container.total = container.total if row["container_rows"] is None else row["container_rows"]
            if row["container_rows"] is None and self._is_doubtful(base, row["uri"], row["error_kind"]):
                container.doubtful.append(row["uri"][len(base) + 1 :])

    def _is_doubtful(self, base: str, uri: str, error_kind: str | None) -> bool:
        """Whether a row's address may be none of its container's; see `Container.doubtful`."""
        if uri != base and error_kind in ("not_found", "no_such_page"):
            return True
        page = page_of(uri)
        if page is None:
            return False
        within_a_member = without_page(uri) != base
        return not self._each_page if within_a_member else page == 1

    def end(self, uri: str, version: str, container_rows: int) -> None:
        """Note how many images the container of this address has, which a row told that is not written."""
        self._containers.setdefault(container_of(uri), Container(version)).total = container_rows

    def _gather(self) -> None:
        """Copy what has come lately into one piece: as it comes it is a view of Ray's blocks, and holds them."""
        if self._fresh:
            self._buffer.append(pa.concat_tables(self._fresh).combine_chunks())
            self._fresh = []

    def flush(self) -> None:
        """Write what is there, if anything, as one file."""
        if not self._buffered:
            return
        uri = f"{self._table.uri}/{self._name}-{self._run_id}-{self._number + len(self.files):05d}.parquet"
        self._gather()
        rows = pa.concat_tables(self._buffer)
        footer = Footer(self._footer.model, self._footer.search, self._footer.carry, self._containers)
        data = to_parquet(rows, footer)
        self._before_write()
        self._table.storage.write(uri, data)
        self.files.append(uri)
        self._table.files.append(TableFile(uri, len(rows), footer))
        self._buffer, self._buffered, self._containers = [], 0, {}
        self._last = time.monotonic()


def stored_columns(carry: dict[str, pa.DataType]) -> list[str]:
    """Names of the columns a table file holds, in order."""
    return [*SCHEMA.names, *carry]
