"""Commands that draw: pages of tables, where a captioner looked, scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import tyro

from captionkit.cli.exit_codes import OK
from captionkit.cli.options import parse
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.model.search.options import SearchOptions
from captionkit.storage.options import StorageOptions

if TYPE_CHECKING:
    from captionkit.storage import Storage


@dataclass(frozen=True)
class AttentionOptions:
    """Draw where a captioner looked for each word of an image's caption."""

    model: tyro.conf.Positional[str]
    """Bundle of a captioner that attends: soft_attention or top_down."""
    image: tyro.conf.Positional[str]
    """Address of the image."""
    picture: str = "attention.png"
    """Address of the picture to write."""
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)


@dataclass(frozen=True)
class GalleryOptions:
    """Show a caption table as a page: one HTML file with pictures, captions and failures; or, of any size, as a local
    server shows it."""

    table: tyro.conf.Positional[str]
    """Address of the caption table."""
    page: str = "captions.html"
    """Address of the page to write."""
    limit: int = 200
    """Pictures on the page; of a larger table a spread sample, the same every time."""
    serve: bool = False
    """Write no page: serve one of the whole table on this machine, to search, filter and sort."""
    against: str = ""
    """`column:NAME` of this table, a carried one: captions that the images brought stand beside these. With --serve
    also another table of the same images, and differences are marked."""
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Bundle of the captioner that made the captions, if it attends (soft_attention, top_down): a click on a word shows
    where it looked (with --serve). Of an ensemble its bundles: --model A --model B."""
    port: int = 0
    """Port of that server. Default: one that is free."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)


@dataclass(frozen=True)
class ScenesOptions:
    """Draw scenes into a folder, as many as you like; their captions in captions.jsonl beside them."""

    output: str
    """Folder to draw into."""
    count: int = 100
    """How many."""
    seed: int = 20_000_000
    """Seed of the first; each next one is one more."""
    size: int = 320
    """Side of the pictures in pixels."""


def attention(args: Sequence[str]) -> int:
    """`captionkit attention`; the exit code."""
    options = parse(AttentionOptions, "attention", args)
    from captionkit.drawing.attention import attention_picture
    from captionkit.gallery.attention_maps import make_attention_maps  # imports torch, not for --help
    from captionkit.images import ImageError, Limits
    from captionkit.inputs.kinds import limits_of
    from captionkit.model.captioner import Captioner
    from captionkit.progress import log_line
    from captionkit.storage import Storage

    storage = Storage(options.storage)
    captioner = Captioner.load(options.model, storage=storage)
    try:
        maps = make_attention_maps(
            captioner,
            storage.read(storage.normalize(options.image)),
            options.search,
            limits_of(options.image, Limits()),
        )
    except ImageError as err:
        raise UsageError(f"{options.image}: {err}") from err
    storage.write(storage.normalize(options.picture), attention_picture(maps))
    log_line(f"caption: {maps.caption}")
    log_line(f"picture: {options.picture}")
    return OK


def gallery(args: Sequence[str]) -> int:
    """`captionkit gallery`; the exit code."""
    options = parse(GalleryOptions, "gallery", args)
    if options.against and not options.serve and not options.against.startswith("column:"):
        raise UsageError("--against goes with --serve, or names a carried column: --against column:NAME")
    if options.model and not options.serve:
        raise UsageError("--model goes with --serve; `captionkit attention` draws one picture's words")
    if options.serve:
        from captionkit.cli.reviewing import serve
        from captionkit.review.options import ReviewOptions

        chosen = ReviewOptions(
            options.table,
            order="table",
            against=options.against,
            model=options.model,
            port=options.port,
            storage=options.storage,
        )
        return serve(chosen, editing=False)
    from captionkit.progress import log_line
    from captionkit.storage import Storage

    brought = options.against.removeprefix("column:")
    show_gallery(options.table, options.page, options.limit, Storage(options.storage), brought=brought)
    log_line(f"page: {options.page}")
    return OK


def show_gallery(
    uri: str,
    page: str,
    limit: int,
    storage: Storage,
    before: Mapping[str, Any] = MappingProxyType({}),
    brought: str = "",
    **summary: Any,
) -> None:
    """Make the page of a table. before: replaced rows by address, to be shown beside the new ones. brought: a carried
    column of captions, to be shown so.

    Raises:
        UsageError: there is no table, or no such column of text.
    """
    import pyarrow as pa

    from captionkit.gallery import write_gallery
    from captionkit.table.reviews import open_reviews, reviewed_rows
    from captionkit.table.runs import frames_of, image_column_of, no_table
    from captionkit.table.table import CaptionTable

    table = CaptionTable(uri, storage)
    if not table.files:
        raise no_table(table.uri, storage)
    title = table.uri.rstrip("/").rpartition("/")[2]
    # Of a Parquet file with several columns of bytes, the one that was captioned.
    read = partial(storage.read, column=image_column_of(table.uri, storage))
    summary = {"table": table.uri, **summary}
    rows = reviewed_rows(table, open_reviews("", table.uri, storage))
    if before:
        rows = ({**row, "before": before.get(row["uri"])} for row in rows)
    if brought:
        if brought not in table.schema.names or not pa.types.is_string(table.schema.field(brought).type):
            texts = ", ".join(field.name for field in table.schema if pa.types.is_string(field.type))
            raise UsageError(f"--against column:{brought}: there is no such column of text; there are: {texts}")
        rows = ({**row, "before": _other_caption(row, brought)} for row in rows)
    frames = frames_of(table.uri, storage)
    write_gallery(rows, read, page, title=title, summary=summary, limit=limit, frames=frames, write=storage.write)


def _other_caption(row: Mapping[str, Any], column: str) -> dict[str, Any] | None:
    """The caption that an image brought; the captioner's, where that one is the row's own."""
    from captionkit.schema import BROUGHT

    if row["model"] == BROUGHT:
        return next(iter(row["alternatives"] or ()), None)
    return {"caption": row[column], "score": None} if row[column] else None


def scenes(args: Sequence[str]) -> int:
    """`captionkit scenes`; the exit code."""
    options = parse(ScenesOptions, "scenes", args)
    from captionkit.progress import log_line

    draw_scenes(options.output, options.count, options.seed, options.size)
    log_line(f"{counted(options.count, 'scene')} in {options.output}")
    return OK


def draw_scenes(folder: str, count: int, seed: int, size: int = 320) -> None:
    """Draw scenes into a folder, with progress."""
    from captionkit.progress import Meter
    from captionkit.scenes import draw_folder

    with Meter("drawing", "scenes", count) as meter:
        for number, _ in enumerate(draw_folder(folder, count, seed, size), 1):
            meter.update(number)
