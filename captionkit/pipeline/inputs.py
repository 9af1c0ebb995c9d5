"""What `--input` may name, told apart, and streamed as items: one per image, shard or Parquet file of images."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.pipeline.options import InputOptions
from captionkit.storage import Entry, Storage, StorageError, UsageError, is_pattern, join_member, split_member

IMAGE_SUFFIXES = frozenset(
    [
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
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".ico",
        ".jp2",
        ".j2k",
        ".jpx",
        ".avif",
        ".heic",
        ".heif",
        ".mpo",
        ".dib",
        ".pcx",
        ".sgi",
        ".psd",
        ".jxl",
    ]
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LIST_SUFFIXES = (".txt", ".csv", ".jsonl")
KEY_COLUMN = "__key__"
"""WebDataset's name for what the members of one sample share; can be carried."""
STAT_CHUNK = 4096


class Item(NamedTuple):
    """One line of the manifest before it is numbered: an image, or a container of images."""

    uri: str
    version: str
    size: int | None
    kind: Literal["image", "tar", "parquet"] = "image"
    row_groups: tuple[int, ...] = ()
    """Rows of each row group of a Parquet file."""
    carried: dict[str, Any] = {}  # noqa: RUF012  (never written to)


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
            raise UsageError(f"--input {address}: no images found there ({what}).{hint}")

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
        if is_pattern(uri):
            named = bool(_suffix(uri)) and not is_pattern(_suffix(uri))
            yield from ((entry, named) for entry in storage.glob(uri))
            return
        if uri.startswith(("http://", "https://")):
            raise UsageError(f"--input {address}: not found (a web server's folders cannot be listed; give a list)")
        try:
            for entry in storage.list(uri):
                yield entry, False
        except StorageError as err:
            if err.kind == "not_found":
                raise UsageError(f"--input {address}: no such file or folder") from err
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
        join_member(uri, "0.jpg")  # refused here, before Ray starts, where members could have no address
        if KEY_COLUMN in self.options.carry:
            self._carry(KEY_COLUMN, pa.string(), uri)
        yield Item(uri, version, size, "tar")

    def _carry(self, name: str, kind: pa.DataType, where: str) -> None:
        known = self.carry_types.setdefault(name, kind)
        if known != kind:
            raise UsageError(f"--carry {name}: the column is {kind} in {where} and {known} in an input before it")

    # Lists of addresses

    def _list_rows(self, uri: str, suffix: str) -> Iterator[tuple[str | None, dict[str, Any]]]:
        column = self.options.uri_column
        with self.storage.open(uri) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=None)
            if suffix == ".csv":
                reader = csv.DictReader(text)
                self._check_columns(uri, reader.fieldnames or ())
                rows: Iterable[dict[str, Any]] = reader
            elif suffix == ".jsonl":
                rows = self._json_rows(uri, text)
            else:
                for line in text:
                    yield line.strip() or None, {}
                return
            for name in self.options.carry:
                self._carry(name, pa.string(), uri)
            for row in rows:
                yield row.get(column) or None, {name: row.get(name) for name in self.options.carry}

    def _json_rows(self, uri: str, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as err:
                raise UsageError(f"{uri}, line {number}: not JSON ({err})") from err
            if not isinstance(row, dict) or not isinstance(row.get(self.options.uri_column, ""), str | None):
                raise UsageError(f"{uri}, line {number}: expected an object with a string `{self.options.uri_column}`")
            if number == 1:
                self._check_columns(uri, row, needed=(self.options.uri_column,))
            for name in self.options.carry:
                if not isinstance(row.get(name), str | None):
                    row[name] = json.dumps(row[name], ensure_ascii=False)
            yield row

    def _check_columns(self, uri: str, present: Iterable[str], needed: tuple[str, ...] | None = None) -> None:
        present = list(present)
        for name in needed or (self.options.uri_column, *self.options.carry):
            if name not in present:
                raise UsageError(
                    f"{uri} has no column `{name}`; it has: {', '.join(present) or 'none'}."
                    + (" Name the column of addresses with --uri-column." if name == self.options.uri_column else "")
                )

    def _listed(self, where: str, rows: Iterable[tuple[str | None, dict[str, Any]]]) -> Iterator[Item]:
        """Items of listed addresses; relative ones are relative to the list's own folder."""
        folder = posixpath.dirname(where)
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
        if "://" in uri or uri.startswith("/"):
            return self.storage.normalize(uri)
        return self.storage.normalize(f"{folder}/{uri}")

    # Parquet: a list, or images

    def _parquet(self, entry: Entry) -> Iterator[Item]:
        with self.storage.open(entry.uri) as stream:
            try:
                file = pq.ParquetFile(stream)
            except pa.ArrowInvalid as err:
                raise UsageError(f"{entry.uri} is not a readable Parquet file: {err}") from err
            schema = file.schema_arrow
            column = None if self.options.format == "list" else image_column(schema, self.options.image_column)
            names = schema.names
            if column is None and (self.options.format == "parquet" or self.options.uri_column not in names):
                raise UsageError(
                    f"{entry.uri} has neither a column `{self.options.uri_column}` of addresses (--uri-column) nor "
                    f"one of image bytes (--image-column); its columns: {', '.join(names)}"
                )
            for name in self.options.carry:
                if name in names:
                    self._carry(name, schema.field(name).type, entry.uri)
            if column is not None:
                join_member(entry.uri, "0")
                groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                yield Item(entry.uri, entry.version, entry.size, "parquet", tuple(groups))
                return
            yield from self._listed(entry.uri, self._parquet_rows(file, names))

    def _parquet_rows(self, file: pq.ParquetFile, names: list[str]) -> Iterator[tuple[str | None, dict[str, Any]]]:
        carry = [name for name in self.options.carry if name in names]
        for batch in file.iter_batches(columns=[self.options.uri_column, *carry]):
            for row in batch.to_pylist():
                yield row[self.options.uri_column], {name: row[name] for name in carry}


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


def _suffix(uri: str) -> str:
    """The suffix of an address, lower case, with its dot; of `.tar.gz` both; of a URL without its query."""
    name = posixpath.basename(uri)
    if uri.startswith(("http://", "https://")):
        name = name.partition("?")[0]
    name = name.lower()
    return ".tar.gz" if name.endswith(".tar.gz") else posixpath.splitext(name)[1]
