"""The columns of every table on an image's way: manifest, stream, caption table.

    manifest (`MANIFEST_COLUMNS`) -> fetch, decode (`PIXELS`) -> captioner (`SCHEMA`, `TRANSIENT`) -> table (`SCHEMA`)

Carried columns follow behind each but the manifest's, where they lie in `carried`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from captionkit.errors import UsageError
from captionkit.images import ERROR_KINDS as IMAGE_ERROR_KINDS
from captionkit.storage import CONTAINER_NAME, FAULTS, PAGE, STORAGE_ERROR_KINDS

CAPTIONED, FAILED = "captioned", "failed"
BROUGHT = "input"
"""What `model` says of a caption that the image brought with it (`--existing keep` or `skip`)."""
MODEL_ERROR = "model_error"
ERROR_KINDS = (*STORAGE_ERROR_KINDS, *IMAGE_ERROR_KINDS, MODEL_ERROR)
FOOTER = b"captionkit"
"""Key of a table file's own words in its Parquet metadata (`captionkit.table.table.Footer`)."""
HAS_MEMBER = rf"(?i){CONTAINER_NAME}(\?[^#]*)?#|{PAGE}"
"""What an address has that lies in a container or is a page of a file, as Arrow's regular expressions have it: see
`split_member`."""

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
"""The caption table's own columns."""

CONFIDENCE = pa.field("confidence", pa.float32())
"""The chance that people would accept the caption, from 0 to 1; null without one. It stands behind `SCHEMA`, before the
carried columns, and only in tables of captioners with a calibration."""

MANIFEST_COLUMNS = [
    pa.field("uri", pa.string()),
    pa.field("version", pa.string()),
    pa.field("image_id", pa.int64()),
    pa.field("read_uri", pa.string()),  # what to read, where it is not `uri`: with its password or signature
    pa.field("size", pa.int64()),  # bytes, where known
    pa.field("kind", pa.string()),
    pa.field("row_group", pa.int32()),
    pa.field("first_row", pa.int64()),  # of the row group, in its file
    pa.field("rows", pa.int64()),  # of the row group
    pa.field("container_rows", pa.int64()),  # of the whole container, where known
    pa.field("same_as", pa.int64()),  # image_id of the image whose caption is to be this one's as well
]
"""Of a manifest; `carried`, a struct of the carried columns, follows."""

RETRIES = pa.field("retries", pa.struct([(fault, pa.int32()) for fault in FAULTS]))
"""How often reads were tried again since the table before, by fault; in a table's first row, null in all others."""

_FETCHED = [
    pa.field("container_rows", pa.int64()),  # of the row's container, where known by now
    pa.field("duplicate_members", pa.int32()),  # left out, one before having their name; in a shard's last row
    pa.field("passed_over", pa.string()),  # JSON: members that are no images by suffix; in a shard's last row
    pa.field("odd_texts", pa.string()),  # JSON: carried texts that are not as they should be, by kind; likewise
    pa.field("version", pa.string()),
    pa.field("bytes", pa.int64()),
    pa.field("fetch_s", pa.float32()),
    pa.field("decode_s", pa.float32()),  # of processor time
    pa.field("same_as", pa.int64()),  # image_id of the image with the same contents, whose caption is to be this one's
]

PIXELS = [
    pa.field("uri", pa.string()),
    pa.field("image_id", pa.int64()),
    pa.field("pixels", pa.binary()),  # size × size × 3 uint8, RGB, row by row; null in a failed row
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("error_kind", pa.string()),
    pa.field("error", pa.string()),
    *_FETCHED,
    RETRIES,
]
"""From fetch to captioner."""

TRANSIENT = [*_FETCHED, pa.field("caption_s", pa.float32()), pa.field("batch", pa.int32()), RETRIES]
"""From captioner to driver behind a row's own columns, for the run record; never stored."""

_RESERVED = frozenset((*SCHEMA.names, CONFIDENCE.name)) | {column.name for column in (*PIXELS, *TRANSIENT)}
_PREFIX = "input_"


def stored_name(column: str) -> str:
    """What a carried column of an input is called in the table: `input_caption` where the table has a `caption`."""
    return f"{_PREFIX}{column}" if column in _RESERVED else column


def is_reserved(column: str) -> bool:
    """Whether a column of this name is the table's own, or stands beside the table's own on the way there."""
    return column in _RESERVED


def source_name(stored: str) -> str:
    """Undoes `stored_name`."""
    column = stored.removeprefix(_PREFIX)
    return column if column in _RESERVED else stored


def schema_with(carry: Mapping[str, pa.DataType]) -> pa.Schema:
    """The table's schema with the carried columns behind its own.

    Raises:
        UsageError: a carried column bears the name of one of the table's own.
    """
    clash = sorted(set(carry) & set(SCHEMA.names))  # not from inputs: see `stored_name`
    if clash:
        raise UsageError(f"--carry {' '.join(clash)}: the caption table has a column of that name itself")
    return pa.schema([*SCHEMA, *(pa.field(name, kind) for name, kind in carry.items())])
