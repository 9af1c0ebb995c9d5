"""S3 Inventory: a bucket's listing that S3 writes into a bucket daily or weekly, as CSV, Parquet or ORC files.

Its `manifest.json` names the files. They hold keys, sizes and ETags, so that nobody has to list or ask for objects one
by one. (Amazon S3 User Guide, "Locating your inventory list" and "Amazon S3 Inventory list".)
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple
from urllib.parse import unquote_plus

import pyarrow as pa

from captionkit.errors import UsageError
from captionkit.storage import Entries, Storage, public_uri
from captionkit.storage.addresses import is_hidden
from captionkit.storage.archives import open_parquet, seekable

NAME = "manifest.json"
COLUMNS = ("bucket", "key", "size", "e_tag", "is_latest", "is_delete_marker")
"""What is read, in the spelling of Parquet and ORC; the last two are there if the inventory lists all versions."""
CSV_COLUMNS = {"Bucket": "bucket", "Key": "key", "Size": "size", "ETag": "e_tag"} | {
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
}
CSV_BLOCK = 4 << 20
MAX_MANIFEST = 1 << 28
"""Bytes. One of a billion keys names some thousands of files."""


class Inventory(NamedTuple):
    """An inventory by its manifest."""

    uri: str
    form: Literal["CSV", "Parquet", "ORC"]
    files: tuple[str, ...]
    """Addresses of the files with the keys."""
    columns: tuple[str, ...]
    """Names of a CSV's columns, which has no header."""

    def entries(self, storage: Storage) -> Iterator[Entries]:
        """The objects as they were when the inventory was made, many at a time: addresses, sizes, ETags.

        Raises:
            UsageError: a file of it cannot be read, or lacks a column.
            StorageError: storage fails.
        """
        for file in self.files:
            try:
                with storage.open(file) as opened:
                    for batch in self._batches(opened):
                        yield self._of(batch, file)
            except (pa.ArrowException, OSError) as err:
                raise UsageError(
                    f"{public_uri(file)} of the inventory {public_uri(self.uri)} cannot be read as {self.form}: "
                    f"{' '.join(str(err).split())[:300]}"
                ) from err

    def _batches(self, opened: BinaryIO) -> Iterator[pa.RecordBatch]:
        if self.form == "CSV":
            yield from self._csv(opened)
            return
        with seekable(opened) as stream:
            if self.form == "Parquet":
                parquet = open_parquet(stream)
                wanted = [name for name in COLUMNS if name in parquet.schema_arrow.names]
                yield from parquet.iter_batches(columns=wanted)
                return
            from pyarrow import orc  # late, as CSV below: few inputs are inventories

            file = orc.ORCFile(stream)
            wanted = [name for name in COLUMNS if name in file.schema.names]
            for stripe in range(file.nstripes):
                yield file.read_stripe(stripe, columns=wanted)

    def _csv(self, opened: BinaryIO) -> Iterator[pa.RecordBatch]:
        from pyarrow import csv

        names = [CSV_COLUMNS.get(name, name) for name in self.columns]
        reader = csv.open_csv(
            pa.CompressedInputStream(opened, "gzip"),
            csv.ReadOptions(column_names=names, block_size=CSV_BLOCK),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.int64() if name == "size" else pa.string() for name in names},
                include_columns=[name for name in COLUMNS if name in names],
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        yield from reader

    def _of(self, batch: pa.RecordBatch, file: str) -> Entries:
        lacking = [name for name in ("bucket", "key", "e_tag") if name not in batch.schema.names]
        if lacking:
            raise UsageError(
                f"{public_uri(file)} has no column {' '.join(lacking)}: without ETags nobody can tell what has "
                "changed. Have the inventory made with the optional fields Size and ETag"
            )
        rows, found = batch.to_pydict(), Entries([], [], [])
        absent = [None] * len(batch)
        for bucket, key, size, etag, latest, marker in zip(*(rows.get(name, absent) for name in COLUMNS), strict=True):
            if str(latest).lower() == "false" or str(marker).lower() == "true":
                continue  # of an earlier version, or deleted
            name = unquote_plus(key) if self.form == "CSV" else key
            if is_hidden(name) or (name.endswith("/") and not size):
                continue
            found.add(f"s3://{bucket}/{name}", size, (etag or "").strip('"'))
        return found


def read_inventory(uri: str, storage: Storage) -> Inventory | None:
    """The inventory whose manifest lies at an address; None where that is no inventory's.

    Raises:
        UsageError: a manifest of a form that there was not when this was written.
        StorageError: storage that cannot be read.
    """
    if posixpath.basename(uri) != NAME:
        return None
    with storage.open(uri) as file:
        data = file.read(MAX_MANIFEST)
    try:
        manifest = json.loads(data)
    except ValueError:
        return None
    if not isinstance(manifest, dict) or not {"fileFormat", "destinationBucket", "files"} <= manifest.keys():
        return None
    form, bucket = manifest["fileFormat"], str(manifest["destinationBucket"]).rpartition(":")[2]
    try:
        files = tuple(f"s3://{bucket}/{file['key']}" for file in manifest["files"])
    except (TypeError, KeyError) as err:
        raise _strange(uri, "its `files` have no keys") from err
    if form not in ("CSV", "Parquet", "ORC"):
        raise _strange(uri, f"its files are {form}; CSV, Parquet and ORC are read")
    return Inventory(uri, form, files, _names(manifest.get("fileSchema")) if form == "CSV" else ())


def _names(schema: Any) -> tuple[str, ...]:
    names: Sequence[str] = schema.split(",") if isinstance(schema, str) else ()
    return tuple(name.strip() for name in names)


def _strange(uri: str, what: str) -> UsageError:
    return UsageError(f"{public_uri(uri)} is the manifest of an S3 Inventory that is not understood: {what}")
