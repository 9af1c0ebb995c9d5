"""`--recaption-where`: which rows another captioner is to caption anew, and how its captions take their places.

A row's new caption takes the place of the old one within its file, which is rewritten whole (one atomic write). So
every reader, whatever it is, meets one row an image at every moment: the old caption, then the new one. Where the new
captioner fails on an image, the old caption stays. Rows that had failed before are taken out instead, and come again
as those of any image without a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from captionkit.inputs.ids import Ids
from captionkit.schema import CAPTIONED, HAS_MEMBER
from captionkit.table.table import CaptionTable, Maker, TableFile, container_of
from captionkit.table.where import parse_where
from captionkit.table.writer import TableWriter

EXAMPLES = 200
"""Captions kept from before, to be shown beside the new ones."""
ALL = "all"
"""The condition that every row meets."""


@dataclass
class Chosen:
    """Captions of a table that are to be made anew. 16 bytes of memory a row."""

    ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    """Their image ids, sorted: (n,)."""
    files: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Of each, its file as an index into `uris`: (n,)."""
    uris: list[str] = field(default_factory=list)
    containers: dict[str, int] = field(default_factory=dict)
    """Shards and Parquet files in which some of their images lie, numbered."""
    within: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Of each, the number of its container, -1 for none: (n,)."""

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: Ids) -> Ids:
        """Where these ids (n,) are among `ids`, -1 for one that is not: (n,)."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[at] == ids, at, -1)


def choose(table: CaptionTable, where: str, maker: Maker) -> tuple[Chosen, list[tuple[TableFile, Ids]]]:
    """The rows that meet a condition and are not `maker`'s own: captions to be made anew, and failed rows, as
    `CaptionTable.drop` takes them.

    Raises:
        UsageError: the condition is none.
    """
    condition = None if where == ALL else parse_where(where, table.schema, "--recaption-where")
    wanted = ("image_id", "uri", "status", "run_id", *(condition.columns if condition else ()))
    chosen, failed = Chosen(), list[tuple[TableFile, Ids]]()
    ids, files, containers = [np.empty(0, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for number, file in enumerate(table.files):
        chosen.uris.append(file.uri)
        if all(each == maker for each in file.footer.makers()):
            continue
        own = [run for run, each in file.footer.runs.items() if each == maker]
        others = [run for run, each in file.footer.runs.items() if each != maker]
        dropped = [np.empty(0, np.int64)]
        for _, batch in table.batches(list(dict.fromkeys(wanted)), [file]):
            rows = pa.Table.from_batches([batch])
            if file.footer.maker == maker:
                rows = rows.filter(pc.is_in(rows["run_id"], pa.array(others, pa.string())))
            else:
                rows = rows.filter(pc.invert(pc.is_in(rows["run_id"], pa.array(own, pa.string()))))
            rows = condition.filter(rows) if condition else rows
            captioned = pc.equal(rows["status"], CAPTIONED)
            dropped.append(rows.filter(pc.invert(captioned))["image_id"].to_numpy())
            rows = rows.filter(captioned)
            containers.append(within := np.full(len(rows), -1, np.int32))
            members = pc.match_substring_regex(rows["uri"], HAS_MEMBER).to_numpy()
            for at, uri in zip(np.flatnonzero(members).tolist(), rows["uri"].filter(members).to_pylist(), strict=True):
                within[at] = chosen.containers.setdefault(container_of(uri), len(chosen.containers))
            ids.append(rows["image_id"].to_numpy())
            files.append(np.full(len(rows), number, np.int32))
        if len(gone := np.unique(np.concatenate(dropped))):
            failed.append((file, gone))
    all_ids = np.concatenate(ids)
    order = np.argsort(all_ids, kind="stable")
    chosen.ids, chosen.files = all_ids[order], np.concatenate(files)[order]
    chosen.within = np.concatenate(containers)[order]
    return chosen, failed


class RecaptionWriter:
    """Writes rows of images that have none by `fresh`, and puts those of `chosen` in their old rows' places.

    Args:
        before_write: Called before each file; raises where this run may not write any more.
    """

    def __init__(
        self,
        fresh: TableWriter,
        table: CaptionTable,
        chosen: Chosen,
        maker: Maker,
        columns: list[str],
        *,
        flush_rows: int,
        flush_seconds: float,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._fresh, self._table, self._chosen, self._maker = fresh, table, chosen, maker
        self._columns = [*columns, "container_rows"]
        self._flush_rows, self._flush_seconds, self._before_write = flush_rows, flush_seconds, before_write
        self._waiting: list[pa.Table] = []
        self._buffered = 0
        self._last = time.monotonic()
        self._rewritten: dict[str, None] = {}
        self.came = np.zeros(len(chosen), np.bool_)
        """Of each chosen row, whether its image has come."""
        self.replaced = 0
        """Captions replaced by new ones."""
        self.kept = 0
        """Captions left, since the new captioner failed on their images."""
        self.left_out: set[str] = set()
        """Containers that broke while they were read anew; what the table says of them stays."""
        self.before: dict[str, dict[str, Any]] = {}
        """Some replaced captions by address, each with its `image_id`, `caption` and `score`."""
        self.in_containers = 0
        """Of the rows replaced and kept, those of images in containers; and the rows of `left_out`."""

    @property
    def files(self) -> list[str]:
        """Files made or rewritten."""
        return [*self._fresh.files, *self._rewritten]

    @property
    def unwritten(self) -> int:
        return self._fresh.unwritten + self._buffered

    def add(self, rows: pa.Table) -> None:
        """Take rows in, with the columns of the table plus `version` and `container_rows`."""
        at = self._chosen.find(rows["image_id"].to_numpy())
        anew = at >= 0
        self.came[at[anew]] = True
        captioned = pc.equal(rows["status"], CAPTIONED).to_numpy()
        new = rows.filter(pa.array(~anew))
        broken = pc.is_in(new["uri"], pa.array(list(self._chosen.containers), pa.string()))
        if pc.any(broken).as_py():
            self.left_out.update(new["uri"].filter(broken).to_pylist())
            new = new.filter(pc.invert(broken))
        if len(new):
            self._fresh.add(new)
        again = rows.filter(pa.array(anew))
        within = pc.sum(pc.match_substring_regex(again["uri"], HAS_MEMBER)).as_py() or 0
        self.in_containers += within + (len(rows) - len(again) - len(new))
        self.kept += int((anew & ~captioned).sum())
        better = rows.filter(pa.array(anew & captioned))
        if len(better):
            self._waiting.append(better.select(self._columns).combine_chunks())
            self._buffered += len(better)
        if self._buffered >= self._flush_rows or time.monotonic() - self._last >= self._flush_seconds:
            self._put()

    def lost(self, read: Collection[str]) -> int:
        """Chosen rows whose images have not come although their containers were read."""
        containers = [uri for uri in read if uri in self._chosen.containers and uri not in self.left_out]
        numbers = [self._chosen.containers[uri] for uri in containers]
        return int((~self.came & np.isin(self._chosen.within, np.array(numbers, np.int32))).sum())

    def flush(self) -> None:
        """Write all that is there."""
        self._fresh.flush()
        self._put()

    def _put(self) -> None:
        for uri, rows in self._by_file():
            self._before_write()
            self._remember(self._table.replace(uri, rows, self._maker))
            self._rewritten[uri] = None
            self.replaced += len(rows)
        self._waiting, self._buffered, self._last = [], 0, time.monotonic()

    def _remember(self, old: pa.Table) -> None:
        """Keep examples of replaced rows: ids are hashes, so that the lowest are spread over the table."""
        some = old.select(["image_id", "uri", "caption", "score"]).sort_by("image_id").slice(0, EXAMPLES).to_pylist()
        rows = {**self.before, **{row["uri"]: row for row in some}}
        lowest = sorted(rows.values(), key=lambda row: row["image_id"])[:EXAMPLES]
        self.before = {row["uri"]: row for row in lowest}

    def _by_file(self) -> Iterator[tuple[str, pa.Table]]:
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting)
        files = self._chosen.files[self._chosen.find(rows["image_id"].to_numpy())]
        for number in np.unique(files).tolist():
            yield self._chosen.uris[number], rows.filter(pa.array(files == number))
