"""Images inside shards and Parquet files: read front to back, without those whose rows stand already."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.images.formats import identify
from captionkit.images.types import ERROR_KINDS, ImageError, Limits
from captionkit.inputs.ids import Ids, image_id
from captionkit.inputs.kinds import IMAGE_SUFFIXES, JSON_FIELD, TEXT_COLUMNS, InputItem, passed_over
from captionkit.inputs.options import KEY_COLUMN
from captionkit.inputs.tables import decode_text
from captionkit.schema import source_name
from captionkit.storage import AddressError, Storage, StorageError, has_pages, join_member, redact, spelled
from captionkit.storage.archives import ARCHIVE_ERRORS, Member, members, open_parquet, seekable
from captionkit.storage.members import image_column

CONTAINER_ERRORS = (
    StorageError,
    *ARCHIVE_ERRORS,
    ValueError,  # tarfile's, of numbers and names that are none; and UsageError
    ArithmeticError,
    LookupError,
)
"""What reading a container from a stranger may raise."""
BATCH = 64
"""Rows of a Parquet file held at once."""
TEXT_BYTES = 2**20
"""A text that a shard holds for an image is not carried if it is longer."""
HEAD = 4096
"""Bytes by which a member is told whose name is no image's."""


@dataclass(frozen=True)
class ContainerOptions:
    """How containers are read."""

    limits: Limits
    image_column: str | None = None
    """The column of image bytes in Parquet files; None for the one that `image_column` chooses."""
    carry: tuple[tuple[str, pa.DataType], ...] = ()
    """Carried columns as the table calls them, and their types."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """What those that were given another name are called in the inputs, by that name."""
    count_pages: Callable[[bytes], int] | None = None
    """Counts the pages of a file, where each is to be a row, or raises an ImageError that is to be the file's;
    None where a file is one row."""

    @property
    def sources(self) -> dict[str, str]:
        """What the carried columns are called in the inputs, by their names in the table."""
        return {name: self.renamed.get(name) or source_name(name) for name, _ in self.carry}


class EncodedImage(NamedTuple):
    """One image on its way: where it is from, and how to get its bytes."""

    uri: str
    image_id: int
    version: str
    get: Callable[[], bytes]
    container_rows: int | None = None
    duplicate_members: int = 0
    """Members that came again, in a shard's last row."""
    carried: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    passed_over: dict[str, int] = {}  # noqa: RUF012  (never written to)
    """Members that are no images, by suffix, in a shard's last row."""
    odd_texts: dict[str, int] = {}  # noqa: RUF012  (never written to)
    """Texts to be carried that are not as they should be, by the kinds of `ODD_TEXTS`, in a shard's last row."""
    size: int | None = None
    """Bytes, where listing or container say so: known before anything is read that may fail."""
    again: bool = False
    """Whether another page of the same file has been counted as read."""


class BrokenContainer(NamedTuple):
    """What is lost of a container that broke: the row of a shard itself, or of one image of a Parquet file."""

    uri: str
    image_id: int
    version: str
    kind: str
    error: str
    container_rows: int
    duplicate_members: int = 0
    passed_over: dict[str, int] = {}  # noqa: RUF012  (never written to)
    odd_texts: dict[str, int] = {}  # noqa: RUF012  (never written to)


def is_in(done: Ids, number: int) -> bool:
    """Whether an id is among sorted ones."""
    at = int(np.searchsorted(done, number))
    return at < len(done) and int(done[at]) == number


def read_tar(
    row: dict[str, Any], storage: Storage, options: ContainerOptions, done: Ids
) -> Iterator[EncodedImage | BrokenContainer]:
    """The images of a tar shard that are not done, read once from front to back.

    The last one knows how many rows the shard has, done ones included, and how many members came again: of several of
    one name the first counts.
    """
    shard, version = row["uri"], row["version"]
    keys = [name for name, source in options.sources.items() if source == KEY_COLUMN]
    texts = _Texts(options.sources)
    count = duplicates = 0
    last: list[EncodedImage] = []  # of the image read last: itself, or those of its pages that are not done
    seen: set[str] = set()
    others: Counter[str] = Counter()
    try:
        with storage.open(row["read_uri"] or shard) as stream:
            for member, file, head in image_members(texts.taken_from(members(stream)), others):
                name = member.name
                # They lie beside their image, so they have come by now.
                last = [texts.beside(each, shard) for each in last]
                if name in seen:
                    duplicates += 1
                    continue
                seen.add(name)
                uri = join_member(shard, name)
                paged = options.count_pages if has_pages(name) else None
                if paged is None and is_in(done, image_id(uri, version)):
                    count += 1
                    continue
                data = head + _body(file or member.open(), member.size, options.limits.max_bytes, len(head))
                of_file, get = [uri], partial(bytes, data)
                if paged is not None:
                    try:
                        of_file = page_addresses(uri, paged(data))
                    except ImageError as err:
                        get = partial(raised, err)
                carried = dict.fromkeys(keys, sample_key(name)) if keys else {}
                fresh = [
                    EncodedImage(page, number, version, get, carried=carried, size=len(data), again=page != of_file[0])
                    for page in of_file
                    if not is_in(done, number := image_id(page, version))
                ]
                if fresh:
                    yield from last
                    last = fresh
                count += len(of_file)
        if not count:
            what = f": {passed_over(others)}" if others else ""
            reason = f"there is no image in this shard{what}"
            key = image_id(shard, version)
            yield BrokenContainer(shard, key, version, "not_an_image", reason, 1, 0, others, texts.odd)
            return
    except CONTAINER_ERRORS as err:
        kind = _kind(err)
        yield from (texts.beside(each, shard) for each in last)
        reason = f"the shard broke after {counted(count, 'image')}: {_message(err)}"
        key = image_id(shard, version)
        yield BrokenContainer(shard, key, version, kind, reason, count + 1, duplicates, others, texts.odd)
    else:
        last = [texts.beside(each, shard) for each in last]
        yield from last[:-1]
        if last:
            yield last[-1]._replace(
                container_rows=count, duplicate_members=duplicates, passed_over=others, odd_texts=texts.odd
            )


class _Texts:
    """Members of samples that are carried as text, those of the latest two keys: they lie before or behind their image.

    Args:
        sources: The carried columns' names in the inputs, by what the table calls them.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._columns = {f".{source}": name for name, source in sources.items() if source in TEXT_COLUMNS}
        self._fields = {
            source.removeprefix(JSON_FIELD): name for name, source in sources.items() if source.startswith(JSON_FIELD)
        }
        self._suffixes = {*self._columns, *([".json"] if self._fields else ())}
        self._known: dict[str, dict[str, str]] = {}
        self.odd = Counter[str]()
        """Texts that are not as they should be, by the kinds of `ODD_TEXTS`."""

    def taken_from(self, members: Iterable[Member]) -> Iterator[Member]:
        """The other members; these are read, as far as they are no longer than TEXT_BYTES."""
        for member in members:
            suffix = posixpath.splitext(member.name)[1].lower()
            if suffix not in self._suffixes or is_hidden_name(member.name):
                yield member
                continue
            key = sample_key(member.name)
            texts = self._known.setdefault(key, {})
            if member.size <= TEXT_BYTES:
                text, whole = decode_text(member.open().read())
                self.odd["not_utf8"] += not whole
                if suffix in self._columns:
                    texts[self._columns[suffix]] = text.strip()
                if suffix == ".json" and self._fields:
                    fields = _fields_of(text, self._fields)
                    self.odd["not_json"] += fields is None
                    texts |= fields or {}
            else:
                self.odd["too_long"] += 1
            while len(self._known) > 2:
                del self._known[next(iter(self._known))]

    def beside(self, image: EncodedImage, shard: str) -> EncodedImage:
        """The image with the texts of its sample."""
        texts = self._known.get(sample_key(image.uri[len(shard) + 1 :]))
        return image._replace(carried={**image.carried, **texts}) if texts else image


def _fields_of(text: str, wanted: Mapping[str, str]) -> dict[str, str] | None:
    """Fields of a JSON object under the names that they are wanted by; None where it is none."""
    try:
        sample = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(sample, dict):
        return None
    values = {name: sample.get(key) for key, name in wanted.items()}
    return {
        name: spelled(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
        if value is not None
    }


def image_members(members: Iterable[Member], others: Counter[str]) -> Iterator[tuple[Member, BinaryIO | None, bytes]]:
    """Members that are images by their names, else by what they begin with: such a one comes opened, with what was read
    of it. The rest are counted in `others` by suffix, and hidden files are left out."""
    for member in members:
        name, file, head = member.name, None, b""
        if is_hidden_name(name):
            continue
        if not is_image(name):
            file = member.open()
            head = file.read(min(member.size, HEAD))
            if not looks_like_image(head):
                others[posixpath.splitext(name)[1].lower() or posixpath.basename(name)] += 1
                continue
        yield member, file, head


def page_addresses(uri: str, count: int) -> list[str]:
    """The addresses of a file's pages; of a single one the file's own."""
    return [uri] if count == 1 else [f"{uri}#page={page}" for page in range(1, count + 1)]


def raised(error: Exception) -> bytes:
    """In the place of what would give an image's bytes."""
    raise error


def _body(file: BinaryIO, size: int, limit: int, start: int) -> bytes:
    """A member's bytes from `start` on; of one over the limit, one byte more than that: it tells the decoder so."""
    wanted = min(size, limit + 1) - start
    data = file.read(wanted)
    if len(data) < wanted:
        raise tarfile.ReadError("unexpected end of data")
    return data


def looks_like_image(head: bytes) -> bool:
    """Whether bytes begin as an image's do, one that is read or one that is not; a document is none."""
    try:
        return identify(head) != "PDF"
    except ImageError as err:
        return err.kind != "not_an_image"


def is_hidden_name(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def is_image(name: str) -> bool:
    """Whether a member's name has an image's suffix."""
    base = name.rpartition("/")[2]
    return base.lower()[base.rfind(".") :] in IMAGE_SUFFIXES


def beside(file: str, path: str) -> str:
    """The address that a path in a file means: its own, or one relative to the file's folder."""
    absolute = "://" in path or path.startswith("/")
    return path if absolute else f"{posixpath.dirname(file.partition('?')[0] if '://' in file else file)}/{path}"


def sample_key(name: str) -> str:
    """WebDataset's key of a member: its path up to the first dot of its file name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def read_row_group(
    row: dict[str, Any], storage: Storage, options: ContainerOptions, done: Ids
) -> Iterator[EncodedImage | BrokenContainer]:
    """The images of one row group of a Parquet file that are not done.

    How many there are was found out when the file was listed: where it breaks, each one left is a row of its own. A
    file that could not even be opened then (it has no row group) is one row.
    """
    file, version = row["uri"], row["version"]
    first, group = row["first_row"] or 0, row["row_group"]
    count = 0
    try:
        with storage.open(row["read_uri"] or file) as opened, seekable(opened) as stream:
            parquet = open_parquet(stream)
            column = image_column(parquet.schema_arrow, options.image_column)
            named = {source: name for name, source in options.sources.items() if source in parquet.schema_arrow.names}
            names = list(named)
            groups = [group] if group is not None else []
            for batch in parquet.iter_batches(BATCH, row_groups=groups, columns=[column, *names]):
                images = batch.column(batch.schema.get_field_index(column))
                paths: Any = [None] * len(batch)
                if pa.types.is_struct(images.type):
                    if images.type.get_field_index("path") >= 0:
                        paths = images.field("path")
                    images = images.field("bytes")
                extras = batch.select(names).rename_columns(list(named.values()))
                carried = extras.to_pylist() if names else [{}] * len(batch)
                for image, path, extra in zip(images, paths, carried, strict=True):
                    uri = join_member(file, str(first + count))
                    count += 1
                    key = image_id(uri, version)
                    if not is_in(done, key):
                        encoded = image.as_py() or b""
                        data = partial(bytes, encoded)
                        where = None if path is None or image.is_valid else path.as_py()
                        if where:  # Hugging Face's images that were never embedded: a path, and no bytes
                            data = partial(storage.read, beside(file, where))
                        size = None if where else len(encoded)
                        yield EncodedImage(uri, key, version, data, row["container_rows"], carried=extra, size=size)
    except CONTAINER_ERRORS as err:
        kind = _kind(err)
        if group is None:
            reason = f"not a readable Parquet file: {_message(err)}"
            yield BrokenContainer(file, image_id(file, version), version, kind, reason, 1)
            return
        reason = f"the file broke at row {first + count}: {_message(err)}"
        for number in range(first + count, first + row["rows"]):
            uri = join_member(file, str(number))
            key = image_id(uri, version)
            if not is_in(done, key):
                yield BrokenContainer(uri, key, version, kind, reason, row["container_rows"])


def _kind(error: Exception) -> str:
    """The kind of failure that a break is; raised again where it is no single container's."""
    if isinstance(error, StorageError) and error.fatal:
        raise error
    if isinstance(error, (StorageError, AddressError)):
        return error.kind
    if isinstance(error, UsageError):
        raise error
    return "truncated"


def _message(error: Exception) -> str:
    return redact(" ".join(str(error).split()))[:300]


def encoded_images(item: InputItem, storage: Storage, options: ContainerOptions) -> Iterator[bytes]:
    """An input's images as they are stored, one by one: for a look at what there is.

    Raises:
        ImageError: too large to be read, or its container has broken.
        StorageError: it cannot be read.
    """
    if item.kind == "image":
        yield read_image(storage, item.uri, item.size, options.limits)
        return
    row: dict[str, Any] = {"uri": item.name, "version": item.version, "read_uri": item.uri, "container_rows": None}
    row |= {"row_group": 0 if item.row_groups else None, "first_row": 0, "rows": next(iter(item.row_groups), 0)}
    for source in (read_tar if item.kind == "tar" else read_row_group)(row, storage, options, np.empty(0, np.int64)):
        if isinstance(source, BrokenContainer):
            raise (ImageError if source.kind in ERROR_KINDS else StorageError)(source.kind, source.error)
        yield source.get()


def read_image(storage: Storage, uri: str, size: int | None, limits: Limits) -> bytes:
    """An image's bytes; one that is listed as too large is not read to find that out.

    Raises:
        ImageError: it is larger than `limits` allow.
        StorageError: it cannot be read.
    """
    if size is not None and size > limits.max_bytes:
        raise ImageError("too_many_bytes", f"{size:,} bytes, and {limits.max_bytes:,} are allowed")
    return storage.read(uri)
