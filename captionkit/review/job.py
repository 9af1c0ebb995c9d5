"""From options to a served page, or to one that stands for itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.gallery import write_gallery
from captionkit.review.desk import Desk
from captionkit.review.index import Query, open_index
from captionkit.review.options import ReviewOptions
from captionkit.review.page import make_page
from captionkit.review.pictures import Pictures
from captionkit.review.server import ReviewServer
from captionkit.storage import Storage, public_uri
from captionkit.table.lease import Lease
from captionkit.table.reviews import SCHEMA, Reviews, open_reviews
from captionkit.table.runs import frames_of, image_column_of, no_table
from captionkit.table.table import CaptionTable

if TYPE_CHECKING:
    from captionkit.review.word_attention import WordAttention


@contextmanager
def serving(
    options: ReviewOptions, storage: Storage, log: Callable[[str], None] = lambda _: None, *, editing: bool = True
) -> Iterator[ReviewServer]:
    """A server of the table; whoever has it calls `serve_forever`.

    Args:
        editing: Decisions can be made, unless the options want no reviews; their lease is held meanwhile.

    Raises:
        UsageError: no table, a condition that cannot be used, or (`LeaseError`) somebody else is reviewing.
        StorageError: the table cannot be read, or reviews cannot be written.
    """
    reviews = open_reviews(options.reviews, options.table, storage)
    editing = editing and options.reviews != "none"
    if editing and reviews is None:
        raise UsageError(
            f"{public_uri(options.table)} is a whole bucket; say with --reviews where its reviews shall lie"
        )
    lease = None
    if editing and reviews is not None:
        _check_table(options.table, storage)
        lease = Lease(reviews.uri, storage, f"review-{secrets.token_hex(3)}", schema=SCHEMA)
        lease.acquire()
    try:
        if lease is not None and reviews is not None:
            reviews = Reviews(reviews.uri, storage)  # as they stand now that nobody else writes
        with _index(options, storage, reviews) as index:
            log(f"{counted(len(index), 'row')} of {public_uri(options.table)}")
            if reviews is not None:
                log(f"{counted(len(reviews), 'decision')} so far in {public_uri(reviews.file)}")
            check = lease.check if lease else lambda: None
            desk = Desk(index, reviews, options.reviewer, editing, check, _word_attention(options, storage, log))
            title = storage.normalize(options.table).rstrip("/").rpartition("/")[2]
            page = make_page(title, public_uri(storage.normalize(options.table)), options.order)
            frames = frames_of(storage.normalize(options.table), storage)
            pictures = Pictures(_reader(options, storage), frames)
            with ReviewServer(desk, pictures, page, options.port) as server:
                yield server
    finally:
        if lease is not None:
            lease.release()


def _word_attention(options: ReviewOptions, storage: Storage, log: Callable[[str], None]) -> WordAttention | None:
    """What shows where the captioner of `--model` looked."""
    if not options.model:
        return None
    from captionkit.model.captioner import Captioner
    from captionkit.review.word_attention import WordAttention, texts_before

    captioner, table = Captioner.load(options.model, storage=storage), CaptionTable(options.table, storage)
    attention = WordAttention(captioner, texts_before(table))
    if all(maker.model != captioner.fingerprint for file in table.files for maker in file.footer.makers()):
        models = " ".join(map(public_uri, options.model))
        log(f"--model {models}: no caption here is by this captioner, {captioner.fingerprint}")
    return attention


def _check_table(uri: str, storage: Storage) -> None:
    """Raises UsageError where there is no table: a lease would be left beside nothing."""
    if not CaptionTable(uri, storage).files:
        raise no_table(storage.normalize(uri), storage)


def write_page(options: ReviewOptions, storage: Storage) -> int:
    """Write the page that stands for itself to `options.output`; the number of rows on it.

    Raises:
        UsageError: no table, or a condition that cannot be used.
        StorageError: the table cannot be read, or the page not written.
    """
    reviews = open_reviews(options.reviews, options.table, storage)
    with _index(options, storage, reviews) as index:
        chosen = index.find(Query(order=options.order))[: options.limit].tolist()
        rows = list(map(index.row, chosen))
        title = storage.normalize(options.table).rstrip("/").rpartition("/")[2]
        summary: dict[str, Any] = {
            "table": public_uri(storage.normalize(options.table)),
            "shown": f"{counted(len(rows), 'row')} of {len(index):,} chosen, order: {options.order}",
        }
        if options.where:
            summary["where"] = options.where
        read = _reader(options, storage)
        frames, limit = frames_of(storage.normalize(options.table), storage), len(rows)
        page, write = options.output, storage.write
        write_gallery(rows, read, page, title=title, summary=summary, limit=limit, frames=frames, write=write)
    return len(rows)


def _index(options: ReviewOptions, storage: Storage, reviews: Reviews | None) -> Any:
    return open_index(options.table, storage, where=options.where, reviews=reviews, against=options.against)


def _reader(options: ReviewOptions, storage: Storage) -> Callable[[str], bytes]:
    """What reads an image; of a Parquet file with several columns of bytes, the one that was captioned."""
    return partial(storage.read, column=image_column_of(storage.normalize(options.table), storage))
