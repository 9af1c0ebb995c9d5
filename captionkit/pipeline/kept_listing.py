"""A finished listing, kept beside the table until a run has come to its end with it.

Listing a hundred million keys takes hours. Where a run dies or is stopped after that, the same command goes on with
what was listed, and asks for nothing again. A run that comes to its end deletes its listing, so that the one after it
finds what is new.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from captionkit.inputs.images import Batch, Images, in_batches, one_by_one
from captionkit.inputs.kinds import InputItem
from captionkit.inputs.listing import Inputs
from captionkit.progress import log_line
from captionkit.storage import Storage, StorageError, escape
from captionkit.table.table import beside

KEEP_SECONDS = 60.0
"""A listing that took less is not kept: it is soon made anew."""
KEEP_DAYS = 7
"""An older one is not gone on with."""
FILE_ITEMS = 65_536
_FACTS = b"captionkit.listing"
_COLUMNS = (
    pa.field("uri", pa.string()),
    pa.field("version", pa.string()),
    pa.field("size", pa.int64()),
    pa.field("kind", pa.string()),
    pa.field("row_groups", pa.list_(pa.int64())),
    pa.field("broken", pa.bool_()),
)


class KeptListing:
    """The items of `inputs`: those that a run before has left, else as they are listed, and kept meanwhile.

    A listing is that of one command: of the options that say what is listed. Addresses with passwords or signatures are
    never written down; where there is one, nothing is kept.

    Args:
        table: Address of the caption table. One that is a whole bucket has no place beside it, and keeps none.
        share: The run's share of the inputs, "" for all. Each has a listing of its own, as it has a lease of its own.
    """

    def __init__(self, inputs: Inputs, storage: Storage, table: str, share: str = "") -> None:
        self._inputs, self._storage, self._folder = inputs, storage, beside(table, "listing")
        options = asdict(inputs.options) | {"input": [storage.normalize(uri) for uri in inputs.options.input]}
        self._again: bool = options.pop("list_again")
        command = json.dumps([options, share], sort_keys=True)
        self._key = blake2b(command.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        self._files: list[str] = []

    def items(self) -> Iterator[InputItem]:
        """Each for itself."""
        return one_by_one(self.pieces())

    def pieces(self) -> Iterator[Images | InputItem]:
        """See the class.

        Raises:
            UsageError, StorageError: as `Inputs.pieces` does.
        """
        if not self._folder:
            yield from self._inputs.pieces()
            return
        self._files = self._find()
        facts = None if self._again else self._facts()
        if facts is None:
            self.forget()
            yield from self._keep()
            return
        log_line(
            f"going on with {facts['items']:,} inputs as a run that was ended listed them on {facts['listed_at']}; "
            "--list-again lists them anew"
        )
        yield from self._kept(facts)

    def forget(self) -> None:
        """Delete what is kept."""
        with suppress(StorageError):
            for uri in self._files:
                self._storage.delete(uri)
        self._files = []
        if "://" not in self._folder:
            with suppress(OSError):  # it holds other listings
                os.rmdir(self._folder)

    def _find(self) -> list[str]:
        with suppress(StorageError):  # without its folder, or what may not be read, inputs are listed as ever
            return sorted(entry.uri for entry in self._storage.glob(f"{escape(self._folder)}/{self._key}-*.arrow"))
        return []

    def _facts(self) -> dict[str, Any] | None:
        """What the last file says of the whole listing; None where it is not whole, or old."""
        facts: dict[str, Any] | None = None
        if self._files:
            with suppress(pa.ArrowException, StorageError):
                facts = json.loads((self._read(self._files[-1]).schema.metadata or {}).get(_FACTS, b"null"))
        if facts is None or facts["files"] != len(self._files):
            return None
        age = datetime.now(timezone.utc) - datetime.fromisoformat(facts["listed_at"])
        return facts if age < timedelta(days=KEEP_DAYS) else None

    def _read(self, uri: str) -> pa.ipc.RecordBatchFileReader:
        return pa.ipc.open_file(pa.BufferReader(self._storage.read(uri)))

    def _kept(self, facts: dict[str, Any]) -> Iterator[Images | InputItem]:
        inputs = self._inputs
        inputs.ignored.update(facts["ignored"])
        inputs.blank, inputs.notes = facts["blank"], facts["notes"]
        for column in self._read(self._files[-1]).schema.field("carried").type:
            inputs.carry_types[column.name] = column.type
        for uri in self._files:
            file = self._read(uri)
            for number in range(file.num_record_batches):
                yield from _pieces(file.get_batch(number))

    def _keep(self) -> Iterator[Images | InputItem]:
        start, total, keeps, is_whole = time.monotonic(), 0, True, False
        pieces: list[Images | InputItem] = []
        gathered = 0
        try:
            for piece in self._inputs.pieces():
                yield piece
                count = len(piece) if isinstance(piece, Images) else 1
                total += count
                keeps = keeps and not _has_secrets(piece)
                if not keeps:
                    continue
                pieces.append(piece)
                gathered += count
                if gathered >= FILE_ITEMS:
                    keeps = self._write(pieces)
                    pieces, gathered = [], 0
            if keeps and time.monotonic() - start >= KEEP_SECONDS:
                is_whole = self._write(pieces, total)
        finally:
            if not is_whole:
                self.forget()

    def _write(self, pieces: list[Images | InputItem], total: int | None = None) -> bool:
        """Write the next file; False where that cannot be, which is no reason to end a run.

        Args:
            total: Of the last file: how many items there are in all.
        """
        inputs, number = self._inputs, len(self._files)
        carried = pa.field("carried", pa.struct([pa.field(*column) for column in inputs.carry_types.items()]))
        schema = pa.schema([*_COLUMNS, carried])
        if total is not None:
            facts = {
                "files": number + 1,
                "items": total,
                "listed_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "ignored": dict(inputs.ignored),
                "blank": inputs.blank,
                "notes": inputs.notes,
            }
            schema = schema.with_metadata({_FACTS: json.dumps(facts)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
            for batch in in_batches(pieces, FILE_ITEMS):
                file.write_batch(_columns(batch, schema))
        uri = f"{self._folder}/{self._key}-{number:06d}.arrow"
        self._files.append(uri)
        try:
            self._storage.write(uri, sink.getvalue().to_pybytes())
        except StorageError as err:
            log_line(f"the listing is not kept for a run that would go on with it: {err}")
            return False
        return True


def _has_secrets(piece: Images | InputItem) -> bool:
    return piece.names is not piece.uris if isinstance(piece, Images) else piece.name != piece.uri


def _columns(batch: Batch, schema: pa.Schema) -> pa.RecordBatch:
    if isinstance(batch, Images):
        count = len(batch)
        every = {
            "uri": batch.uris,
            "version": batch.versions,
            "size": batch.sizes,
            "kind": pa.repeat("image", count),
            "row_groups": pa.repeat(pa.scalar([], pa.list_(pa.int64())), count),
            "broken": pa.repeat(False, count),
            "carried": batch.carried or [{}] * count,
        }
    else:
        every = {field.name: [getattr(item, field.name) for item in batch] for field in schema}
    return pa.RecordBatch.from_arrays([pa.array(every[field.name], field.type) for field in schema], schema=schema)


def _pieces(batch: pa.RecordBatch) -> Iterator[Images | InputItem]:
    if pc.all(pc.equal(batch["kind"], "image")).as_py():
        carried = batch["carried"].to_pylist() if batch["carried"].type.num_fields else None
        yield Images(batch["uri"], batch["uri"], batch["version"], batch["size"], carried)
        return
    for row in batch.to_pylist():
        yield InputItem(**row | {"row_groups": tuple(row["row_groups"])})
