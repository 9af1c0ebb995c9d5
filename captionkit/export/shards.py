"""WebDataset: captions as members of tar shards, by the key of the image's sample."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Callable, Iterable
from typing import BinaryIO, cast

from captionkit.export.folders import Target
from captionkit.export.images import Spool, spool
from captionkit.export.report import Report
from captionkit.export.rows import Row, relative_path
from captionkit.export.text_files import json_line
from captionkit.inputs.containers import CONTAINER_ERRORS, sample_key
from captionkit.storage import SHARD_SUFFIXES, StorageError, is_parquet, join_member, page_of, split_member
from captionkit.storage.archives import members

JSON_COLUMNS = ("uri", "image_id", "score", "model")


class ShardError(Exception):
    """A shard that cannot be written anew."""


def write_shards(
    rows: Iterable[Row], columns: dict[str, str], target: Target, report: Report, progress: Callable[[int], None]
) -> None:
    """A tar for each shard that the rows' images lie in, of its name below the output.

    Of the captions alone, `KEY.txt` and `KEY.json` (the columns) for each; with `--copy-images` of the samples with a
    caption whole, `KEY.txt` behind the image.
    """
    with spool() as contained:

        def in_shards() -> Iterable[tuple[str, Row]]:
            for number, row in enumerate(rows, 1):
                container, member = split_member(row["uri"])
                if page_of(row["uri"]) is not None:
                    report.left_out["a page of a file, for which a sample has no place"] += 1
                elif member is None:
                    report.left_out["in no shard (--as imagefolder takes plain files)"] += 1
                else:
                    yield container, row
                progress(number)

        contained.add(in_shards())
        names: dict[str, str] = {}
        for container in contained.containers():
            name = _tar_name(relative_path(container, target.root))
            if name in names:
                report.fail("name taken", f"{container}: {names[name]} is written as {name} already")
                continue
            names[name] = container
            _write_shard(container, name, columns, target, contained, report)


def _write_shard(
    container: str, name: str, columns: dict[str, str], target: Target, contained: Spool, report: Report
) -> None:
    address = target.storage.join(target.storage.normalize(target.options.output), name)
    count = sum(1 for _ in contained.rows(container))
    if not target.options.overwrite and target.storage.exists(address):
        report.left_out["its shard was there already (--overwrite)"] += count
        return
    if target.options.dry_run:
        report.written += count
        report.files += 1
        return
    try:
        with target.storage.create(address) as file, tarfile.open(fileobj=file, mode="w|") as tar:
            if target.options.copy_images:
                written = _copy_with_captions(container, target, contained, tar, report)
            else:
                written = _write_captions(contained.rows(container), columns, tar, report)
    except ShardError as err:
        report.fail("shard", f"{container}: {err}", count)
    except CONTAINER_ERRORS as err:
        if isinstance(err, StorageError) and err.fatal:
            raise
        report.fail(err.kind if isinstance(err, StorageError) else "truncated", f"{container}: {err}", count)
    else:
        report.written += written
        report.files += 1


def _tar_name(path: str) -> str:
    for suffix in sorted((*SHARD_SUFFIXES, ".parquet"), key=len, reverse=True):
        if path.partition("?")[0].lower().endswith(suffix):
            return path.partition("?")[0][: -len(suffix)] + ".tar"
    return path + ".tar"


def _caption_name(uri: str) -> str:
    """The member of the caption of an image in a container: `a/b.left.txt` of `a/b.left.jpg`."""
    return posixpath.splitext(split_member(uri)[1] or "")[0] + ".txt"


def _add(tar: tarfile.TarFile, name: str, size: int, data: BinaryIO) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = 0o644
    tar.addfile(header, data)


def _write_captions(rows: Iterable[Row], columns: dict[str, str], tar: tarfile.TarFile, report: Report) -> int:
    seen: set[str] = set()
    written = 0
    for row in rows:
        name = _caption_name(row["uri"])
        if name in seen:
            report.left_out["another image of its shard has the same key"] += 1
            continue
        seen.add(name)
        facts = json_line({target: row[column] for target, column in columns.items()})
        for member, data in ((name, row["caption"].encode()), (f"{name[:-4]}.json", facts)):
            _add(tar, member, len(data), io.BytesIO(data))
        written += 1
    return written


def _copy_with_captions(container: str, target: Target, contained: Spool, tar: tarfile.TarFile, report: Report) -> int:
    """A shard's samples that have a caption, member by member, with the captions behind their images.

    Raises:
        ShardError: a caption would take the place of a member, or the container is no shard.
        One of CONTAINER_ERRORS: the shard cannot be read to its end.
    """
    if is_parquet(container):
        raise ShardError("it is no shard; --as huggingface writes images with captions from Parquet files")
    captions: dict[str, str] = {}
    keys: set[str] = set()
    for row in contained.rows(container):
        captions.setdefault(_caption_name(row["uri"]), row["uri"])
        keys.add(sample_key(split_member(row["uri"])[1] or ""))
    written = 0
    with target.storage.open(container) as stream:
        for member in members(stream):
            if sample_key(member.name) not in keys:
                continue
            if member.name in captions:
                if not target.options.overwrite:
                    raise ShardError(f"it holds {member.name} already (--overwrite takes the caption in its place)")
                continue
            _add(tar, member.name, member.size, member.open())
            uri = join_member(container, member.name)
            name = _caption_name(uri)
            if captions.get(name) != uri:
                continue
            taken = contained.take(uri)
            if taken is None:  # its member came a second time
                continue
            data = taken["caption"].encode()
            _add(tar, name, len(data), cast("BinaryIO", io.BytesIO(data)))
            written += 1
    for row in contained.rows(container):
        if captions[_caption_name(row["uri"])] == row["uri"]:
            report.fail("not_found", f"{row['uri']}: it is no longer there")
        else:
            report.left_out["another image of its shard has the same key"] += 1
    return written
