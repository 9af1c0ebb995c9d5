"""What a run refuses before it begins: options that make no sense, and tables that are not its own."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import pyarrow as pa

from captionkit.errors import UsageError
from captionkit.inputs.options import InputOptions
from captionkit.inputs.share import Share
from captionkit.model.search.options import SearchOptions
from captionkit.pipeline.finished import check_notice, next_time
from captionkit.pipeline.options import CaptionOptions
from captionkit.pipeline.ray_address import check_ray
from captionkit.schema import schema_with
from captionkit.table.recaption import ALL
from captionkit.table.table import CaptionTable, Maker
from captionkit.table.where import parse_where


def check_options(options: CaptionOptions) -> None:
    """What the types cannot say of the options."""
    try:
        low, high = options.cluster.actor_range()
    except ValueError:
        low, high = 0, 0
    batch, gpus = options.captioner.batch_size, options.cluster.gpus_per_actor
    for fine, complaint in (
        (
            1 <= low <= high,
            f"--actors {options.cluster.actors}: expected MIN:MAX with 1 <= MIN <= MAX, as in 1:8",
        ),
        (batch is None or batch >= 1, f"--batch-size {batch}: at least 1"),
        (
            gpus is None or gpus == 0 or 0 < gpus <= 1 or gpus == int(gpus) > 0,
            f"--gpus-per-actor {gpus}: 0, a fraction of one, or a whole number",
        ),
        (0 <= options.table.max_failed <= 1, f"--max-failed {options.table.max_failed}: a share from 0 to 1"),
        (options.cluster.fetch_threads >= 1, "--fetch-threads: at least 1"),
        (
            0 < options.cluster.wait_for_machines < float("inf"),
            f"--wait-for-machines {options.cluster.wait_for_machines:g}: hours, more than 0",
        ),
        (
            options.table.flush_minutes > 0 and options.table.flush_rows >= 1,
            "--flush-minutes and --flush-rows: more than 0",
        ),
        (
            min(options.inputs.max_megapixels, options.inputs.max_megabytes, options.inputs.decode_seconds) > 0,
            "--max-megapixels, --max-megabytes and --decode-seconds: more than 0",
        ),
    ):
        if not fine:
            raise UsageError(complaint)
    if options.table.share is not None:
        Share.parse(options.table.share)
        if options.table.retry_failed:
            raise UsageError("--retry-failed with --share: take failed rows again with one run over the whole table")
        if options.table.recaption_where is not None:
            raise UsageError("--recaption-where with --share: caption anew with one run over the whole table")
    if options.inputs.existing_stored() is not None and options.inputs.dedupe:
        raise UsageError("--existing with --dedupe: images of the same contents may bring captions of their own")
    if options.inputs.dedupe and options.table.recaption_where is not None:
        raise UsageError("--dedupe with --recaption-where: caption anew without --dedupe")
    if options.table.until is not None:
        next_time(options.table.until, datetime.now().astimezone())
    if options.table.when_finished is not None:
        check_notice(options.table.when_finished)
    check_ray(options.cluster.address)


def check_same_maker(table: CaptionTable, maker: Maker, *, mixed: bool) -> None:
    """Refuse to mix captions of several makers in one table, unless asked to."""
    if mixed:
        return
    for before in (each for file in table.files for each in file.footer.makers()):
        if before.model != maker.model:
            raise UsageError(
                f"the table at {table.uri} was captioned by {before.model}, and --model is {maker.model}. Give another "
                "--output, or --mixed to have both in one table (its rows stay, each names its model), or "
                "--recaption-where to replace captions by new ones."
            )
        search = asdict(SearchOptions()) | {"say_before": ""} | before.search  # an older captionkit had fewer options
        if search != maker.search:
            changed = sorted(name for name in maker.search if search.get(name) != maker.search[name])
            was = ", ".join(f"{name}={search.get(name)}" for name in changed)
            asked = ", ".join(f"{name}={maker.search[name]}" for name in changed)
            raise UsageError(
                f"the table at {table.uri} was captioned with {was}, and this run asks for {asked}. Give another "
                "--output, or --mixed to have both in one table, or --recaption-where to replace captions by new ones."
            )


def check_recaption(table: CaptionTable, where: str, maker: Maker) -> None:
    """Refuse a `--recaption-where` that is no condition, or of no table.

    Raises:
        UsageError: as said.
    """
    if not table.files:
        raise UsageError(f"--recaption-where: {table.uri} holds no caption table, whose captions could be made anew")
    if where != ALL:
        parse_where(where, table.schema, "--recaption-where")


def check_existing(options: InputOptions, carry: dict[str, pa.DataType]) -> None:
    """Refuse a column of captions that images bring which holds no text."""
    name = options.existing_stored()
    kind = carry.get(name) if name is not None else None
    if kind is not None and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UsageError(f"--existing {options.existing}: the column `{name}` holds {kind}, and captions are text")


def check_carry(table: CaptionTable, carry: dict[str, pa.DataType]) -> None:
    """Refuse other columns than the table has."""
    schema_with(carry)
    asked = {name: str(kind) for name, kind in carry.items()}
    for file in table.files:
        if file.footer.carry != asked:
            raise UsageError(
                f"the table at {table.uri} carries the columns {file.footer.carry or 'none'}, and this run "
                f"{asked or 'none'}: one table has one schema. Give the same --carry, or another --output."
            )
