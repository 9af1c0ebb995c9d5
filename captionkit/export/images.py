"""The images of rows, as they are stored: those in containers by one reading of each container."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice

import pyarrow.parquet as pq

from captionkit.errors import UsageError
from captionkit.export.parallel import in_parallel
from captionkit.export.rows import Row
from captionkit.inputs.containers import CONTAINER_ERRORS
from captionkit.storage import AddressError, Storage, StorageError, is_parquet, join_member, page_of, split_member
from captionkit.storage.archives import members, open_parquet, seekable
from captionkit.storage.members import image_column

CACHE_KIB = 16 * 1024
"""What SQLite may hold in memory."""
AT_ONCE = 1000
PAGE = "a page or frame of a file, of which no copy can be made"
"""Why a row is left out of what has images in it."""


class Spool:
    """Rows by their container, in a private file on the local disk; about the size of what they hold."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Add rows with their containers; of one address the last one stays."""
        left = ((container, row["uri"], json.dumps(row)) for container, row in rows)
        while part := list(islice(left, AT_ONCE)):
            self._database.executemany("INSERT OR REPLACE INTO row (container, uri, value) VALUES (?, ?, ?)", part)

    def containers(self) -> list[str]:
        """The containers, sorted."""
        return [one for (one,) in self._database.execute("SELECT DISTINCT container FROM row ORDER BY container")]

    def rows(self, container: str) -> Iterator[Row]:
        """A container's rows, in the order in which they were added."""
        query = "SELECT value FROM row WHERE container = ? ORDER BY number"
        return (json.loads(value) for (value,) in self._database.execute(query, (container,)))

    def take(self, uri: str) -> Row | None:
        """The row of an address; it is no longer there then."""
        fetched = self._database.execute("SELECT number, value FROM row WHERE uri = ?", (uri,)).fetchone()
        if fetched is None:
            return None
        self._database.execute("DELETE FROM row WHERE number = ?", fetched[:1])
        row: Row = json.loads(fetched[1])
        return row


def without_pages(rows: Iterable[Row], left_out: Counter[str]) -> Iterator[Row]:
    """The rows whose images are files or members; pages and frames of files are counted in `left_out`."""
    for row in rows:
        if page_of(row["uri"]) is None:
            yield row
        else:
            left_out[PAGE] += 1


@contextmanager
def spool() -> Iterator[Spool]:
    """A spool that is gone at the end of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="captionkit-") as folder,
        closing(sqlite3.connect(f"{folder}/rows.sqlite", isolation_level=None)) as database,
    ):
        for line in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            database.execute(f"PRAGMA {line}")
        database.execute(
            "CREATE TABLE row (number INTEGER PRIMARY KEY, container TEXT NOT NULL, uri TEXT UNIQUE, value TEXT)"
        )
        database.execute("CREATE INDEX by_container ON row (container, number)")
        database.execute("BEGIN")
        yield Spool(database)


def with_images(
    rows: Iterable[Row], storage: Storage, column: str | None, threads: int
) -> Iterator[tuple[Row, bytes | StorageError]]:
    """Rows with their images' bytes, or why these could not be read: plain images first, then each container.

    Args:
        rows: Without pages of files; see `without_pages`.
        column: Of Parquet files, the column of images; None for the one that is evident.

    Raises:
        StorageError: storage that would fail for every image alike.
    """

    def read(row: Row) -> tuple[Row, bytes | StorageError]:
        try:
            return row, storage.read(row["uri"])
        except (StorageError, AddressError) as err:
            return row, _told(err)

    with spool() as contained:

        def plain() -> Iterator[Row]:
            for row in rows:
                container, member = split_member(row["uri"])
                if member is None:
                    yield row
                else:
                    contained.add([(container, row)])

        yield from in_parallel(plain(), read, threads)
        for container in contained.containers():
            try:
                yield from _from_container(container, storage, column, contained)
            except CONTAINER_ERRORS as err:
                broken = _told(err)
                yield from ((row, broken) for row in contained.rows(container))
                continue
            for row in contained.rows(container):
                yield row, StorageError("not_found", f"{row['uri']}: it is no longer there")


def _told(error: Exception) -> StorageError:
    """The error as one of storage's; raised where it would meet every image alike."""
    if isinstance(error, StorageError):
        if error.fatal:
            raise error
        return error
    if isinstance(error, UsageError) and not isinstance(error, AddressError):
        raise error
    return StorageError("not_found" if isinstance(error, AddressError) else "read_error", str(error))


def _from_container(
    container: str, storage: Storage, column: str | None, contained: Spool
) -> Iterator[tuple[Row, bytes | StorageError]]:
    """The images of a container whose rows are in the spool; their rows are taken out of it."""
    with storage.open(container) as stream:
        if is_parquet(container):
            with seekable(stream) as file:
                yield from _from_parquet(open_parquet(file), container, column, contained)
            return
        for member in members(stream):
            row = contained.take(join_member(container, member.name))
            if row is not None:
                yield row, member.open().read()


def _from_parquet(
    file: pq.ParquetFile, container: str, column: str | None, contained: Spool
) -> Iterator[tuple[Row, bytes | StorageError]]:
    name = image_column(file.schema_arrow, column)
    number = 0
    for batch in file.iter_batches(16, columns=[name]):
        for value in batch.column(0):
            row = contained.take(join_member(container, str(number)))
            number += 1
            if row is None:
                continue
            image = value.as_py()
            data = image.get("bytes") if isinstance(image, dict) else image
            if data is None:
                yield row, StorageError("not_found", f"{row['uri']}: there is no image in this row")
            else:
                yield row, bytes(data)
