"""The rows of a table that an export wants, in bounded memory."""

from __future__ import annotations

import math
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionkit.errors import UsageError
from captionkit.export.options import KEEPS_FAILED, ExportOptions
from captionkit.schema import CAPTIONED
from captionkit.storage import Storage, split_member, without_page
from captionkit.table.reviews import APPROVED, COLUMN, EDITED, NEEDED, REJECTED, Reviews, open_reviews
from captionkit.table.runs import no_table
from captionkit.table.table import CaptionTable
from captionkit.table.where import Condition, parse_where
from captionkit.table.writing import unfinished_merges

Row = dict[str, Any]
"""One row: columns by name, and values that JSON can hold. The caption is cut as `--max-length` says."""

FROM_ADDRESS = ("file_name", "stem", "path")
"""Columns that the table has not, but its rows' addresses: the file's name, that without its suffix, and the path below
the root."""
AT_ONCE = 4096
"""Rows that are Python objects at one time."""


@dataclass
class Survey:
    """What is wanted of a table, counted before anything is written."""

    captioned: int = 0
    failed: int = 0
    root: str = ""
    """The innermost folder that all addresses have in common, with its slash; "" where there is none."""


@dataclass
class Selection:
    """Rows of a table that `--where` and `--only` choose, as people reviewed them, with the columns asked for.

    Raises (from the constructor):
        UsageError: there is no table, no reviews where they were named, or `--where` cannot be used.
    """

    table: CaptionTable
    options: ExportOptions
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that were chosen and not handed out, by reason."""
    schema: pa.Schema = field(init=False)
    """Columns that rows can be asked for; `review` is one."""
    condition: Condition | None = field(init=False)
    reviews: Reviews | None = field(init=False)

    def __post_init__(self) -> None:
        merged = {uri for replaced in unfinished_merges(self.table).values() for uri in replaced}
        self._files = [file for file in self.table.files if file.uri not in merged]
        if not self._files:
            raise no_table(self.table.uri, self.table.storage)
        self.schema = _schema(self.table)
        self.reviews = open_reviews(self.options.reviews, self.table.uri, self.table.storage)
        if not self.reviews and COLUMN in self.schema.names:
            self.reviews = None  # the table carries a column of that name
        if self.reviews is not None and COLUMN not in self.schema.names:
            self.schema = self.schema.append(pa.field(COLUMN, pa.string()))
        if self.options.only == "reviewed" and not self.reviews:
            raise UsageError(f"--only reviewed: {self.table.uri} has no reviews; `captionkit review` makes them")
        self.condition = parse_where(self.options.where, self.schema) if self.options.where else None

    def check(self, columns: Iterable[str]) -> None:
        """Raises UsageError for a column that there is not."""
        for column in columns:
            if column not in self.schema.names and column not in FROM_ADDRESS:
                known = ", ".join((*self.schema.names, *FROM_ADDRESS))
                raise UsageError(f"--columns: there is no column {column}; there are: {known}")

    def survey(self) -> Survey:
        """Count the wanted rows, and see where they lie."""
        counted_rows = Survey()
        low = high = None
        for rows in self.chosen(["uri", "status"]):
            captioned = pc.sum(pc.equal(rows["status"], CAPTIONED)).as_py() or 0
            counted_rows.captioned += captioned
            counted_rows.failed += len(rows) - captioned
            ends = pc.min_max(rows["uri"]).as_py() if len(rows) else None
            if ends is not None:
                low = ends["min"] if low is None else min(low, ends["min"])
                high = ends["max"] if high is None else max(high, ends["max"])
        if low is not None and high is not None:
            counted_rows.root = common_folder(low, high)
        return counted_rows

    def rows(self, columns: Iterable[str], root: str = "") -> Iterator[Row]:
        """The wanted rows with these columns, and always uri, status, caption, model and, if there are any, review."""
        always = ("uri", "status", "caption", "model", *((COLUMN,) if self.reviews else ()))
        wanted = dict.fromkeys((*always, *columns))
        names = [name for name in wanted if name in self.schema.names]
        derived = [name for name in wanted if name not in self.schema.names]
        for table in self.chosen(names):
            for start in range(0, len(table), AT_ONCE):
                part = table.slice(start, AT_ONCE).select(names)
                lists = [_plain_list(part[name]) for name in names]
                for values in zip(*lists, strict=True):
                    row: Row = dict(zip(names, values, strict=True))
                    if row.get(COLUMN) == REJECTED and self.options.failed != "keep":
                        self.left_out["rejected by a reviewer"] += 1
                        continue
                    if row["status"] != CAPTIONED and self.options.failed != "keep":
                        self.left_out["without a caption"] += 1
                        continue
                    if self.options.format not in KEEPS_FAILED and not (row["caption"] or "").strip():
                        self.left_out["with an empty caption"] += 1
                        continue
                    if self.options.max_length is not None and row["caption"] is not None:
                        row["caption"] = shortened(row["caption"], self.options.max_length)
                    for name in derived:
                        row[name] = from_address(name, row["uri"], root)
                    yield row

    def chosen(self, columns: Iterable[str]) -> Iterator[pa.Table]:
        """The wanted rows in batches, with these columns and those that were needed to choose them."""
        needed = dict.fromkeys((*columns, *(self.condition.columns if self.condition else ())))
        reviews = self.reviews if self.reviews or COLUMN in needed else None
        if reviews is not None:
            needed = dict.fromkeys((*needed, *NEEDED))
            needed.pop(COLUMN, None)
        for _, batch in self.table.batches(list(needed), self._files):
            rows = pa.Table.from_batches([batch])
            for name in needed:
                if name not in rows.column_names:  # a file of a run that did not carry it
                    rows = rows.append_column(name, pa.nulls(len(rows), self.schema.field(name).type))
            if reviews is not None:
                rows = reviews.overlay(rows)
            if self.options.only == "reviewed":
                rows = rows.filter(pc.field(COLUMN).isin([APPROVED, EDITED]))
            yield self.condition.filter(rows) if self.condition else rows


def _schema(table: CaptionTable) -> pa.Schema:
    """The columns of all files: runs may have carried different ones."""
    fields: dict[str, pa.Field] = {}
    seen = set()
    for file in table.files:
        carried = tuple(sorted(file.footer.carry.items()))
        if carried in seen:
            continue
        seen.add(carried)
        with table.storage.open(file.uri) as stream:
            for column in pq.read_schema(stream):
                fields.setdefault(column.name, column)
    return pa.schema(list(fields.values()))


def _plain_list(column: pa.ChunkedArray) -> list[Any]:
    """A column's values as JSON can hold them: NaN is null, a 32-bit float the shortest number that reads back so."""
    if pa.types.is_floating(column.type):
        short = (lambda value: float(str(np.float32(value)))) if pa.types.is_float32(column.type) else float
        finite = (value if value is not None and math.isfinite(value) else None for value in column.to_pylist())
        return [None if value is None else short(value) for value in finite]
    simple = pa.types.is_primitive(column.type) and not pa.types.is_temporal(column.type)
    if simple or pa.types.is_string(column.type):
        return list(column.to_pylist())
    return [plain(value) for value in column.to_pylist()]


def plain(value: Any) -> Any:
    """A value as JSON can hold it: moments in ISO 8601, bytes in hexadecimal."""
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def shortened(text: str, length: int) -> str:
    """A text of at most `length` characters: cut behind a word, or within one that is longer than that alone."""
    text = text.strip()
    if len(text) <= length:
        return text
    head = text[:length]
    if not text[length].isspace() and not head[-1].isspace():
        words = head.rsplit(None, 1)
        if len(words) == 2:
            head = words[0]
        else:
            end = length
            while end > 1 and unicodedata.combining(text[end]):  # an accent stays with its letter
                end -= 1
            head = text[:end]
    return head.rstrip().rstrip(",;:–-").rstrip() or text[:length]


def common_folder(low: str, high: str) -> str:
    """The innermost folder of all addresses between the lowest and the highest, with its slash; "" without any.

    A shard counts as a folder of its members.
    """
    common = posixpath.commonprefix([low, high])
    folder = common[: common.rfind("/") + 1]
    container = split_member(low)[0]
    if len(folder) > len(container):
        folder = container[: container.rfind("/") + 1]
    return "" if folder.endswith("://") else folder


def relative_path(uri: str, root: str) -> str:
    """The path of an image below a root, which can stand below any other folder.

    The member of a container lies below it as if it were a folder; an address that is not below the root keeps its
    whole path. Parts that lead elsewhere are spelled otherwise: a shard's member may be called `../../etc/cron.d/x`.
    """
    uri, page = _without_page(uri)
    below = uri[len(root) :] if root and uri.startswith(root) else uri.partition("://")[2] or uri
    container, member = split_member(below)
    path = (below if member is None else f"{container}/{member}") + page
    parts = [part for part in path.replace("\0", "").split("/") if part not in ("", ".")]
    return "/".join("__" if part == ".." else part for part in parts)


def from_address(name: str, uri: str, root: str) -> str:
    """One of the columns `FROM_ADDRESS`."""
    if name == "path":
        return relative_path(uri, root)
    uri, page = _without_page(uri)
    container, member = split_member(uri)
    path = container if member is None else member
    if member is None and uri.startswith(("http://", "https://")):
        path = path.partition("?")[0]
    file_name = path.rstrip("/").rpartition("/")[2]
    return (file_name if name == "file_name" else posixpath.splitext(file_name)[0]) + page


def _without_page(uri: str) -> tuple[str, str]:
    """The address of a page's file and, to be put behind a name, which page; the address and "" of anything else."""
    file = without_page(uri)
    return file, uri[len(file) :]


def root_of(options: ExportOptions, storage: Storage, survey: Survey) -> str:
    """The folder whose place the output takes, with its slash."""
    return storage.normalize(options.root).rstrip("/") + "/" if options.root else survey.root
