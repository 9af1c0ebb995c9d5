"""The caption table's columns: names, types, and the words its cells and footers are written in.

What reads inputs and what writes tables both need them, so they stand below both.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from captionkit.errors import UsageError
from captionkit.images import ERROR_KINDS as IMAGE_ERROR_KINDS
from captionkit.storage import CONTAINER_NAME, STORAGE_ERROR_KINDS

CAPTIONED, FAILED = "captioned", "failed"
MODEL_ERROR = "model_error"
ERROR_KINDS = (*STORAGE_ERROR_KINDS, *IMAGE_ERROR_KINDS, MODEL_ERROR)
FOOTER = b"captionkit"
HAS_MEMBER = rf"(?i){CONTAINER_NAME}(\?[^#]*)?#"
"""What an address has that lies in a container, as Arrow's regular expressions have it: see `split_member`."""

SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("score", pa.float32()),  # mean log-probability of the caption's tokens, in nats
        pa.field("alternatives", pa.list_(pa.struct([("caption", pa.string()), ("score", pa.float32())]))),
        pa.field("width", pa.int32()),  # pixels, after EXIF rotation
        pa.field("height", pa.int32()),
        pa.field("error_kind", pa.string()),  # one of ERROR_KINDS
        pa.field("error", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("captioned_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


_TAKEN = frozenset(SCHEMA.names) | {"pixels", "total", "again", "passed_over", "version", "bytes", "batch", "retries"}
_PREFIX = "input_"


def stored_name(column: str) -> str:
    """What a carried column of an input is called in the table: `input_caption` where the table has a `caption`."""
    return f"{_PREFIX}{column}" if column in _TAKEN else column


def source_name(stored: str) -> str:
    """Undoes `stored_name`."""
    column = stored.removeprefix(_PREFIX)
    return column if column in _TAKEN else stored


def schema_with(carry: Mapping[str, pa.DataType]) -> pa.Schema:
    """The table's schema with the carried columns behind its own.

    Raises:
        UsageError: a carried column bears the name of one of the table's own.
    """
    clash = sorted(set(carry) & set(SCHEMA.names))  # not from inputs: see `stored_name`
    if clash:
        raise UsageError(f"--carry {' '.join(clash)}: the caption table has a column of that name itself")
    return pa.schema([*SCHEMA, *(pa.field(name, kind) for name, kind in carry.items())])
