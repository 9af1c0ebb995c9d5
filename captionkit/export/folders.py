"""One small file an image: text and XMP beside it, and folders as Hugging Face's imagefolder reads them."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from captionkit.export import xmp
from captionkit.export.embedding import EmbedError, embed
from captionkit.export.images import with_images, without_pages
from captionkit.export.options import ExportOptions
from captionkit.export.parallel import in_parallel
from captionkit.export.report import Report
from captionkit.export.rows import Row, relative_path
from captionkit.export.text_files import json_line
from captionkit.export.undo import UndoFile
from captionkit.images.formats import identify
from captionkit.images.types import ImageError
from captionkit.inputs.kinds import IMAGE_SUFFIXES
from captionkit.storage import AddressError, Storage, StorageError, page_of, split_member
from captionkit.storage.addresses import split_scheme, without_page
from captionkit.table.reviews import COLUMN

SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "JPEG 2000": ".jp2",
    "AVIF": ".avif", "HEIF": ".heic", "JPEG XL": ".jxl", "Photoshop": ".psd", "SVG": ".svg", "DICOM": ".dcm",
    "PDF": ".pdf",
}  # fmt: skip
"""What an image is called that has no name of its own: a row of a Parquet file."""


NOT_LOCAL = "no local file, which alone is changed in place"


class Outcome(NamedTuple):
    """What became of one row. reason: why it is left out; kind and message: why it could not be written."""

    written: bool = False
    reason: str = ""
    kind: str = ""
    message: str = ""


@dataclass(frozen=True)
class Target:
    """Where the files of an export lie."""

    storage: Storage
    options: ExportOptions
    root: str
    column: str | None
    """Column of images in Parquet files."""
    undo: UndoFile | None = None
    """What undoes the change of files where they lie; None where none is changed so."""

    def place(self, row: Row) -> str | None:
        """The address that stands for an image's own below the output; None where it cannot have one."""
        if not self.options.output:
            return row["uri"] if split_member(row["uri"])[1] is None else None
        path = row.get("path") or relative_path(row["uri"], self.root)
        return self.storage.join(self.storage.normalize(self.options.output), path) if path else None

    def write(self, address: str, data: bytes) -> bool:
        """Write an object, unless there is one and it must be left alone: whether it was written."""
        options = self.options
        if options.overwrite:
            if not options.dry_run:
                self.storage.write(address, data)
            return True
        if options.dry_run:
            return not self.storage.exists(address)
        return self.create(address, data)

    def create(self, address: str, data: bytes) -> bool:
        """Write an object if there is none: whether it was written."""
        made = self.storage.create_if_absent(address, data)
        if made is None:  # this storage knows no such write
            made = not self.storage.exists(address)
            if made:
                self.storage.write(address, data)
        return made


def tally(outcomes: Iterable[Outcome], report: Report, progress: Callable[[int], None]) -> None:
    """Count outcomes into the report."""
    for number, outcome in enumerate(outcomes, 1):
        report.written += outcome.written
        report.files += outcome.written
        if outcome.reason:
            report.left_out[outcome.reason] += 1
        if outcome.kind:
            report.fail(outcome.kind, outcome.message)
        progress(number)


def guarded(act: Callable[[Row], Outcome]) -> Callable[[Row], Outcome]:
    """The act, with what is one row's fault as an outcome."""

    def guard(row: Row) -> Outcome:
        try:
            return act(row)
        except (StorageError, AddressError) as err:
            if isinstance(err, StorageError) and err.fatal:
                raise
            return Outcome(kind=err.kind, message=str(err))

    return guard


def maker_of(row: Row) -> str:
    """Who a caption is by, for the mark that a machine wrote it: the model, and what a reviewer did then."""
    return f"{row['model']}, {row[COLUMN]}" if row.get(COLUMN) else str(row["model"])


def write_texts(rows: Iterable[Row], target: Target) -> Iterator[Outcome]:
    """A `.txt` of each image's name with its caption: kohya's and many trainers' form."""

    def write(row: Row) -> Outcome:
        place = target.place(row)
        if place is None:
            return _without_place(row)
        made = target.write(_text_of(place), row["caption"].encode() + b"\n")
        return Outcome(made, "" if made else "a text was there already (--overwrite)")

    return in_parallel(rows, guarded(write), target.options.threads)


def _without_place(row: Row) -> Outcome:
    what = "in a shard or Parquet file" if page_of(row["uri"]) is None else "a page or frame of a file"
    return Outcome(reason=f"{what}, beside which no file can lie: give an output folder")


def _text_of(place: str) -> str:
    """a.txt for a.jpg; scan#page=3.txt for the page scan.tif#page=3, since each has a text."""
    page = page_of(place)
    return posixpath.splitext(without_page(place))[0] + ("" if page is None else f"#page={page}") + ".txt"


def write_sidecars(rows: Iterable[Row], target: Target) -> Iterator[Outcome]:
    """An XMP sidecar an image, `a.jpg.xmp`; what is in one already stays."""

    def write(row: Row) -> Outcome:
        place = target.place(row)
        if place is None:
            return _without_place(row)
        sidecar = place + ".xmp"
        try:
            before = target.storage.read(sidecar)
        except StorageError as err:
            if err.kind != "not_found" or err.fatal:
                raise
            before = None
        fields = xmp.fields_of(row["caption"], maker_of(row))
        try:
            merged = xmp.merge(before, fields, target.options.overwrite)
        except xmp.XmpError as err:
            return Outcome(kind="unreadable XMP", message=f"{sidecar}: {err}; it was left alone")
        if not merged.written:
            kept = ", ".join(merged.kept)
            return Outcome(reason=f"{kept} held a text already (--overwrite)" if kept else "was there already")
        if target.options.in_place and split_scheme(sidecar)[0]:
            return Outcome(reason=NOT_LOCAL)
        if target.undo is not None:
            target.undo.replace(sidecar, before, merged.packet)
        elif not target.options.dry_run:
            target.storage.write(sidecar, merged.packet)
        return Outcome(True)

    return in_parallel(rows, guarded(write), target.options.threads)


def write_embedded(rows: Iterable[Row], target: Target) -> Iterator[Outcome]:
    """Copies of the JPEG images with their captions in them. No file that is there, original or copy, is touched,
    unless they are to be changed in place."""

    def write(pair: tuple[Row, bytes | StorageError]) -> Outcome:
        row, data = pair
        if isinstance(data, StorageError):
            return Outcome(kind=data.kind, message=str(data))
        if not data.startswith(b"\xff\xd8\xff"):
            return Outcome(reason="no JPEG file, in which alone captions are embedded (without --embed: sidecars)")
        try:
            with_caption = embed(data, xmp.fields_of(row["caption"], maker_of(row)), target.options.overwrite)
        except (EmbedError, xmp.XmpError) as err:
            return Outcome(kind="cannot be embedded", message=f"{row['uri']}: {err}")
        if not with_caption.written:
            return Outcome(reason=f"{', '.join(with_caption.kept) or 'the same caption'} was in the image already")
        if target.options.in_place:
            if split_scheme(row["uri"])[0] or split_member(row["uri"])[1] is not None:
                return Outcome(reason=NOT_LOCAL)
            if target.undo is not None:
                target.undo.replace(row["uri"], data, with_caption.data)
            return Outcome(True)
        address = target.place(row) or ""
        made = (
            not target.storage.exists(address) if target.options.dry_run else target.create(address, with_caption.data)
        )
        return Outcome(made, "" if made else "a file was there already")

    def guard(pair: tuple[Row, bytes | StorageError]) -> Outcome:
        return guarded(lambda _: write(pair))(pair[0])

    pages = Counter[str]()
    threads = target.options.threads
    pairs = with_images(without_pages(rows, pages), target.storage, target.column, threads)
    yield from in_parallel(pairs, guard, threads)
    yield from (Outcome(reason=reason) for reason in pages.elements())


def write_metadata(rows: Iterable[Row], columns: dict[str, str], file: BinaryIO) -> Iterator[Outcome]:
    """`metadata.jsonl`: `file_name`, an image's path below the file's folder (the rows' `path`), and the columns."""
    for row in rows:
        line = {name: row[column] for name, column in columns.items() if name != "file_name"}
        file.write(json_line({"file_name": row["path"], **line}))
        yield Outcome(True)


def copied(rows: Iterable[Row], target: Target, report: Report) -> Iterator[Row]:
    """Copy the rows' images below the output, byte for byte; the rows whose images are there now, `path` saying where.

    An image whose name has no suffix of an image gets one by what it is.
    """

    def copy(pair: tuple[Row, bytes | StorageError]) -> tuple[Row, StorageError | None]:
        row, data = pair
        if isinstance(data, StorageError):
            return row, data
        path = relative_path(row["uri"], target.root)
        if posixpath.splitext(path)[1].lower() not in IMAGE_SUFFIXES:
            path += _suffix(data)
        try:
            target.write(target.storage.join(target.storage.normalize(target.options.output), path), data)
        except (StorageError, AddressError) as err:
            if isinstance(err, AddressError) or err.fatal:
                raise
            return row, err
        return {**row, "path": path}, None

    threads = target.options.threads
    pairs = with_images(without_pages(rows, report.left_out), target.storage, target.column, threads)
    for row, error in in_parallel(pairs, copy, threads):
        if error is None:
            yield row
        else:
            report.fail(error.kind, str(error))


def _suffix(data: bytes) -> str:
    try:
        return SUFFIXES.get(identify(data[:4096]), "")
    except ImageError:
        return ""
