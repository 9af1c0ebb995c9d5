"""What `--input` may name, told apart, and streamed as items: one per image, shard or Parquet file of images."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captionkit.errors import UsageError
from captionkit.inputs.address_lists import AddressList, Row, address_column_of, shown
from captionkit.inputs.images import Images, one_by_one
from captionkit.inputs.inventory import read_inventory
from captionkit.inputs.kinds import (
    DOCUMENT_SUFFIXES,
    IMAGE_SUFFIXES,
    REFUSED_SUFFIXES,
    InputItem,
    is_bookkeeping,
    is_of_samples,
    passed_over,
    suffix_of,
    without_query,
)
from captionkit.inputs.options import InputOptions
from captionkit.inputs.tables import TableError, address_column, is_text, list_suffix, open_text
from captionkit.schema import FOOTER
from captionkit.storage import (
    SHARD_SUFFIXES,
    AddressError,
    Entries,
    Entry,
    Storage,
    StorageError,
    expand_braces,
    is_pattern,
    join_member,
    public_uri,
    spelled,
)
from captionkit.storage.addresses import Pattern
from captionkit.storage.archives import open_parquet, seekable
from captionkit.storage.documents import DOCUMENT
from captionkit.storage.members import image_column
from captionkit.storage.spread import Spread

STAT_CHUNK = 4096
SPREAD_CHUNK = 16_384
STAT_BATCH = 512
"""Addresses that one task asks for."""
LIST_ROWS = 131_072
"""Rows of a Parquet list that are read at a time."""
_SUFFIX = rf"\.(?i:{'|'.join(suffix[1:] for suffix in sorted(IMAGE_SUFFIXES))})$"
_OPEN = r"^(/|s3://)[^@]*$"
"""Addresses on a local disk or in S3 that hold nothing that might be a secret."""
_IMAGE_FILE = rf"^(/|s3://[^/@]*/)([^@]*/)?[^/@]*[^/.@][^/@]*{_SUFFIX}"
"""Such addresses of images by their names."""
_IMAGE = rf"^[a-z][a-z0-9+.\-]*://[^#@]*/[^/#@]*[^/.#@][^/#@]*{_SUFFIX}"
"""Addresses of images in object storage that are spelled as `Storage.normalize` spells them and hold no secret; those
that `_NOT_SO` matches are left out, which Arrow's regular expressions cannot say in one."""
_NOT_SO = r"^(?i:http|file:|local:)"
_OWN = re.compile(r"/(_runs|_lease)/|/_probe-|/(captions|compacted)-[^/]*\.parquet$|-(reviews|listing)/")
"""What a run writes below its output folder, and what lies beside that under its name (`captionkit.table`'s `beside`):
how the rest of an address goes on behind the folder's own."""


@dataclass
class Inputs:
    """The inputs of a job, streamed by `pieces`; what was met on the way is counted.

    Raises (from `pieces` and `items`):
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
    output: str | None = None
    """The caption table that is written: its own files, which may lie below an input, are no inputs."""
    notes: list[str] = field(default_factory=list)
    """What the log should say of lists."""
    spread: Spread | None = None
    """Where long listings are made and addresses of lists asked for, if not by this process alone."""
    _met: Counter[str] = field(default_factory=Counter)
    """What was passed over of the address that is listed now, by suffix."""
    _asked: str | None = None
    """The file that is read now, where the user named it itself."""
    _good: bool = False
    """Whether `check` has found something at each address."""

    def items(self) -> Iterator[InputItem]:
        """Each for itself."""
        return one_by_one(self.pieces())

    def pieces(self) -> Iterator[Images | InputItem]:
        """The same, images as whole columns where they are listed so."""
        if not self.options.input:
            raise UsageError("--input names nothing")
        for address in self.options.input:
            yield from self._address(address)
        missing = [column for column, name in self._carried.items() if name not in self.carry_types]
        if missing:
            raise UsageError(f"--carry {' '.join(missing)}: no input has a column of that name")

    def check(self) -> None:
        """Look for the first item of each address, so that wrong ones are found before anything is written. Nobody is
        asked again once they were found to be good.

        Raises:
            UsageError, StorageError: as `items` does.
        """
        if self._good:
            return
        trial = Inputs(self.options, self.storage, output=self.output)
        for address in self.options.input:
            next(trial._address(address))
        self._good = True

    def _address(self, address: str) -> Iterator[Images | InputItem]:
        images = 0
        self._met.clear()
        for entries, named in self._with_inventories(self._entries(address)):
            for piece in self._several(entries) if isinstance(entries, Entries) else self._single(entries, named):
                images += 1
                yield piece
        if not images:
            what = f"passed over {passed_over(self._met)}" if self._met else "nothing"
            hint = " Use --format images to take every file for an image." if self._met else ""
            raise UsageError(f"--input {public_uri(address)}: no images found there ({what}).{hint}")

    def _single(self, entry: Entry, named: bool) -> Iterable[Images | InputItem]:
        return [] if self._is_own(entry.uri) else self._entry(entry, named)

    def _several(self, entries: Entries) -> Iterator[Images | InputItem]:
        """What a folder's files are: images by their names, nearly all, as columns."""
        uris = pa.array(entries.uris, pa.string())
        if self.options.format == "images":
            plain = pc.match_substring_regex(uris, _OPEN)
        elif self.options.format == "auto":
            plain = pc.match_substring_regex(uris, _IMAGE_FILE)
        else:
            plain = pa.repeat(False, len(uris))
        if self.output is not None:
            plain = pc.and_not(plain, pc.starts_with(uris, self.storage.normalize(self.output).rstrip("/")))
        images = Images(uris, uris, pa.array(entries.versions, pa.string()), pa.array(entries.sizes, pa.int64()))
        others: Iterable[Entry] = ()
        if plain.true_count < len(uris):
            chosen = plain.to_numpy(zero_copy_only=False)
            images = images.take(np.flatnonzero(chosen))
            others = (entry for entry, is_plain in zip(entries.each(), chosen.tolist(), strict=True) if not is_plain)
        if len(images):
            yield images
        for entry in others:
            yield from self._single(entry, named=False)

    def _with_inventories(
        self, entries: Iterable[tuple[Entry | Entries, bool]]
    ) -> Iterator[tuple[Entry | Entries, bool]]:
        """The same, with what an S3 Inventory lists in the place of its manifest, where the user named that."""
        for entry, named in entries:
            inventory = read_inventory(entry.uri, self.storage) if named and isinstance(entry, Entry) else None
            if inventory is None:
                yield entry, named
                continue
            for below in inventory.entries(self.storage):
                yield below, False

    def _entries(self, address: str) -> Iterator[tuple[Entry | Entries, bool]]:
        """The files an address stands for, each with whether the user named files of its kind (a prefix does not)."""
        storage = self.storage
        uri = storage.normalize(address)
        self._asked = None
        if not address.endswith("/"):
            try:
                entry = storage.stat(uri)
            except StorageError as err:
                if err.kind != "not_found":
                    raise
            else:
                self._asked = entry.uri
                yield entry, True
                return
        if uri.startswith(("http://", "https://")):
            shown = public_uri(address)
            raise UsageError(f"--input {shown}: not found (a web server's folders cannot be listed; give a list)")
        in_braces = next(expand_braces(address)) != address
        literal = not (in_braces or is_pattern(uri)) or storage.is_folder(uri)  # a name that exists is meant literally
        if in_braces and not literal:
            for one in expand_braces(address):
                yield from self._entries(one)
            return
        if not literal:
            named = bool(suffix_of(uri)) and not is_pattern(suffix_of(uri))
            yield from ((entry, named) for entry in storage.glob(uri, self.spread))
            return
        try:
            for entries in storage.list_batches(uri, self.spread):
                yield entries, False
        except StorageError as err:
            if err.kind == "not_found":
                what = str(err) if err.fatal else "no such file or folder"
                raise UsageError(f"--input {public_uri(address)}: {what}") from err
            raise

    def _entry(self, entry: Entry, named: bool) -> Iterable[Images | InputItem]:
        suffix = suffix_of(entry.uri)
        form = self.options.format
        if form == "images":
            return [InputItem(entry.uri, entry.version, entry.size)]
        # What merely lies in a folder is not held to what a named file is held to.
        if not named and (is_bookkeeping(entry.uri) or not self._may_be(suffix, entry.uri)):
            self._pass_over(entry.uri, suffix or posixpath.basename(entry.uri))
            return []
        if form == "webdataset" or (form == "auto" and suffix in SHARD_SUFFIXES):
            return self._tar(entry.uri, entry.version, entry.size)
        if suffix == ".parquet" or form == "parquet":
            return self._parquet(entry, named)
        if named and suffix in REFUSED_SUFFIXES:
            raise UsageError(
                f"--input {public_uri(entry.uri)} is {REFUSED_SUFFIXES[suffix]}, which captionkit does not read: "
                "unpack it, or write it as Parquet or as tar shards"
            )
        if (content := self._list_form(entry.uri, named, suffix)) == "parquet":
            return self._parquet(entry, named)
        if content == "text":
            return self._listed(entry.uri, self._list_rows(entry.uri))
        return [InputItem(entry.uri, entry.version, entry.size)]

    def _pass_over(self, uri: str, kind: str) -> None:
        """Count a file that is no input here, unless another `--input` names it."""
        self._met[kind] += 1
        if uri not in self._named and not any(pattern.matches(uri) for pattern in self._patterns):
            self.ignored[kind] += 1

    @cached_property
    def _named(self) -> frozenset[str]:
        """Addresses of files that the user named, if they are files."""
        return frozenset(self.storage.normalize(one) for one in self.options.input if not one.endswith("/"))

    @cached_property
    def _patterns(self) -> list[Pattern]:
        """Patterns that name files of a kind, by their suffix."""
        given = [self.storage.normalize(one) for one in self.options.input if is_pattern(one)]
        return [Pattern(one) for one in given if suffix_of(one) and not is_pattern(suffix_of(one))]

    def _may_be(self, suffix: str, uri: str) -> bool:
        """Whether a file found in a folder is one of `--format`'s. Names without a suffix are often images named by a
        hash."""
        if self.options.format == "webdataset":
            return suffix in SHARD_SUFFIXES
        if self.options.format == "parquet":
            return suffix == ".parquet"
        if self.options.format == "list":
            return suffix in ("", ".parquet") or bool(list_suffix(uri))
        return suffix in IMAGE_SUFFIXES or suffix in SHARD_SUFFIXES or suffix in ("", ".parquet")

    def _tar(self, uri: str, version: str, size: int | None) -> Iterator[InputItem]:
        try:
            join_member(public_uri(uri), "0.jpg")
        except UsageError:  # found here, before Ray starts: its members could have no address
            if self.options.format == "webdataset" or self._asked_for(uri):
                raise
            yield InputItem(uri, version, size)  # an archive may hold what it likes: one row, which will say why
            return
        for column in filter(is_of_samples, self._carried):
            self._carry(column, pa.string(), uri)
        yield InputItem(uri, version, size, "tar")

    def _asked_for(self, uri: str) -> bool:
        """Whether the user named this very address, rather than a folder, pattern or list that has it."""
        return uri == self._asked

    def _is_own(self, uri: str) -> bool:
        """Whether this is a file of the caption table that is written, or of its run records or lease, or one that lies
        beside it."""
        if self.output is None:
            return False
        root = self.storage.normalize(self.output).rstrip("/")
        return uri.startswith(root) and _OWN.match(uri[len(root) :]) is not None

    def _list_form(self, uri: str, named: bool, suffix: str) -> Literal["text", "parquet"] | None:
        """What form of list a file is, None if none. A file that is named itself is looked into, whatever its suffix
        says, unless that is an image's."""
        asked = self._asked_for(uri) if named else False
        image = suffix in IMAGE_SUFFIXES or suffix in DOCUMENT_SUFFIXES
        if self.options.format == "list" or (asked and not image):
            with self.storage.open(uri) as stream:
                magic = stream.read(6)
            if magic.startswith(b"PAR1"):
                return "parquet"
            if magic == b"ARROW1":
                raise UsageError(f"{public_uri(uri)} is an Arrow file; write it as Parquet or CSV")
        if self.options.format == "list" or (named and list_suffix(uri)):
            return "text"
        if not asked or image:
            return None
        try:
            with open_text(self.storage, uri) as text:
                return "text" if is_text(text.head) else None
        except TableError:
            return None

    @cached_property
    def _carried(self) -> dict[str, str]:
        return self.options.carried()

    def _carry(self, column: str, kind: pa.DataType, where: str) -> None:
        name = self._carried[column]
        known = self.carry_types.setdefault(name, kind)
        if known != kind:
            where = public_uri(where)
            raise UsageError(f"--carry {name}: the column is {kind} in {where} and {known} in an input before it")

    # Lists of addresses

    def _list_rows(self, uri: str) -> Iterator[Row]:
        def columns() -> None:
            for column in self._carried:
                self._carry(column, pa.string(), uri)

        yield from AddressList(uri, self.options, columns, self._note).rows(self.storage)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _listed(self, where: str, rows: Iterable[Row]) -> Iterator[Images | InputItem]:
        """Items of listed addresses; relative ones are relative to the list's own folder."""
        folder = posixpath.dirname(without_query(where))
        rows = iter(rows)
        while chunk := list(islice(rows, STAT_CHUNK if self.spread is None else SPREAD_CHUNK)):
            named = [(uri, carried) for uri, carried in chunk if uri]
            self.blank += len(chunk) - len(named)
            ask = self.options.stat_listed
            entries = self._known_of([self._absolute(folder, uri) for uri, _ in named])
            for entry, (spelling, carried) in zip(entries, named, strict=True):
                if (entry.version or not ask) and suffix_of(entry.uri) in IMAGE_SUFFIXES:  # as of nearly all
                    yield InputItem(entry.uri, entry.version, entry.size, carried=carried)
                    continue
                yield from self._listed_entry(entry, spelling, carried, folder, ask)

    def _known_of(self, uris: list[str]) -> Iterable[Entry]:
        """What storage says of addresses, where it is to be asked; of many, wherever that is spread to."""
        if not self.options.stat_listed:
            return (Entry(uri, None, "") for uri in uris)
        # Paths on disk mean the same on all machines only where these share it.
        if self.spread is None or len(uris) <= STAT_BATCH or not all("://" in uri for uri in uris):
            return self.storage.stat_many(uris)
        batches = (uris[at : at + STAT_BATCH] for at in range(0, len(uris), STAT_BATCH))
        return chain.from_iterable(self.spread.map(self.storage.stat_all, batches))

    def _listed_entry(
        self, entry: Entry, spelling: str, carried: dict[str, Any], folder: str, asked: bool
    ) -> Iterator[Images | InputItem]:
        """The items of one row. An address that exists is meant literally; one that does not may be a relative path
        spelled as on Windows, or be a folder or a pattern."""
        if asked and not entry.version and entry.size is None:
            if "\\" in spelling and "://" not in spelling:
                (slashed,) = self.storage.stat_many([self._absolute(folder, spelling.replace("\\", "/"))])
                entry = slashed if slashed.version or slashed.size is not None else entry
            is_there = False
            for below in self._below(entry.uri, spelling) if not entry.version else ():
                if suffix_of(below.uri) in IMAGE_SUFFIXES or suffix_of(below.uri) in (*SHARD_SUFFIXES, ".parquet"):
                    is_there = True
                    yield from self._container_or_image(below, carried)
                elif not self._is_own(below.uri):
                    self._pass_over(below.uri, suffix_of(below.uri))
            if is_there:
                return
        yield from self._container_or_image(entry, carried)

    def _below(self, uri: str, spelling: str) -> Iterator[Entry]:
        """What a row's folder or pattern stands for; nothing where it stands for nothing."""
        if uri.startswith(("http://", "https://")):
            return
        try:
            if is_pattern(uri):
                yield from self.storage.glob(uri)
            elif (spelling.endswith("/") or not suffix_of(uri)) and self.storage.is_folder(uri):
                yield from self.storage.list(uri)
        except (StorageError, UsageError) as err:
            if isinstance(err, StorageError) and err.fatal and err.kind != "not_found":  # a bucket that is not there
                raise

    def _container_or_image(self, entry: Entry, carried: dict[str, Any]) -> Iterator[Images | InputItem]:
        suffix = suffix_of(entry.uri)
        if suffix in SHARD_SUFFIXES:
            yield from self._tar(entry.uri, entry.version, entry.size)
        elif suffix == ".parquet" and (entry.version or not self.options.stat_listed):
            yield from self._parquet(entry, named=True, within_list=True)
        else:
            yield InputItem(entry.uri, entry.version, entry.size, carried=carried)

    def _absolute(self, folder: str, uri: str) -> str:
        is_absolute = "://" in uri or uri.startswith(("/", "~/", "file:/"))
        address = uri if is_absolute else f"{folder}/{uri}"
        try:
            return self.storage.normalize(address)
        except AddressError:
            return spelled(address)  # an input all the same: its row will say why

    # Parquet: a list, or images

    def _parquet(self, entry: Entry, named: bool, within_list: bool = False) -> Iterator[Images | InputItem]:
        with self.storage.open(entry.uri) as opened, seekable(opened) as stream:
            try:
                file = open_parquet(stream)
            except (pa.ArrowInvalid, OSError) as err:  # OSError is what a damaged footer raises
                if self._asked_for(entry.uri) or self.options.format == "list":
                    raise UsageError(f"{public_uri(entry.uri)} is not a readable Parquet file: {err}") from err
                yield InputItem(entry.uri, entry.version, entry.size, "parquet", broken=True)
                return
            schema = file.schema_arrow
            names = schema.names
            try:
                column = None if self.options.format == "list" else image_column(schema, self.options.image_column)
            except UsageError:
                if named:
                    raise
                self._pass_over(entry.uri, ".parquet")
                return
            ours = not {FOOTER, DOCUMENT}.isdisjoint(schema.metadata or {})
            if column is None and ours and not self._asked_for(entry.uri):
                self._pass_over(entry.uri, "caption table")  # what captionkit has written is no list unless it is named
                return
            if column is None and within_list:
                yield InputItem(
                    entry.uri, entry.version, entry.size
                )  # a list in a list: a row that will say what it is
                return
            address = address_column(_text_columns(schema), self.options.uri_column)[0]
            if not named and address != self.options.uri_column:
                address = None  # beside shards lies their metadata, with a column `url`
            if column is None and (self.options.format == "parquet" or address is None):
                if not named:
                    self._pass_over(entry.uri, ".parquet")
                    return
                raise UsageError(
                    f"{public_uri(entry.uri)} has neither a column `{self.options.uri_column}` of addresses "
                    f"(--uri-column) nor one of image bytes (--image-column); its columns: "
                    f"{', '.join(f'{each.name} ({each.type})' for each in schema)}"
                )
            for each in self._carried:
                if each in names:
                    self._carry(each, schema.field(each).type, entry.uri)
            if column is not None:
                join_member(public_uri(entry.uri), "0")
                groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                yield InputItem(entry.uri, entry.version, entry.size, "parquet", tuple(groups))
                return
            name = address_column_of(entry.uri, _text_columns(schema), self.options, self._note)
            carry = [each for each in self._carried if each in names]
            for batch in file.iter_batches(LIST_ROWS, columns=list(dict.fromkeys([name, *carry]))):
                if not carry and not self.options.stat_listed:
                    images, batch = _told_by_spelling(batch, name)
                    if len(images):
                        yield images
                uris = batch.column(batch.schema.get_field_index(name)).to_pylist()
                carried = batch.select(carry).to_pylist() if carry else [{}] * len(batch)
                rows = zip(uris, carried, strict=True)
                yield from self._listed(entry.uri, ((uri, shown(row, name, self._carried)) for uri, row in rows))


def _told_by_spelling(rows: pa.RecordBatch, column: str) -> tuple[Images, pa.RecordBatch]:
    """Those rows of a list whose addresses are images' by their spelling, and the others."""
    uris = rows.column(rows.schema.get_field_index(column)).cast(pa.string())
    plain = pc.and_not(pc.match_substring_regex(uris, _IMAGE), pc.match_substring_regex(uris, _NOT_SO)).fill_null(False)
    if plain.true_count < len(rows):
        uris, rows = uris.filter(plain), rows.filter(pc.invert(plain))
    else:
        rows = rows.slice(0, 0)
    return Images(uris, uris, pa.repeat("", len(uris)), pa.nulls(len(uris), pa.int64())), rows


def _text_columns(schema: pa.Schema) -> list[str]:
    columns = []
    for column in schema:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            columns.append(column.name)
    return columns
