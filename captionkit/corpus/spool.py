"""Joins the fragments of a corpus to images with captions, in constant memory.

A caption and its image's name may be far apart (COCO has them in two arrays, the captions in any order), the rows of an
image need not be adjacent, and whether an image is declared twice is known only at the end. So the fragments are put
into a temporary SQLite database on the local disk (in `SQLITE_TMPDIR`, `TMPDIR` or `/tmp`; about as large as the
captions; deleted when the reading ends), and are read back joined, in the order in which images were first declared.
"""

from __future__ import annotations

import posixpath
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from captionkit.corpus.record import EXAMPLES, CaptionFragment, CorpusError, Fit, Report
from captionkit.inputs.kinds import IMAGE_SUFFIXES, suffix_of

CACHE_KIB = 8 * 1024
"""Memory for SQLite's cache."""

IMAGE_EXTENSIONS = (
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
"""Extensions that are tried for names of lists without one."""

_BATCH = 1000

_TABLES = """
    CREATE TABLE image (key TEXT UNIQUE, name TEXT, split TEXT, declared INTEGER DEFAULT 1, clash INTEGER DEFAULT 0);
    CREATE TABLE caption (key TEXT, id TEXT, text TEXT);
    CREATE TABLE split_list (name TEXT PRIMARY KEY, split TEXT, clash INTEGER DEFAULT 0, used INTEGER DEFAULT 0);
    CREATE TABLE listing (base TEXT, relative TEXT, address TEXT, stem TEXT);
"""


class JoinedImage(NamedTuple):
    """An image and all its captions. Its name has not been looked up yet."""

    key: str
    name: str
    split: str | None
    captions: tuple[str, ...]


class Spool:
    """The temporary database of one reading; made by `open_spool`."""

    def __init__(self, database: sqlite3.Connection, report: Report) -> None:
        self._database = database
        self._report = report
        self._waiting: list[tuple[str, str, str]] = []
        database.executescript(f"PRAGMA cache_size = -{CACHE_KIB}; PRAGMA synchronous = OFF;")
        database.executescript(_TABLES)

    def add(self, fragment: CaptionFragment, declares_once: bool) -> None:
        """Add a fragment.

        Args:
            declares_once: whether the format declares each image once, so that a second declaration is noted.
        """
        run, report = self._database.execute, self._report
        key = _storable(fragment.key)
        if fragment.name is not None:
            run(
                "INSERT INTO image (key, name, split) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "declared = declared + ?, clash = clash + (excluded.split IS NOT NULL AND split IS NOT NULL AND "
                "split <> excluded.split), split = coalesce(split, excluded.split)",
                (key, _storable(fragment.name), fragment.split and _storable(fragment.split), declares_once),
            )
        for number, text in fragment.captions:
            report.rows += 1
            text = _storable(text).strip()
            if any(map(str.isalnum, text)):
                self._waiting.append((key, number, text))
            else:
                report.leave_out("blank", f"{fragment.key}: {text!r}")
        if len(self._waiting) > _BATCH:
            self._flush()

    def list_split(self, split: str, names: Iterable[str]) -> None:
        """Add the list of a split's images."""
        self._database.executemany(
            "INSERT INTO split_list (name, split) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET "
            "clash = clash + (split <> excluded.split)",
            ((_storable(name), split) for name in names),
        )

    def list_images(self, images: Iterable[tuple[str, str]]) -> None:
        """Add the listing of image files: pairs of relative name and address."""
        rows = (
            (base := posixpath.basename(relative), relative, address, posixpath.splitext(base)[0])
            for relative, address in images
        )
        self._database.executemany("INSERT INTO listing (base, relative, address, stem) VALUES (?, ?, ?, ?)", rows)
        self._database.execute("CREATE INDEX listing_by_base ON listing (base)")
        self._database.execute("CREATE INDEX listing_by_stem ON listing (stem)")

    def images(self) -> Iterator[JoinedImage]:
        """The images with captions, in the order in which they were declared. Irregularities are noted."""
        self._flush()
        run, report = self._database.execute, self._report
        self._note("declared_twice", "SELECT key FROM image WHERE declared > 1")
        self._note("two_splits", "SELECT key FROM image WHERE clash UNION ALL SELECT name FROM split_list WHERE clash")
        listed = run("SELECT 1 FROM split_list").fetchone() is not None
        last = 0
        # A merge sort on disk: with an index on the captions, each would be fetched from another place on the disk.
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
            self._note_uncaptioned(last + 1, number - 1)
            last = number
            captions = self._captions(key, [(row[2], row[3]) for row in members])
            yield JoinedImage(key, name, self._listed_split(name, split) if listed else split, captions)
        self._note_uncaptioned(last + 1, 1 << 62)
        for split, names, used in run("SELECT split, count(*), sum(used) FROM split_list GROUP BY split").fetchall():
            query = "SELECT name FROM split_list WHERE split = ? AND NOT used ORDER BY rowid LIMIT ?"
            first = tuple(name for (name,) in run(query, (split, EXAMPLES)))
            report.lists[split] = Fit(names, names - used, first)

    def find(self, name: str) -> list[str]:
        """Addresses of the listed images that match a name best: the same path, else the end of a path, else file name.

        If none matches, extensions are ignored: `1000` matches `1000.jpg`; then backslashes separate folders, as on
        Windows. More than one address means that the name is ambiguous; of the same relative path in several places,
        the first is taken.
        """
        entry = self._find(name)
        return entry if entry or "\\" not in name else self._find(name.replace("\\", "/"))

    def _find(self, name: str) -> list[str]:
        name = posixpath.normpath(name.lstrip("/"))
        query = "SELECT relative, address FROM listing WHERE base = ? ORDER BY rowid LIMIT 1000"
        matches: list[tuple[str, str]] = self._database.execute(query, (posixpath.basename(name),)).fetchall()
        if not matches:
            query = "SELECT relative, address FROM listing WHERE stem = ? ORDER BY rowid LIMIT 1000"
            matches = self._database.execute(query, (posixpath.basename(name),)).fetchall()
            matches = [pair for pair in matches if suffix_of(pair[0]) in IMAGE_SUFFIXES]
        best = (
            [pair for pair in matches if pair[0] == name]
            or [pair for pair in matches if pair[0].endswith(f"/{name}")]
            or [pair for pair in matches if posixpath.splitext(pair[0])[0] == name]
            or [pair for pair in matches if posixpath.splitext(pair[0])[0].endswith(f"/{name}")]
            or matches
        )
        if len({relative for relative, _ in best}) == 1 and len(best) > 1:
            self._report.note("twice_there", f"{name}: {best[0][1]} and {best[1][1]}")
            best = best[:1]
        return [address for _, address in best]

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO caption VALUES (?, ?, ?)", self._waiting)
        self._waiting.clear()

    def _captions(self, key: str, pairs: list[tuple[str, str]]) -> tuple[str, ...]:
        """One image's captions, without repetitions under the same caption id."""
        text_of: dict[str, str] = {}
        kept = []
        for number, text in pairs:
            if number in text_of and text_of[number] == text:
                self._report.leave_out("repeated", f"{key}#{number}: {text}")
                continue
            if number in text_of:
                self._report.note("shared_id", f"{key}#{number}: {text}")
            elif number:
                text_of[number] = text
            kept.append(text)
        return tuple(kept)

    def _listed_split(self, name: str, split: str | None) -> str | None:
        base = posixpath.basename(name)
        last = base.rpartition("\\")[2]  # of a Windows path
        spellings = [name, base, last, posixpath.splitext(last)[0]]
        if suffix_of(last) not in IMAGE_SUFFIXES:  # the list may have the extension
            spellings += [last + ending for ending in IMAGE_EXTENSIONS]
        for spelling in spellings:
            row = self._database.execute("SELECT split FROM split_list WHERE name = ?", (spelling,)).fetchone()
            if row is not None:
                self._database.execute("UPDATE split_list SET used = 1 WHERE name = ?", (spelling,))
                return str(row[0])
        self._report.note("in_no_list", name)
        return split

    def _note_uncaptioned(self, first: int, last: int) -> None:
        """Note the images with these row ids: they have no captions."""
        if first <= last:
            self._note("without_captions", "SELECT key FROM image WHERE rowid BETWEEN ? AND ?", first, last)

    def _note(self, kind: str, query: str, *values: int) -> None:
        for (example,) in self._database.execute(query, values):
            self._report.note(kind, example)


@contextmanager
def open_spool(report: Report) -> Iterator[Spool]:
    """A `Spool`, deleted at the end.

    Raises:
        CorpusError: the disk is full.
    """
    # An empty name means a private temporary file. The images may be read in another thread than the first one.
    with closing(sqlite3.connect("", check_same_thread=False, isolation_level=None)) as database:
        try:
            database.execute("BEGIN")
            yield Spool(database, report)
        except sqlite3.OperationalError as error:
            if "full" not in str(error) and "disk" not in str(error):
                raise
            raise CorpusError(
                f"the reader's temporary file: {error}; set TMPDIR to a folder with more space"
            ) from error


def _storable(text: str) -> str:
    """The text without lone surrogates, which JSON can contain and SQLite cannot store."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
