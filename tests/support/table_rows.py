"""Rows as the captioner makes them, and tables of them."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from captionkit.inputs.ids import image_id
from captionkit.schema import SCHEMA, TRANSIENT
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable, Footer
from captionkit.table.writer import TableWriter, stored_columns

FOOTER = Footer("ck-0", {"beam": 3}, {})


def rows(uris: list[str], version: str = "v1", **extra: Any) -> pa.Table:
    made = [
        {
            "uri": uri,
            "image_id": image_id(uri, version),
            "status": "captioned",
            "caption": f"caption of {uri}",
            "score": -0.5,
            "alternatives": [{"caption": "another", "score": -1.0}],
            "model": "ck-0",
            "run_id": "r",
            "captioned_at": datetime(2026, 1, 1, tzinfo=timezone.utc),
            "version": version,
            **extra,
        }
        for uri in uris
    ]
    return pa.Table.from_pylist(made, pa.schema([*SCHEMA, *TRANSIENT]))


def write(folder: Path, *parts: pa.Table, run: str = "r", every: int = 1) -> CaptionTable:
    table = CaptionTable(str(folder), Storage())
    writer = TableWriter(table, run, FOOTER, stored_columns({}), flush_rows=every, flush_seconds=1e9)
    for part in parts:
        writer.add(part)
    writer.flush()
    return CaptionTable(str(folder), Storage())
