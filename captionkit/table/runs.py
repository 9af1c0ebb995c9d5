"""Run records where they lie: documents in ``OUTPUT/_runs/``."""

from __future__ import annotations

import posixpath
from typing import Any

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.images.types import FRAMES
from captionkit.storage import Storage, StorageError, escape, public_uri
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


def frames_of(table_uri: str, storage: Storage) -> dict[str, str]:
    """Which frame of an image with several each run captioned (`--frame`), by the id; runs that do not say so
    captioned the first.

    Raises:
        StorageError: the run records cannot be read.
    """
    frames = {run["run_id"]: run["options"].get("frame") for run in read_run_records(table_uri, storage)}
    return {run: frame for run, frame in frames.items() if frame in (*FRAMES, "each")}


def no_table(uri: str, storage: Storage) -> UsageError:
    """The error where a folder holds no table file: that there never was one, or that those of its runs are gone.

    Raises:
        StorageError: the run records cannot be read.
    """
    said = f"{public_uri(uri)} holds no caption table"
    files = [(file, run) for run in read_run_records(uri, storage) for file in run.get("files") or ()]
    if not files:
        return UsageError(said)
    names = ", ".join(posixpath.basename(str(file)) for file, _ in files[:3]) + (" …" if len(files) > 3 else "")
    return UsageError(
        f"{said} any more: of {counted(len(files), 'file')} that its runs wrote ({names}; the last run was "
        f"{files[0][1]['run_id']}) none is there. Put them back, or caption the inputs anew by the same command"
    )


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
