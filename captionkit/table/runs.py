"""Run records where they lie: documents in ``OUTPUT/_runs/``."""

from __future__ import annotations

from typing import Any

from captionkit.storage import Storage, StorageError, escape
from captionkit.storage.documents import from_document

RUNS = "_runs"
"""Folder in the output where records lie."""


def image_column_of(table_uri: str, storage: Storage) -> str | None:
    """The column of Parquet inputs that was captioned, for reading them again; None where runs name none or several.

    Raises:
        StorageError: the run records cannot be read.
    """
    columns = {run["options"].get("image_column") for run in read_run_records(table_uri, storage)} - {None}
    return columns.pop() if len(columns) == 1 else None


def read_run_records(table_uri: str, storage: Storage) -> list[dict[str, Any]]:
    """The run records beside a table, the newest first; what is no run record is left out.

    Raises:
        StorageError: they cannot be read.
    """
    folder = table_uri.rstrip("/") + f"/{RUNS}"
    try:
        uris = [entry.uri for entry in storage.glob(escape(folder) + "/*.parquet")]
    except StorageError as err:
        if err.kind != "not_found":
            raise
        return []
    records = []
    for uri in uris:
        try:
            record = from_document(storage.read(uri))
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("options"), dict) and record.get("run_id"):
            records.append(record)
    return sorted(records, key=lambda record: str(record.get("started_at")), reverse=True)
