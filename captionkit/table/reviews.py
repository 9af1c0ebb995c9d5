"""Reviews: what people decided about captions, in a small table of its own beside the caption table.

`captions/` has its reviews in `captions-reviews/reviews.parquet`: one row an image, a decision each. No run and no
compaction touches that folder, since it lies beside the table and not in it; nor could it lie within, where some
readers (Polars, Hugging Face's `datasets`) would take its rows for captions. The file is replaced whole at each save,
in one atomic write; a lease in the same folder sees to it that one process at a time does so.

What a decision holds for:

- "approved" and "edited": the text is the caption of that image, whichever model generated what, then or later;
- "rejected": these words of that image. Another model's other words are undecided;
- none of them holds for a later version of the image (its `image_id` is another). It stays in the table.

The columns `uri` and `caption` are what `captionkit train --corpus` looks for; a rejected row has no caption and is
left out there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.errors import UsageError
from captionkit.schema import CAPTIONED
from captionkit.storage import Storage, StorageError, public_uri
from captionkit.table.table import CaptionTable, beside

APPROVED, EDITED, REJECTED = "approved", "edited", "rejected"
DECISIONS = (APPROVED, EDITED, REJECTED)
SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),  # of the version that was looked at
        pa.field("decision", pa.string(), nullable=False),  # one of DECISIONS
        pa.field("caption", pa.string()),  # the text that holds; null where it was rejected
        pa.field("generated", pa.string()),  # what the captioner generated; null where it had failed
        pa.field("model", pa.string(), nullable=False),
        pa.field("reviewer", pa.string()),
        pa.field("decided_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
COLUMN = "review"
"""What the decision is called where it stands beside the captions, in pages and exports."""
NEEDED = ("uri", "image_id", "status", "caption")
"""Columns of a caption table that `Reviews.overlay` looks at."""


@dataclass(frozen=True)
class Review:
    """One decision; see `SCHEMA`."""

    uri: str
    image_id: int
    decision: str
    caption: str | None
    generated: str | None
    model: str
    reviewer: str | None
    decided_at: datetime

    def holds_for(self, image_id: int, generated: str | None) -> bool:
        """Whether it says something of this version of the image, of which a captioner generated this."""
        return self.image_id == image_id and (self.decision != REJECTED or self.generated == generated)


def reviews_of(table_uri: str) -> str:
    """The folder of a table's reviews: beside it, its name with `-reviews`; "" where the table is a whole bucket."""
    return beside(table_uri, "reviews")


class Reviews:
    """The reviews at an address, as they stand when opened; none where there is nothing.

    Args:
        uri: Their folder.

    Raises (from the constructor):
        UsageError: what lies there are no reviews.
        StorageError: it cannot be read.
    """

    def __init__(self, uri: str, storage: Storage) -> None:
        self.uri = storage.normalize(uri)
        self.file = storage.join(self.uri, "reviews.parquet")
        self._storage = storage
        self._by_uri: dict[str, Review] = {}
        for row in self._read().to_pylist():
            self._by_uri[row["uri"]] = Review(**row)
        self._ids = self._sorted_ids()

    def _read(self) -> pa.Table:
        try:
            data = self._storage.read(self.file)
        except StorageError as err:
            if err.kind != "not_found" or err.fatal:
                raise
            return SCHEMA.empty_table()
        try:
            return pq.read_table(pa.BufferReader(data), columns=SCHEMA.names).cast(SCHEMA)
        except (pa.ArrowException, OSError, KeyError) as err:
            raise UsageError(f"{public_uri(self.file)} holds no reviews of captionkit's: {err}") from err

    def _sorted_ids(self) -> Any:
        ids = np.fromiter((review.image_id for review in self._by_uri.values()), np.int64, len(self._by_uri))
        ids.sort()
        return ids

    def __len__(self) -> int:
        return len(self._by_uri)

    def get(self, uri: str) -> Review | None:
        """The decision about an image, of whichever version of it."""
        return self._by_uri.get(uri)

    def change(self, reviews: Iterable[Review], withdrawn: Iterable[str] = ()) -> None:
        """Put decisions in, in the place of earlier ones about the same images, and take others out."""
        for review in reviews:
            self._by_uri[review.uri] = review
        for uri in withdrawn:
            self._by_uri.pop(uri, None)
        self._ids = self._sorted_ids()

    def save(self) -> None:
        """Write them, in one atomic write, in the place of what was there.

        Raises:
            StorageError: they could not be written; what was there stands.
        """
        rows = sorted(self._by_uri.copy().values(), key=lambda review: review.uri)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA), sink, compression="zstd")
        self._storage.write(self.file, bytes(sink.getvalue()))

    def overlay(self, rows: pa.Table) -> pa.Table:
        """Rows of a caption table (with the columns `NEEDED`) as people decided, and the decision in a column `review`.

        A text that a person wrote for an image that had failed makes it a captioned one. Where a caption was rejected
        there is none.

        Raises:
            UsageError: the rows have a column of that name.
        """
        if COLUMN in rows.column_names:
            raise UsageError(f"the table carries a column `{COLUMN}`, where the decisions belong; use --reviews none")
        decisions: list[str | None] = [None] * len(rows)
        if not len(self._ids):
            return rows.append_column(COLUMN, pa.array(decisions, pa.string()))
        places = np.flatnonzero(np.isin(rows["image_id"].to_numpy(), self._ids))
        if len(places):
            captions, status = rows["caption"].to_pylist(), rows["status"].to_pylist()
            matches = rows.select(["uri", "image_id"]).take(pa.array(places)).to_pylist()
            for place, row in zip(places.tolist(), matches, strict=True):
                review = self._by_uri.get(row["uri"])
                if review is None or not review.holds_for(row["image_id"], captions[place]):
                    continue
                decisions[place], captions[place] = review.decision, review.caption
                if review.caption is not None:
                    status[place] = CAPTIONED
            for name, values in (("caption", captions), ("status", status)):
                at = rows.schema.get_field_index(name)
                rows = rows.set_column(at, rows.schema.field(at), pa.array(values, pa.string()))
        return rows.append_column(COLUMN, pa.array(decisions, pa.string()))


def open_reviews(address: str, table_uri: str, storage: Storage) -> Reviews | None:
    """The reviews that an option `--reviews` names; None for "none".

    Args:
        address: "" for those beside the table, of which a whole bucket has none.
    """
    address = address or reviews_of(storage.normalize(table_uri)) or "none"
    return None if address == "none" else Reviews(address, storage)


def reviewed_rows(table: CaptionTable, reviews: Reviews | None) -> Iterator[dict[str, Any]]:
    """All rows of a table as people decided, with the decision in `review` where there are any."""
    for _, batch in table.batches():
        rows = pa.Table.from_batches([batch])
        yield from (reviews.overlay(rows) if reviews else rows).to_pylist()
