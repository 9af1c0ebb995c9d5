"""A caption table as a local file that is mapped into memory: any row at once, any search by one pass over it.

The file is Arrow's, uncompressed, in a temporary folder (`TMPDIR`), about as large as the captions and addresses are. A
search reads it front to back, in the page cache as far as there is memory; what it holds of its own is a few bytes a
row: row numbers, and what they are sorted by.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from captionkit.errors import UsageError
from captionkit.export.options import ExportOptions
from captionkit.export.rows import Selection
from captionkit.review.options import ORDERS
from captionkit.schema import BROUGHT, CAPTIONED
from captionkit.storage import Storage
from captionkit.table.reviews import COLUMN, DECISIONS, Reviews
from captionkit.table.table import CaptionTable
from captionkit.table.where import parse_where

BATCH = 65_536
"""Rows of a batch of the file."""
MAX_NAMES = 64
"""Models and kinds of failures that can be chosen by name."""
KEPT_RESULTS = 4
"""Searches whose row numbers are kept, for the pages to come."""
OTHER = ("other_caption", "other_score", "other_model")
_COLUMN = "column:"
ALTERNATIVE = "first alternative"
"""The other caption's maker, where an image's own caption came before the captioner's."""
_TEXT = "text__"
GENERATED = "generated__"
"""Column of what the captioner generated, whatever people decided."""
_UNDECIDED = len(DECISIONS)

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Query:
    """Which rows are wanted, and in which order. Empty fields want all."""

    words: str = ""
    """Words, or parts of words, that caption or address have, in any case."""
    where: str = ""
    state: str = ""
    """`captioned`, `failed`, or a kind of failure."""
    review: str = ""
    """One of DECISIONS, or `undecided`."""
    model: str = ""
    low: float | None = None
    """Lowest score."""
    high: float | None = None
    shortest: int | None = None
    """Characters of the caption."""
    longest: int | None = None
    differs: bool = False
    """Only rows of which the other table says something else."""
    order: str = "table"

    @classmethod
    def parse(cls, fields: Mapping[str, str]) -> Query:
        """A query from a page's fields.

        Raises:
            UsageError: one of them cannot be.
        """
        try:
            chosen: dict[str, Any] = {name: float(fields[name]) for name in ("low", "high") if fields.get(name)}
            chosen |= {name: int(fields[name]) for name in ("shortest", "longest") if fields.get(name)}
        except ValueError as err:
            raise UsageError(f"scores and lengths are numbers: {err}") from err
        chosen |= {name: fields[name] for name in ("words", "where", "state", "review", "model") if name in fields}
        order = fields.get("order") or "table"
        if order not in ORDERS:
            raise UsageError(f"there is no order {order}; there are: {', '.join(ORDERS)}")
        return cls(**chosen, differs=fields.get("differs") == "1", order=order)


class Index:
    """Rows of a table, numbered from 0 in the table's order. Safe to use from many threads.

    Made by `open_index`.
    """

    def __init__(self, path: Path, schema: pa.Schema, has_other: bool) -> None:
        self._map = pa.memory_map(str(path))
        reader = pa.ipc.open_file(self._map)
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)])
        self.schema = schema
        """Columns that conditions may name."""
        self.has_other = has_other
        self._lock = threading.Lock()
        self._results: dict[Query, Rows] = {}
        self.decisions = np.full(len(self), _UNDECIDED, np.uint8)
        """The decision of each row, as a place in DECISIONS; one more for none. Written to as decisions are made."""
        self.kinds: Counter[str | None] = Counter()
        """Failures by kind."""
        self.models: Counter[str | None] = Counter()
        self.captioned = 0
        for start, batch in zip(self._starts.tolist(), self._batches, strict=False):
            for name, counter in (("error_kind", self.kinds), ("model", self.models)):
                for value in pc.value_counts(batch[name]).to_pylist():
                    known = value["values"] in counter or len(counter) < MAX_NAMES
                    counter[value["values"] if known else "other"] += value["counts"]
            self.captioned += pc.sum(pc.equal(batch["status"], CAPTIONED)).as_py() or 0
            for place, decision in enumerate(DECISIONS):
                chosen = pc.equal(batch[COLUMN], decision).fill_null(False).to_numpy(zero_copy_only=False)
                self.decisions[start : start + len(batch)][chosen] = place
        del self.kinds[None]  # what has not failed

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, number: int) -> dict[str, Any]:
        """A row's columns, as it was reviewed when the index was made, and what the captioner generated in `GENERATED`.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        at = int(np.searchsorted(self._starts, number, "right")) - 1
        [row] = self._batches[at].slice(number - int(self._starts[at]), 1).to_pylist()
        return dict(row)

    def decide(self, number: int, decision: str | None) -> None:
        """Note a row's decision."""
        self.decisions[number] = _UNDECIDED if decision is None else DECISIONS.index(decision)

    def counts(self) -> dict[str, int]:
        """How many rows have which decision."""
        numbers = np.bincount(self.decisions, minlength=_UNDECIDED + 1).tolist()
        return dict(zip((*DECISIONS, "undecided"), numbers, strict=True))

    def find(self, query: Query, again: bool = True) -> Rows:
        """Numbers of the rows that a query wants, in its order: (n,) int64.

        Args:
            again: Look anew. Else what the same query found before will do, so that the pages of one search belong
                together whatever is decided meanwhile.

        Raises:
            UsageError: `where` cannot be used.
        """
        with self._lock:
            numbers = None if again else self._results.get(query)
        if numbers is None:
            numbers = self._find(query)
            with self._lock:
                self._results.pop(query, None)
                self._results[query] = numbers
                while len(self._results) > KEPT_RESULTS:
                    del self._results[next(iter(self._results))]
        return numbers

    def _find(self, query: Query) -> Rows:
        condition = parse_where(query.where, self.schema) if query.where.strip() else None
        words = query.words.lower().split()
        places, keys = [], []
        for start, batch in zip(self._starts.tolist(), self._batches, strict=False):
            mask = self._mask(batch, start, query, words)
            if condition is not None:
                rows = pa.Table.from_batches([batch]).select([name for name in condition.columns if name != COLUMN])
                if COLUMN in condition.columns:
                    rows = rows.append_column(COLUMN, self._decided(start, len(batch)))
                numbered = rows.append_column("number__", pa.array(np.arange(len(batch))))
                wanted = np.zeros(len(batch), np.bool_)
                wanted[condition.filter(numbered)["number__"].to_numpy()] = True
                mask &= wanted
            chosen = np.flatnonzero(mask)
            places.append(chosen + start)
            if query.order != "table":
                keys.append(_keys(batch, query.order)[chosen])
        rows = np.concatenate([*places, np.empty(0, np.int64)]).astype(np.int64)
        return rows[np.argsort(np.concatenate(keys), kind="stable")] if keys else rows

    def _mask(self, batch: pa.RecordBatch, start: int, query: Query, words: list[str]) -> NDArray[np.bool_]:
        tests = [pc.match_substring(batch[_TEXT], word) for word in words]
        if query.state == CAPTIONED or query.state == "failed":
            tests.append(pc.equal(batch["status"], query.state))
        elif query.state:
            tests.append(pc.equal(batch["error_kind"], query.state))
        if query.model:
            tests.append(pc.equal(batch["model"], query.model))
        if query.low is not None:
            tests.append(pc.greater_equal(batch["score"], query.low))
        if query.high is not None:
            tests.append(pc.less_equal(batch["score"], query.high))
        if query.shortest is not None:
            tests.append(pc.greater_equal(pc.utf8_length(batch["caption"]), query.shortest))
        if query.longest is not None:
            tests.append(pc.less_equal(pc.utf8_length(batch["caption"]), query.longest))
        if query.differs and self.has_other:
            tests.append(pc.not_equal(batch["caption"], batch["other_caption"]))
        mask = np.ones(len(batch), np.bool_)
        for test in tests:
            mask &= test.fill_null(False).to_numpy(zero_copy_only=False)
        if query.review:
            wanted = DECISIONS.index(query.review) if query.review in DECISIONS else _UNDECIDED
            mask &= self.decisions[start : start + len(batch)] == wanted
        return mask

    def _decided(self, start: int, length: int) -> pa.Array:
        names = pa.array([*DECISIONS, None], pa.string())
        return names.take(pa.array(self.decisions[start : start + length]))

    def close(self) -> None:
        self._batches = []
        self._map.close()


def _keys(batch: pa.RecordBatch, order: str) -> NDArray[Any]:
    """What rows are sorted by, lowest first; those without a score or a caption last."""
    if order == "random":
        # An image id is a hash already; multiplied by an odd number, near ones (1, 2, 3 …) come apart too.
        ids: NDArray[np.int64] = batch["image_id"].to_numpy()
        mixed: NDArray[np.uint64] = ids.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return mixed
    values = batch["score"] if order in ("lowest", "highest") else pc.utf8_length(batch["caption"])
    keys: NDArray[np.float32] = values.cast(pa.float32()).fill_null(np.nan).to_numpy()  # NaN comes last
    return -keys if order in ("highest", "longest") else keys


@contextmanager
def open_index(
    uri: str, storage: Storage, *, where: str = "", reviews: Reviews | None = None, against: str = ""
) -> Iterator[Index]:
    """An index of a table's rows that `where` chooses, as people reviewed them, for as long as the block lasts.

    Args:
        against: Another table, whose captions of the same images (by `image_id`) stand in columns `OTHER`; or a
            column of this one's, as `column:NAME`: captions that were there before.

    Raises:
        UsageError: there is no table or column, or `where` cannot be used.
        StorageError: a table cannot be read.
    """
    selection = _selection(uri, storage)
    with TemporaryDirectory(prefix="captionkit-") as folder:
        other: _Other | _OtherColumn | None = None
        if against.startswith(_COLUMN):
            other = _OtherColumn(against.removeprefix(_COLUMN), selection.schema)
        elif against:
            other = _Other(against, storage, Path(folder) / "other.arrow")
        ours = (COLUMN, *(OTHER if other else ()))
        stored = [field for field in selection.schema if not pa.types.is_binary(field.type) and field.name not in ours]
        schema = pa.schema([*stored, pa.field(COLUMN, pa.string()), *(other.fields if other else ())])
        condition = parse_where(where, schema) if where else None
        wanted = pa.schema([*schema, *(pa.field(name, pa.string()) for name in (_TEXT, GENERATED))])
        path = Path(folder) / "rows.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, wanted) as writer:
            for rows in selection.chosen(field.name for field in stored):
                rows = rows.append_column(GENERATED, rows["caption"])
                if reviews is not None:
                    rows = reviews.overlay(rows)
                else:
                    rows = rows.append_column(COLUMN, pa.nulls(len(rows), pa.string()))
                texts = [rows["caption"], rows["uri"]]
                if other is not None:
                    rows = other.beside(rows)
                    texts.append(rows["other_caption"])
                rows = rows.append_column(
                    _TEXT,
                    pc.utf8_lower(
                        pc.binary_join_element_wise(*texts, "\n", null_handling="replace", null_replacement="")
                    ),
                )
                rows = condition.filter(rows) if condition else rows
                writer.write_table(rows.select(wanted.names).cast(wanted), BATCH)
        index = Index(path, schema, other is not None)
        try:
            yield index
        finally:
            index.close()


def _selection(uri: str, storage: Storage) -> Selection:
    """All rows of a table, as they are."""
    return Selection(CaptionTable(uri, storage), ExportOptions(uri, "-", format="jsonl", reviews="none"))


class _OtherColumn:
    """A column of the table's own beside its captions.

    Raises (from the constructor):
        UsageError: there is none of text by that name.
    """

    def __init__(self, name: str, schema: pa.Schema) -> None:
        if name not in schema.names or not pa.types.is_string(schema.field(name).type):
            texts = ", ".join(field.name for field in schema if pa.types.is_string(field.type))
            raise UsageError(f"--against {_COLUMN}{name}: there is no such column of text; there are: {texts}")
        self._name = name
        self.fields = list(map(pa.field, OTHER, (pa.string(), pa.float32(), pa.string())))

    def beside(self, rows: pa.Table) -> pa.Table:
        """Rows with that column as the other caption; the captioner's, where the column has become the row's own."""
        texts = rows[self._name].to_pylist()
        scores, models = [None] * len(rows), [None if text is None else self._name for text in texts]
        for at in np.flatnonzero(pc.equal(rows["model"], BROUGHT).to_numpy()).tolist():
            first = next(iter(rows["alternatives"][at].as_py() or ()), None)
            texts[at], models[at] = (None, None) if first is None else (first["caption"], ALTERNATIVE)
            scores[at] = None if first is None else first["score"]
        for field, values in zip(self.fields, (texts, scores, models), strict=True):
            rows = rows.append_column(field, pa.array(values, field.type))
        return rows


class _Other:
    """Another table's captions, in a mapped file, found by the image's id: 16 bytes of memory a row."""

    def __init__(self, uri: str, storage: Storage, path: Path) -> None:
        selection = _selection(uri, storage)
        names = dict(zip(("caption", "score", "model"), OTHER, strict=True))
        self.fields = [selection.schema.field(name).with_name(new).with_nullable(True) for name, new in names.items()]
        ids, schema = [np.empty(0, np.int64)], pa.schema(self.fields)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for rows in selection.chosen([*names, "image_id"]):
                ids.append(rows["image_id"].to_numpy())
                writer.write_table(rows.select(list(names)).rename_columns(list(names.values())).cast(schema))
        self._order = np.argsort(np.concatenate(ids), kind="stable")
        self._ids = np.concatenate(ids)[self._order]
        self._rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def beside(self, rows: pa.Table) -> pa.Table:
        """Rows with the other table's captions in columns `OTHER`; null where it has none."""
        wanted = rows["image_id"].to_numpy()
        at = np.minimum(np.searchsorted(self._ids, wanted), max(len(self._ids) - 1, 0))
        has_row = self._ids[at] == wanted if len(self._ids) else np.zeros(len(wanted), np.bool_)
        places = pa.array(np.where(has_row, self._order[at] if len(self._ids) else 0, 0), mask=~has_row)
        for name, column in zip(OTHER, self._rows.take(places).columns, strict=True):
            if name in rows.column_names:
                rows = rows.drop_columns([name])
            rows = rows.append_column(name, column)
        return rows
