"""JSON documents as Parquet files without rows, the JSON in the footer.

Some readers (Polars, Hugging Face `datasets`) take every file below a folder for data and stop at one that is not
Parquet. So what a caption table's folder holds beside its rows (run records, leases) is a Parquet file of the table's
own columns that adds no row, and the folder can be read as it is by all of them.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DOCUMENT = b"captionkit.document"
"""Key of the JSON in such a file's footer."""


def to_document(value: Any, schema: pa.Schema) -> bytes:
    """A Parquet file of `schema` without rows that holds `value` as JSON in its footer."""
    sink = pa.BufferOutputStream()
    metadata = {DOCUMENT: json.dumps(value).encode()}
    # No row group at all: `datasets` fails at an empty one, as `write_table` would make.
    pq.ParquetWriter(sink, schema.with_metadata(metadata)).close()
    return bytes(sink.getvalue())


def from_document(data: bytes) -> Any:
    """What `to_document` was given.

    Raises:
        ValueError: the bytes are no such file.
    """
    try:
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
        return json.loads(metadata[DOCUMENT])
    except (pa.ArrowException, OSError, KeyError) as err:  # OSError is what a damaged footer raises
        raise ValueError("not a Parquet file that holds a record") from err
