"""The columns of the stream: from fetch to captioner (`PIXELS`), from captioner to driver (`TRANSIENT`).

The caption table's own columns are in `captionkit.schema`; the manifest's in `captionkit.pipeline.manifest`.
"""

from __future__ import annotations

import pyarrow as pa

from captionkit.storage import FAULTS

RETRIES = pa.field("retries", pa.struct([(fault, pa.int32()) for fault in FAULTS]))
"""How often reads were tried again since the table before, by fault; in a table's first row, null in all others."""

PIXELS = [
    pa.field("uri", pa.string()),
    pa.field("image_id", pa.int64()),
    pa.field("pixels", pa.binary()),  # size × size × 3 uint8, RGB, row by row; null in a failed row
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("error_kind", pa.string()),
    pa.field("error", pa.string()),
    pa.field("total", pa.int64()),  # rows of the row's container, where known by now
    pa.field("again", pa.int32()),  # members left out, one before having their name; in a shard's last row
    pa.field("passed_over", pa.string()),  # JSON: members that are no images by suffix; in a shard's last row
    pa.field("version", pa.string()),
    pa.field("bytes", pa.int64()),
    pa.field("fetch_s", pa.float32()),
    pa.field("decode_s", pa.float32()),  # of processor time
    RETRIES,
]
"""What travels from fetch to captioner; carried columns follow."""

TRANSIENT = [
    pa.field("total", pa.int64()),
    pa.field("again", pa.int32()),
    pa.field("passed_over", pa.string()),
    pa.field("version", pa.string()),
    pa.field("bytes", pa.int64()),
    pa.field("fetch_s", pa.float32()),
    pa.field("decode_s", pa.float32()),
    pa.field("caption_s", pa.float32()),
    pa.field("batch", pa.int32()),
    RETRIES,
]
"""What travels on to the driver behind a row's own columns, for the run record; never stored."""
