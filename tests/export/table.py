"""Tables to export, and what reads the exports."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from captionkit.export.job import export
from captionkit.export.options import ExportOptions
from captionkit.export.report import Report
from captionkit.inputs.ids import image_id
from captionkit.schema import FAILED, SCHEMA
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable, Footer, to_parquet
from tests.support.table_rows import rows

STORAGE = Storage()


def run(table: Path | str, output: Path | str, format: str, **options: Any) -> Report:
    made = ExportOptions(str(table), str(output), format=format, **options)  # type: ignore[arg-type]
    return export(made, STORAGE)


def make_table(
    folder: Path, captions: dict[str, str | None], carry: dict[str, list[Any]] | None = None
) -> CaptionTable:
    """A table of addresses and captions; None is a failed row. carry: a value for each row."""
    parts = []
    for number, (uri, caption) in enumerate(captions.items()):
        extra: dict[str, Any] = {"score": -0.5 - number / 10, "width": 64, "height": 48}
        if caption is None:
            extra = {"status": FAILED, "score": None, "error_kind": "truncated", "error": "ends early"}
        parts.append(rows([uri], caption=caption, **extra).select(SCHEMA.names))
    whole = pa.concat_tables(parts)
    footer = Footer("ck-0", {}, {})
    for name, values in (carry or {}).items():
        column = pa.array(values)
        whole = whole.append_column(name, column)
        footer.carry[name] = str(column.type)
    STORAGE.write(f"{folder}/captions-r-00000.parquet", to_parquet(whole, footer))
    return CaptionTable(str(folder), STORAGE)


def picture(number: int, format: str = "JPEG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), (number * 20 % 256, 100, 50)).save(data, format)
    return data.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def id_of(uri: str) -> int:
    return image_id(uri, "v1")
