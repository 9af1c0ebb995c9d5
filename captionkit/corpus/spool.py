"""Gathers the pieces of a corpus into records, in memory that does not grow with the corpus.

A caption and its image's name may be a file apart (COCO lists them in two arrays, captions in any order), rows of
one image need not be neighbours, and whether an image is declared twice shows at the end only. So the pieces go
into a private SQLite database on the local disk (in `SQLITE_TMPDIR`, `TMPDIR` or `/tmp`; about the size of the
captions; gone when the reading ends), and come out joined, in the order in which images were first met.
"""

from __future__ import annotations

import posixpath
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from captionkit.corpus.record import EXAMPLES, CorpusError, Fit, Item, Report

CACHE_KIB = 8 * 1024
"""What SQLite may hold in memory."""

IMAGE_ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".jp2",
    ".avif",
    ".heic",
)
"""Of files that a name without its ending may mean: not the caption beside the picture."""

_BATCH = 1000

_TABLES = """
    CREATE TABLE image (key TEXT UNIQUE, name TEXT, split TEXT, declared INTEGER DEFAULT 1, clash INTEGER DEFAULT 0);
    CREATE TABLE caption (key TEXT, id TEXT, text TEXT);
    CREATE TABLE listed (name TEXT PRIMARY KEY, split TEXT, clash INTEGER DEFAULT 0, met INTEGER DEFAULT 0);
    CREATE TABLE there (base TEXT, relative TEXT, address TEXT, stem TEXT);
"""


class Gathered(NamedTuple):
    """An image as the corpus has it: not yet looked up."""

    key: str
    name: str
    split: str | None
    captions: tuple[str, ...]


class Spool:
    """The gathering place of one reading. Made by `spool`."""

    def __init__(self, database: sqlite3.Connection, report: Report) -> None:
        self._database = database
        self._report = report
        self._waiting: list[tuple[str, str, str]] = []
        database.executescript(f"PRAGMA cache_size = -{CACHE_KIB}; PRAGMA synchronous = OFF;")
        database.executescript(_TABLES)

    def add(self, item: Item, declares_once: bool) -> None:
        """Take a piece. declares_once: whether the format declares an image once, so that twice is odd."""
        run, report = self._database.execute, self._report
        key = _storable(item.key)
        if item.name is not None:
            run(
                "INSERT INTO image (key, name, split) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "declared = declared + ?, clash = clash + (excluded.split IS NOT NULL AND split IS NOT NULL AND "
                "split <> excluded.split), split = coalesce(split, excluded.split)",
                (key, _storable(item.name), item.split and _storable(item.split), declares_once),
            )
        for number, text in item.captions:
            report.rows += 1
            text = _storable(text).strip()
            if any(map(str.isalnum, text)):
                self._waiting.append((key, number, text))
            else:
                report.leave_out("blank", f"{item.key}: {text!r}")
        if len(self._waiting) > _BATCH:
            self._flush()

    def list_split(self, split: str, names: Iterable[str]) -> None:
        """Take the list of a split's images."""
        self._database.executemany(
            "INSERT INTO listed (name, split) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET "
            "clash = clash + (split <> excluded.split)",
            ((_storable(name), split) for name in names),
        )

    def list_images(self, images: Iterable[tuple[str, str]]) -> None:
        """Take the listing of the images that are there: pairs of relative name and address."""
        rows = (
            (base := posixpath.basename(relative), relative, address, posixpath.splitext(base)[0])
            for relative, address in images
        )
        self._database.executemany("INSERT INTO there (base, relative, address, stem) VALUES (?, ?, ?, ?)", rows)
        self._database.execute("CREATE INDEX there_by_base ON there (base)")
        self._database.execute("CREATE INDEX there_by_stem ON there (stem)")

    def images(self) -> Iterator[Gathered]:
        """The images that have captions, in the order in which they were declared; odd things are noted."""
        self._flush()
        run, report = self._database.execute, self._report
        self._note("declared_twice", "SELECT key FROM image WHERE declared > 1")
        self._note("two_splits", "SELECT key FROM image WHERE clash UNION ALL SELECT name FROM listed WHERE clash")
        listed = run("SELECT 1 FROM listed").fetchone() is not None
        last = 0
        # A merge sort on disk: an index on the captions instead would fetch each of them from another place there.
        rows = run(
            "SELECT image.rowid, CASE WHEN image.rowid IS NULL THEN caption.key END, id, text "
            "FROM caption LEFT JOIN image ON image.key = caption.key ORDER BY image.rowid, caption.rowid"
        )
        for number, members in groupby(rows, key=itemgetter(0)):
            if number is None:  # comes first
                for _, key, _, text in members:
                    report.leave_out("unknown_image", f"{key}: {text}")
                continue
            key, name, split = run("SELECT key, name, split FROM image WHERE rowid = ?", (number,)).fetchone()
            self._note_silent(last + 1, number - 1)
            last = number
            captions = self._captions(key, [(row[2], row[3]) for row in members])
            yield Gathered(key, name, self._listed_split(name, split) if listed else split, captions)
        self._note_silent(last + 1, 1 << 62)
        for split, names, met in run("SELECT split, count(*), sum(met) FROM listed GROUP BY split").fetchall():
            query = "SELECT name FROM listed WHERE split = ? AND NOT met ORDER BY rowid LIMIT ?"
            first = tuple(name for (name,) in run(query, (split, EXAMPLES)))
            report.lists[split] = Fit(names, names - met, first)

    def find(self, name: str) -> list[str]:
        """Addresses of listed images that a name fits best: the same path, one that ends in it, or the same last part.

        A name that is nobody's so is looked up without regard to endings: `1000` is `1000.jpg`; then as one spelled on
        Windows. One is a find; several are an open question. Of one path in several places the first is taken.
        """
        found = self._find(name)
        return found if found or "\\" not in name else self._find(name.replace("\\", "/"))

    def _find(self, name: str) -> list[str]:
        name = posixpath.normpath(name.lstrip("/"))
        query = "SELECT relative, address FROM there WHERE base = ? ORDER BY rowid LIMIT 1000"
        found: list[tuple[str, str]] = self._database.execute(query, (posixpath.basename(name),)).fetchall()
        if not found:
            query = "SELECT relative, address FROM there WHERE stem = ? ORDER BY rowid LIMIT 1000"
            found = self._database.execute(query, (posixpath.basename(name),)).fetchall()
            found = [pair for pair in found if pair[0].lower().endswith(IMAGE_ENDINGS)]
        best = (
            [pair for pair in found if pair[0] == name]
            or [pair for pair in found if pair[0].endswith(f"/{name}")]
            or [pair for pair in found if posixpath.splitext(pair[0])[0] == name]
            or [pair for pair in found if posixpath.splitext(pair[0])[0].endswith(f"/{name}")]
            or found
        )
        if len({relative for relative, _ in best}) == 1 and len(best) > 1:
            self._report.note("twice_there", f"{name}: {best[0][1]} and {best[1][1]}")
            best = best[:1]
        return [address for _, address in best]

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO caption VALUES (?, ?, ?)", self._waiting)
        self._waiting.clear()

    def _captions(self, key: str, pairs: list[tuple[str, str]]) -> tuple[str, ...]:
        """One image's captions, without those that are there twice under one id."""
        seen: dict[str, str] = {}
        kept = []
        for number, text in pairs:
            if number in seen and seen[number] == text:
                self._report.leave_out("repeated", f"{key}#{number}: {text}")
                continue
            if number in seen:
                self._report.note("shared_id", f"{key}#{number}: {text}")
            elif number:
                seen[number] = text
            kept.append(text)
        return tuple(kept)

    def _listed_split(self, name: str, split: str | None) -> str | None:
        base = posixpath.basename(name)
        last = base.rpartition("\\")[2]  # of a path as on Windows
        spellings = [name, base, last, posixpath.splitext(last)[0]]
        if not last.lower().endswith(IMAGE_ENDINGS):  # the list may well say which ending
            spellings += [last + ending for ending in IMAGE_ENDINGS]
        for spelling in spellings:
            row = self._database.execute("SELECT split FROM listed WHERE name = ?", (spelling,)).fetchone()
            if row is not None:
                self._database.execute("UPDATE listed SET met = 1 WHERE name = ?", (spelling,))
                return str(row[0])
        self._report.note("in_no_list", name)
        return split

    def _note_silent(self, first: int, last: int) -> None:
        """Note the images with these numbers, of which nobody says a word."""
        if first <= last:
            self._note("without_captions", "SELECT key FROM image WHERE rowid BETWEEN ? AND ?", first, last)

    def _note(self, kind: str, query: str, *values: int) -> None:
        for (example,) in self._database.execute(query, values):
            self._report.note(kind, example)


@contextmanager
def spool(report: Report) -> Iterator[Spool]:
    """A gathering place, gone at the end. Raises CorpusError where its disk has no room."""
    # An empty name is a private temporary file. The records may be read in another thread than the first one.
    with closing(sqlite3.connect("", check_same_thread=False, isolation_level=None)) as database:
        try:
            database.execute("BEGIN")
            yield Spool(database, report)
        except sqlite3.OperationalError as error:
            if "full" not in str(error) and "disk" not in str(error):
                raise
            raise CorpusError(f"the reading's temporary file: {error}; set TMPDIR to a folder with room") from error


def _storable(text: str) -> str:
    """The text without halves of characters, which JSON can spell and nothing can store."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
