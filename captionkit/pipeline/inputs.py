"""What `--input` may name, told apart, and streamed as items: one per image, shard or Parquet file of images."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.pipeline.lists import Row, rows_of_list, shown
from captionkit.pipeline.options import InputOptions
from captionkit.storage import (
    AddressError,
    Entry,
    Storage,
    StorageError,
    UsageError,
    is_pattern,
    join_member,
    public,
    spelled,
    split_member,
)

_SUFFIXES = (
    ".jpg .jpeg .jpe .jif .jfif .jfi .png .apng .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .tga .ico .jp2 .j2k "
    ".j2c .jpc .jpf .jpx .jph .jhc .avif .avifs .heic .heif .mpo .dib .pcx .sgi .psd .jxl"
)
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LIST_SUFFIXES = (".txt", ".csv", ".jsonl")
KEY_COLUMN = "__key__"
"""WebDataset's name for what the members of one sample share; can be carried."""
STAT_CHUNK = 4096


class Item(NamedTuple):
    """One line of the manifest before it is numbered: an image, or a container of images."""

    uri: str
    """The address to read, with its credentials if it has any. Never to be stored or shown: see `name`."""
    version: str
    size: int | None
    kind: Literal["image", "tar", "parquet"] = "image"
    row_groups: tuple[int, ...] = ()
    """Rows of each row group of a Parquet file."""
    carried: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    broken: bool = False
    """A Parquet file that cannot be opened."""

    @property
    def name(self) -> str:
        """What it is called in the table: its address without passwords and signatures, so that an address that was
        signed again is the same image."""
        return public(self.uri)


@dataclass
class Inputs:
    """The inputs of a job, streamed by `items`; what was met on the way is counted.

    Raises (from `items`):
        UsageError: an input that does not exist, holds nothing, or cannot be understood.
        StorageError: storage that cannot be read.
    """

    options: InputOptions
    storage: Storage
    carry_types: dict[str, pa.DataType] = field(default_factory=dict)
    """Arrow types of the carried columns, as far as met."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Files passed over in prefixes, by suffix."""
    blank: int = 0
    """Rows of lists without an address."""

    def items(self) -> Iterator[Item]:
        if not self.options.input:
            raise UsageError("--input names nothing")
        for address in self.options.input:
            yield from self._address(address)
        missing = [name for name in self.options.carry if name not in self.carry_types]
        if missing:
            raise UsageError(f"--carry {' '.join(missing)}: no input has a column of that name")

    def check(self) -> None:
        """Look for the first item of each address, so that wrong ones are found before anything is written.

        Raises:
            UsageError, StorageError: as `items` does.
        """
        trial = Inputs(self.options, self.storage)
        for address in self.options.input:
            next(trial._address(address))

    def _address(self, address: str) -> Iterator[Item]:
        found = 0
        before = self.ignored.copy()
        for entry, named in self._entries(address):
            for item in self._entry(entry, named):
                found += 1
                yield item
        if not found:
            seen = self.ignored - before
            what = ", ".join(f"{n} × {suffix}" for suffix, n in seen.most_common(5)) or "nothing"
            hint = " Use --format images to take every file for an image." if seen else ""
            raise UsageError(f"--input {public(address)}: no images found there ({what}).{hint}")

    def _entries(self, address: str) -> Iterator[tuple[Entry, bool]]:
        """The files an address stands for, each with whether the user named files of its kind (a prefix does not)."""
        storage = self.storage
        uri = storage.normalize(address)
        if not address.endswith("/"):
            try:
                yield storage.stat(uri), True
                return
            except StorageError as err:
                if err.kind != "not_found":
                    raise
        if uri.startswith(("http://", "https://")):
            shown = public(address)
            raise UsageError(f"--input {shown}: not found (a web server's folders cannot be listed; give a list)")
        if is_pattern(uri):
            named = bool(_suffix(uri)) and not is_pattern(_suffix(uri))
            yield from ((entry, named) for entry in storage.glob(uri))
            return
        try:
            for entry in storage.list(uri):
                yield entry, False
        except StorageError as err:
            if err.kind == "not_found":
                what = str(err) if err.hopeless else "no such file or folder"
                raise UsageError(f"--input {public(address)}: {what}") from err
            raise

    def _entry(self, entry: Entry, named: bool) -> Iterable[Item]:
        suffix = _suffix(entry.uri)
        form = self.options.format
        if form == "images":
            return [Item(entry.uri, entry.version, entry.size)]
        if form == "webdataset" or (form == "auto" and suffix in TAR_SUFFIXES):
            return self._tar(entry.uri, entry.version, entry.size)
        if suffix == ".parquet" or form == "parquet":
            return self._parquet(entry)
        if form == "list" or (named and suffix in LIST_SUFFIXES):
            return self._listed(entry.uri, self._list_rows(entry.uri, suffix))
        # A prefix may hold anything beside its images. Keys without a suffix are often images named by a hash.
        if named or suffix in IMAGE_SUFFIXES or not suffix:
            return [Item(entry.uri, entry.version, entry.size)]
        self.ignored[suffix] += 1
        return []

    def _tar(self, uri: str, version: str, size: int | None) -> Iterator[Item]:
        try:
            join_member(public(uri), "0.jpg")
        except UsageError:  # found here, before Ray starts: its members could have no address
            if self.options.format == "webdataset" or self._asked_for(uri):
                raise
            yield Item(uri, version, size)  # an archive may hold what it likes: one row, which will say why
            return
        if KEY_COLUMN in self.options.carry:
            self._carry(KEY_COLUMN, pa.string(), uri)
        yield Item(uri, version, size, "tar")

    def _asked_for(self, uri: str) -> bool:
        """Whether the user named this very address, rather than a folder, pattern or list that has it."""
        return any(self.storage.normalize(address) == uri for address in self.options.input)

    def _carry(self, name: str, kind: pa.DataType, where: str) -> None:
        known = self.carry_types.setdefault(name, kind)
        if known != kind:
            where = public(where)
            raise UsageError(f"--carry {name}: the column is {kind} in {where} and {known} in an input before it")

    # Lists of addresses

    def _list_rows(self, uri: str, suffix: str) -> Iterator[Row]:
        if suffix in (".csv", ".jsonl"):
            for name in self.options.carry:
                self._carry(name, pa.string(), uri)
        with self.storage.open(uri) as stream:
            yield from rows_of_list(uri, suffix, stream, self.options)

    def _listed(self, where: str, rows: Iterable[Row]) -> Iterator[Item]:
        """Items of listed addresses; relative ones are relative to the list's own folder."""
        folder = posixpath.dirname(_without_query(where))
        rows = iter(rows)
        while chunk := list(islice(rows, STAT_CHUNK)):
            named = [(self._absolute(folder, uri), carried) for uri, carried in chunk if uri]
            self.blank += len(chunk) - len(named)
            # A member's version is its shard's; asking per member would ask for the same shard again and again.
            ask = self.options.stat_listed and not any(split_member(uri)[1] for uri, _ in named)
            uris = [uri for uri, _ in named]
            entries = self.storage.stat_many(uris) if ask else (Entry(uri, None, "") for uri in uris)
            for entry, (_, carried) in zip(entries, named, strict=True):
                if _suffix(entry.uri) in TAR_SUFFIXES:
                    yield from self._tar(entry.uri, entry.version, entry.size)
                else:
                    yield Item(entry.uri, entry.version, entry.size, carried=carried)

    def _absolute(self, folder: str, uri: str) -> str:
        address = uri if "://" in uri or uri.startswith("/") else f"{folder}/{uri}"
        try:
            return self.storage.normalize(address)
        except AddressError:
            return spelled(address)  # an input all the same: its row will say why

    # Parquet: a list, or images

    def _parquet(self, entry: Entry) -> Iterator[Item]:
        with self.storage.open(entry.uri) as stream:
            try:
                file = pq.ParquetFile(stream)
            except (pa.ArrowInvalid, OSError) as err:  # OSError is what a damaged footer raises
                if self._asked_for(entry.uri) or self.options.format == "list":
                    raise UsageError(f"{public(entry.uri)} is not a readable Parquet file: {err}") from err
                yield Item(entry.uri, entry.version, entry.size, "parquet", broken=True)
                return
            schema = file.schema_arrow
            column = None if self.options.format == "list" else image_column(schema, self.options.image_column)
            names = schema.names
            if column is None and (self.options.format == "parquet" or self.options.uri_column not in names):
                raise UsageError(
                    f"{public(entry.uri)} has neither a column `{self.options.uri_column}` of addresses (--uri-column) "
                    f"nor one of image bytes (--image-column); its columns: {', '.join(names)}"
                )
            for name in self.options.carry:
                if name in names:
                    self._carry(name, schema.field(name).type, entry.uri)
            if column is not None:
                join_member(public(entry.uri), "0")
                groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                yield Item(entry.uri, entry.version, entry.size, "parquet", tuple(groups))
                return
            kind = schema.field(self.options.uri_column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise UsageError(f"{public(entry.uri)}: the column `{self.options.uri_column}` holds {kind}, not text")
            yield from self._listed(entry.uri, self._parquet_rows(file, names))

    def _parquet_rows(self, file: pq.ParquetFile, names: list[str]) -> Iterator[Row]:
        carry = [name for name in self.options.carry if name in names]
        for batch in file.iter_batches(columns=list(dict.fromkeys([self.options.uri_column, *carry]))):
            uris = batch.column(batch.schema.get_field_index(self.options.uri_column)).to_pylist()
            carried = batch.select(carry).to_pylist() if carry else [{}] * len(batch)
            for uri, values in zip(uris, carried, strict=True):
                yield uri, shown(values, self.options)


def image_column(schema: pa.Schema, name: str | None) -> str | None:
    """The column of image bytes in a Parquet schema: the one named, else `image`, else the only binary one.

    Binary columns and Hugging Face's ``struct<bytes: binary, path: string>`` count. None where there is none.

    Raises:
        UsageError: several columns would do, or the one named does not.
    """
    fitting = [column.name for column in schema if _holds_bytes(column.type)]
    if name is not None:
        if name not in fitting:
            raise UsageError(
                f"--image-column {name}: no such column of bytes; there is: {', '.join(fitting) or 'none'}"
            )
        return name
    if "image" in fitting:
        return "image"
    if len(fitting) > 1:
        raise UsageError(f"several columns hold bytes ({', '.join(fitting)}); choose one with --image-column")
    return fitting[0] if fitting else None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _without_query(uri: str) -> str:
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri


def _suffix(uri: str) -> str:
    """The suffix of an address, lower case, with its dot; of `.tar.gz` both; of a URL without its query."""
    name = posixpath.basename(_without_query(uri)).lower()
    return ".tar.gz" if name.endswith(".tar.gz") else posixpath.splitext(name)[1]
