"""From options to an export: what is wanted, what it costs, and who writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import BinaryIO

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.export import coco, huggingface, lakes, shards, text_files
from captionkit.export.folders import Target, copied, tally, write_embedded, write_metadata, write_sidecars, write_texts
from captionkit.export.images import without_pages
from captionkit.export.options import LAKES, ONE_FILE, ExportOptions, chosen_columns
from captionkit.export.report import Report
from captionkit.export.rows import Row, Selection, Survey, root_of
from captionkit.export.undo import open_undo
from captionkit.storage import Storage, public_uri
from captionkit.storage.prices import READ_PER_MILLION, WRITE_PER_MILLION
from captionkit.table.runs import image_column_of
from captionkit.table.table import CaptionTable

DEFAULTS = {
    "csv": text_files.DEFAULT,
    "tsv": text_files.DEFAULT,
    "jsonl": text_files.DEFAULT,
    "imagefolder": (("text", "caption"),),
    "webdataset": tuple((name, name) for name in shards.JSON_COLUMNS),
    "coco-results": coco.DEFAULT,
    "coco-captions": coco.DEFAULT,
    "huggingface": huggingface.DEFAULT,
}


def export(
    options: ExportOptions,
    storage: Storage,
    *,
    progress: Callable[[int], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
) -> Report:
    """Write captions of a table in another form. Memory does not grow with the table.

    Args:
        progress: told how many rows are done.
        log: told what the export costs where each image costs a request, before the first one.

    Raises:
        UsageError: no table, options that cannot work, or an output that is there already.
        StorageError: storage that fails for every image alike.
    """
    table = CaptionTable(options.table, storage)
    selection = Selection(table, options)
    if options.format in LAKES:
        lakes.library(options.format)
    all_columns = tuple((name, name) for name in selection.schema.names)
    columns = chosen_columns(options, all_columns if options.format in LAKES else DEFAULTS.get(options.format, ()))
    selection.check(column for column in columns.values() if column)
    if options.format.startswith("coco"):
        coco.check_columns(columns)
    survey = selection.survey()
    if options.failed == "refuse" and survey.failed:
        raise UsageError(f"{counted(survey.failed, 'chosen image')} without a caption; nothing was written")
    report = Report(options.format, public_uri(options.output), options.dry_run)
    if selection.reviews:
        log(
            f"{counted(len(selection.reviews), 'review')} in {public_uri(selection.reviews.uri)} laid over the captions"
        )
    cost = cost_of(options, survey)
    if cost:
        log(cost)
    if options.format in LAKES:
        _write_lake(options, storage, selection, columns, survey, report, progress)
    elif options.format in ONE_FILE:
        _write_file(options, storage, selection, columns, survey, report, progress)
    else:
        _write_folder(options, storage, selection, columns, survey, report, progress)
    report.left_out.update(selection.left_out)
    return report


def cost_of(options: ExportOptions, survey: Survey) -> str:
    """What an export says beforehand where each image costs a request; "" where none does."""
    reads = writes = 0
    if options.format == "xmp":
        reads = writes = 1
    elif options.format == "txt":
        reads, writes = int(options.copy_images), 1 + options.copy_images
    elif options.format == "imagefolder":
        reads = writes = int(options.copy_images)
    elif options.format == "huggingface":
        reads = 1
    if options.dry_run:
        writes = 0
    if not reads and not writes:
        return ""
    number = survey.captioned
    line = (
        f"{counted(number, 'image')}: up to {reads * number:,} reads and {writes * number:,} writes, one request each"
    )
    if any(address.startswith(("s3://", "s3a://")) for address in (options.output, survey.root)):
        dollars = number * (reads * READ_PER_MILLION + writes * WRITE_PER_MILLION) / 1e6
        line += f"; about ${dollars:,.2f} at the list price of S3 Standard"
    return line


def _write_file(
    options: ExportOptions,
    storage: Storage,
    selection: Selection,
    columns: dict[str, str],
    survey: Survey,
    report: Report,
    progress: Callable[[int], None],
) -> None:
    """Formats that are one file, which appears when it is whole."""
    root = root_of(options, storage, survey)
    needed = [column for column in columns.values() if column]
    if options.format.startswith("coco"):
        needed += ["file_name", "width", "height"]

    def rows() -> Iterator[Row]:
        selection.left_out.clear()
        for number, row in enumerate(selection.rows(needed, root), 1):
            progress(number)
            yield row

    def write(file: BinaryIO) -> int:
        if options.format == "jsonl":
            return text_files.write_jsonl(rows(), columns, file)
        if options.format == "coco-results":
            return coco.write_results(rows(), columns, file)
        if options.format == "coco-captions":
            return coco.write_captions(rows, columns, file)
        return text_files.write_csv(rows(), columns, file, "\t" if options.format == "tsv" else ",")

    _check_free(options.output, options, storage)
    report.files = 1
    if options.dry_run:
        report.written = sum(1 for _ in rows())
        return
    with storage.create(options.output) as file:
        report.written = write(file)


def _write_lake(
    options: ExportOptions,
    storage: Storage,
    selection: Selection,
    columns: dict[str, str],
    survey: Survey,
    report: Report,
    progress: Callable[[int], None],
) -> None:
    """Tables that libraries of their own write."""
    rows = selection.rows(columns.values(), root_of(options, storage, survey))
    report.files = 1
    if options.dry_run:
        report.written = sum(1 for _ in rows)
    else:
        report.written = lakes.write_lake(rows, columns, selection.schema, options, storage, progress)


def _write_folder(
    options: ExportOptions,
    storage: Storage,
    selection: Selection,
    columns: dict[str, str],
    survey: Survey,
    report: Report,
    progress: Callable[[int], None],
) -> None:
    root = root_of(options, storage, survey)
    in_place = options.in_place and not options.dry_run
    with open_undo(options.in_place, storage) if in_place else nullcontext() as undo:
        target = Target(storage, options, root, image_column_of(selection.table.uri, storage), undo)
        _write_files(target, storage, selection, columns, report, progress)


def _write_files(
    target: Target,
    storage: Storage,
    selection: Selection,
    columns: dict[str, str],
    report: Report,
    progress: Callable[[int], None],
) -> None:
    options, root = target.options, target.root
    rows = selection.rows([*columns.values(), "file_name", *(("path",) if options.output else ())], root)
    if options.format == "xmp":
        tally((write_embedded if options.embed else write_sidecars)(rows, target), report, progress)
    elif options.format == "txt":
        tally(write_texts(copied(rows, target, report) if options.copy_images else rows, target), report, progress)
    elif options.format == "webdataset":
        shards.write_shards(rows, columns, target, report, progress)
    elif options.dry_run:
        with_copies = options.copy_images or options.format == "huggingface"
        report.written = sum(1 for _ in (without_pages(rows, report.left_out) if with_copies else rows))
    elif options.format == "imagefolder":
        uri = storage.join(storage.normalize(options.output), "metadata.jsonl")
        _check_free(uri, options, storage)
        with storage.create(uri) as file:
            shown = copied(rows, target, report) if options.copy_images else rows
            tally(write_metadata(shown, columns, file), report, progress)
        report.files = 1
    else:
        huggingface.write_data_set(rows, columns, selection.schema, target, report, progress)


def _check_free(uri: str, options: ExportOptions, storage: Storage) -> None:
    """Refuse a file that is there, unless --overwrite is given."""
    if not options.overwrite and storage.exists(uri):
        raise UsageError(f"{public_uri(uri)} is there already; --overwrite takes its place")
