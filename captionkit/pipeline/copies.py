"""`--dedupe`: rows of images that were not read, for their contents are those of others whose captions stand by now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captionkit.inputs.images import Images
from captionkit.inputs.listing import Inputs
from captionkit.pipeline.manifest import ReadUnit, UnitWriter, read_unit, rows_per_unit
from captionkit.schema import CONFIDENCE, TRANSIENT, schema_with
from captionkit.storage import STORAGE_ERROR_KINDS, Storage
from captionkit.table.table import CaptionTable

AT_ONCE = 500_000
"""Copies whose originals are looked up together: the table is read once for so many."""
FROM_ORIGINAL = ["status", "caption", "score", "alternatives", "width", "height", "error_kind", "error", "model"]


def copied_rows(
    units: Iterable[ReadUnit], table: CaptionTable, storage: Storage, run_id: str, carry: dict[str, pa.DataType]
) -> Iterator[pa.Table]:
    """The rows of copies, as the captioner would have made them; those whose originals have none are left out.

    Args:
        table: What its files say when this is called, those of this run among them.
    """
    waiting: list[pa.Table] = []
    for unit in units:
        waiting.append(pa.Table.from_batches([read_unit(unit, storage)]))
        if sum(map(len, waiting)) >= AT_ONCE:
            yield _rows(_joined(waiting), table, run_id, carry)
            waiting = []
    if waiting:
        yield _rows(_joined(waiting), table, run_id, carry)


class FoundCopies:
    """Images that fetch tasks found to be of the same contents as others, put aside until those have their captions.

    Args:
        prefix: What the addresses of the files with them begin with.
        inputs: Says which columns are carried.
    """

    def __init__(self, storage: Storage, prefix: str, inputs: Inputs) -> None:
        self._writer, self._inputs = UnitWriter(storage, prefix, inputs), inputs
        self._writer.size = rows_per_unit(AT_ONCE)
        self.count = 0

    def set_aside(self, rows: pa.Table) -> pa.Table:
        """Take such rows out of those that have come."""
        is_copy = pc.is_valid(rows["same_as"])
        copies = rows.filter(is_copy).combine_chunks()
        if len(copies):
            uris, versions = (copies[name].combine_chunks() for name in ("uri", "version"))
            carried = copies.select(
                [name for name in self._inputs.carry_types if name in rows.schema.names]
            ).to_pylist()
            images = Images(uris, uris, versions, pa.nulls(len(copies), pa.int64()), carried)
            self._writer.images(images, *(copies[name].to_numpy() for name in ("image_id", "same_as")))
            self.count += len(copies)
        return rows.filter(pc.invert(is_copy))

    def take(self) -> list[ReadUnit]:
        """All of them, written."""
        return self._writer.take()[0]


def _joined(parts: list[pa.Table]) -> pa.Table:
    # Carried columns may have been met in a later part alone.
    return pa.concat_tables(parts, promote_options="permissive")


def _rows(copies: pa.Table, table: CaptionTable, run_id: str, carry: dict[str, pa.DataType]) -> pa.Table:
    taken = [*FROM_ORIGINAL, *({CONFIDENCE.name} & carry.keys())]
    originals = _originals(table, copies["same_as"].to_numpy(), taken)
    ids = originals["image_id"].to_numpy()
    order = np.argsort(ids, kind="stable")
    wanted = copies["same_as"].to_numpy()
    at = np.minimum(np.searchsorted(ids, wanted, sorter=order), max(0, len(ids) - 1))
    has_row = ids[order[at]] == wanted if len(ids) else np.zeros(len(wanted), np.bool_)
    copies = copies.filter(pa.array(has_row))
    originals = originals.take(pa.array(order[at[has_row]]))
    error = _explained(originals)
    carried = copies["carried"].combine_chunks()
    made = []
    same = {"run_id": run_id, "captioned_at": datetime.now(timezone.utc)}
    for column in pa.schema([*schema_with(carry), *TRANSIENT]):
        if column.name == "error":
            made.append(error)
        elif column.name in taken:
            made.append(originals[column.name])
        elif column.name in same:
            made.append(pa.repeat(pa.scalar(same[column.name], column.type), len(copies)))
        elif column.name in carry and carried.type.get_field_index(column.name) >= 0:
            made.append(pc.struct_field(carried, column.name).cast(column.type))
        elif column.name in ("uri", "image_id", "version"):
            made.append(copies[column.name])
        else:
            made.append(pa.nulls(len(copies), column.type))
    return pa.Table.from_arrays(made, schema=pa.schema([*schema_with(carry), *TRANSIENT]))


def _originals(table: CaptionTable, ids: np.ndarray, taken: list[str]) -> pa.Table:
    """The rows of these ids."""
    wanted = pa.array(np.unique(ids))
    columns = ["uri", "image_id", *taken]
    batches = [
        chosen
        for _, batch in table.batches(columns)
        if len(chosen := batch.filter(pc.is_in(batch["image_id"], wanted)))
    ]
    return pa.Table.from_batches(batches, pa.schema([table.schema.field(name) for name in columns]))


def _explained(originals: pa.Table) -> pa.ChunkedArray:
    """Errors of the originals, as they stand in rows of copies: what storage said of one address is not said of
    another."""
    elsewhere = pc.is_in(originals["error_kind"], pa.array(STORAGE_ERROR_KINDS))
    words = pc.binary_join_element_wise(
        "not read itself, since it is listed with the contents of", originals["uri"], originals["error"], " "
    )
    return pc.if_else(pc.fill_null(elsewhere, False), words, originals["error"])
