"""The caption table (its columns: `captionkit.schema`), and the only code that reads, appends to or mends it.

A table is a folder of Parquet files, readable as it is: ``pyarrow.parquet.read_table(OUTPUT)``,
``duckdb: FROM 'OUTPUT/*.parquet'``, ``pandas.read_parquet(OUTPUT)``, ``spark.read.parquet(OUTPUT)``,
``polars.scan_parquet(OUTPUT)``. What else lies there for good is Parquet without rows
(`captionkit.storage.documents`) in folders whose names begin with an underscore: readers pass over it, or read it and
find no row.

Only the driver writes, one whole file at a time (`Storage.write` leaves a whole file or none), and a file is
never appended to. So whatever dies, a row is in the table once or not at all, and a reader never meets half a file.

Each file's footer says what wrote it, under the key `FOOTER`: model, search options, carried columns, and which
containers (tar shards, Parquet files of images) it holds how many rows of; where rows were captioned anew, also which
runs of which other model and options have rows there. A rerun learns from the footers alone what
is finished; no other record has a say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from captionkit.errors import UsageError
from captionkit.inputs.ids import Ids, IdSet
from captionkit.schema import FOOTER, SCHEMA
from captionkit.storage import Storage, StorageError, escape, has_pages, is_parquet, page_of, split_member
from captionkit.storage.archives import open_parquet


@dataclass
class Container:
    """What one table file knows of one container: a tar shard, or a Parquet file of images."""

    version: str
    rows: int = 0
    """Rows of it in this file."""
    total: int | None = None
    """Rows of it in all, in whichever files; known once it was read to its end."""
    doubtful: list[str] = field(default_factory=list)
    """Members of these rows that were asked for by their own addresses and may be none of the container's: that are not
    there, or pages where a file is one row. They are not among its `total`."""

    def strays(self, uri: str, total: int) -> int:
        """How many of `rows` are none of the container's, which lies at `uri` and has `total` of its own."""
        return sum(_is_stray(uri, member, total) for member in self.doubtful)


class Maker(NamedTuple):
    """What makes captions: a captioner, and how it searches."""

    model: str
    """Fingerprint of the bundle."""
    search: dict[str, Any]


@dataclass(frozen=True)
class Footer:
    """What a table file says about itself."""

    model: str
    search: dict[str, Any]
    carry: dict[str, str]
    """Carried columns and their Arrow types."""
    containers: dict[str, Container] = field(default_factory=dict)
    runs: dict[str, Maker] = field(default_factory=dict)
    """Runs of another maker than the above that have rows in the file: they captioned these anew."""

    @property
    def maker(self) -> Maker:
        """What made the rows of all runs but those in `runs`."""
        return Maker(self.model, self.search)

    def makers(self) -> list[Maker]:
        """All that made rows of the file."""
        return [self.maker, *self.runs.values()]

    def with_runs(self, present: Collection[str], more: Mapping[str, Maker]) -> Footer:
        """The same of a file that has rows of the runs `present` and of no other; `more`: who made some."""
        makers = {run: more.get(run, self.runs.get(run, self.maker)) for run in sorted(present)}
        main = self.maker if self.maker in makers.values() else next(iter(makers.values()), self.maker)
        runs = {run: maker for run, maker in makers.items() if maker != main}
        return Footer(main.model, main.search, self.carry, self.containers, runs)

    def to_metadata(self) -> dict[bytes, bytes]:
        values = asdict(self)
        for container in values["containers"].values():
            if not container["doubtful"]:
                del container["doubtful"]
        if not self.runs:
            del values["runs"]  # which an older captionkit would not understand
        return {FOOTER: json.dumps(values).encode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, uri: str) -> Footer:
        if not metadata or FOOTER not in metadata:
            raise UsageError(
                f"{uri} is a Parquet file that captionkit did not write. "
                "Give --output a folder of its own, or move that file elsewhere."
            )
        raw = json.loads(metadata[FOOTER])
        raw["containers"] = {key: Container(**value) for key, value in raw["containers"].items()}
        raw["runs"] = {run: Maker(*maker) for run, maker in raw.get("runs", {}).items()}
        return cls(**raw)


@dataclass(frozen=True)
class TableFile:
    uri: str
    rows: int
    footer: Footer


def beside(table_uri: str, name: str) -> str:
    """A folder beside a table, of its name with `-NAME`; "" where the table is a whole bucket, which has none."""
    uri = table_uri.rstrip("/")
    scheme, _, rest = uri.rpartition("://")
    return "" if not rest or (scheme and "/" not in rest) else f"{uri}-{name}"


class CaptionTable:
    """A caption table at an address, as it stands when opened.

    Args:
        skip_unreadable: Pass over files that are damaged or of another maker, instead of raising.

    Raises (from the constructor):
        UsageError: the folder holds Parquet files of another maker.
        StorageError: it cannot be read.
    """

    def __init__(self, uri: str, storage: Storage, *, skip_unreadable: bool = False) -> None:
        self.uri = storage.normalize(uri)
        self.storage = storage
        self.schema = SCHEMA
        """The columns of its files, the carried ones too; `SCHEMA` where there is no file yet."""
        self.files: list[TableFile] = []
        self.unreadable: dict[str, str] = {}
        """Files passed over, and why."""
        for file in self.file_uris():
            try:
                self.files.append(self.read_footer(file))
            except (UsageError, OSError, ValueError, TypeError, KeyError) as err:
                if not skip_unreadable:
                    raise
                self.unreadable[file] = str(err)

    def file_uris(self) -> list[str]:
        """Addresses of the Parquet files in its folder now, sorted."""
        prefix = self.uri.rstrip("/") + "/"
        try:
            entries = list(self.storage.glob(escape(prefix) + "*.parquet"))
        except StorageError as err:
            if err.kind == "not_found":
                return []
            raise
        return sorted(entry.uri for entry in entries)

    def read_footer(self, uri: str) -> TableFile:
        """What a file says of itself.

        Raises:
            UsageError: it is no readable Parquet file, or one that captionkit did not write.
        """
        with self.storage.open(uri) as stream:
            try:
                file = open_parquet(stream)
            except (pa.ArrowInvalid, OSError) as err:  # OSError is what a damaged footer raises
                raise UsageError(f"{uri} in the output folder is not a readable Parquet file: {err}") from err
        entry = TableFile(uri, file.metadata.num_rows, Footer.from_metadata(file.metadata.metadata, uri))
        self.schema = file.schema_arrow.remove_metadata()  # all files of a table have the same
        return entry

    def __len__(self) -> int:
        return sum(file.rows for file in self.files)

    def batches(
        self, columns: Sequence[str] | None = None, files: Iterable[TableFile] | None = None
    ) -> Iterator[tuple[TableFile, pa.RecordBatch]]:
        """The rows in batches of bounded size, each with the file that it lies in."""
        for file in self.files if files is None else files:
            with self.storage.open(file.uri) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(columns=columns):
                    yield file, batch

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        for _, batch in self.batches(columns):
            yield from batch.to_pylist()

    def ids(self) -> IdSet:
        """Every ``image_id`` in the table."""
        return IdSet(batch.column(0).to_numpy() for _, batch in self.batches(["image_id"]))

    def ids_within(self, containers: Iterable[str]) -> Ids:
        """The ids of the rows in those files that hold any row of these containers, sorted: (n,) int64."""
        wanted = set(containers)
        files = [file for file in self.files if not wanted.isdisjoint(file.footer.containers)]
        chunks = [batch.column(0).to_numpy() for _, batch in self.batches(["image_id"], files)]
        return np.unique(np.concatenate(chunks)) if chunks else np.empty(0, np.int64)

    def finished_containers(self) -> set[tuple[str, str]]:
        """Address and version of each container of which every row, as it was then, stands in the table."""
        rows, totals = Counter[tuple[str, str]](), set[tuple[str, str, int | None]]()
        doubtful: dict[tuple[str, str], list[Container]] = {}
        for file in self.files:
            for key, part in file.footer.containers.items():
                rows[key, part.version] += part.rows
                totals.add((key, part.version, part.total))
                if part.doubtful:
                    doubtful.setdefault((key, part.version), []).append(part)
        finished = {key for key, count in rows.items() if (*key, count) in totals and key not in doubtful}
        for uri, version, total in totals if doubtful else ():
            parts = doubtful.get((uri, version), ())
            if parts and total is not None:
                strays = sum(part.strays(uri, total) for part in parts)
                finished |= {(uri, version)} if rows[uri, version] - strays == total else set()
        return finished

    def drop(self, stale: Iterable[tuple[TableFile, pa.Array]]) -> int:
        """Take the rows of the given ids out; the number taken. Each file is replaced whole, in one atomic write.

        Args:
            stale: Pairs of a file and the sorted int64 ids of its rows to drop.
        """
        return sum(self._drop(file, partial(_has_id, ids)) for file, ids in stale)

    def drop_at(self, file: TableFile, places: Sequence[int]) -> int:
        """Take the rows at these places of a file out, as `drop` does; the number taken."""

        def chosen(rows: pa.Table) -> NDArray[np.bool_]:
            gone = np.zeros(len(rows), np.bool_)
            gone[places] = True
            return gone

        return self._drop(file, chosen)

    def replace(self, uri: str, rows: pa.Table, maker: Maker) -> pa.Table:
        """Put rows in the places of those with their ids, in one atomic write of the file: readers meet the one or the
        other.

        Args:
            rows: Made by `maker` in one run, with the columns of the table and `container_rows`; all ids are in the
                file.

        Returns:
            The rows that were there before, in the order of the file.
        """
        file = next(file for file in self.files if file.uri == uri)
        with self.storage.open(uri) as stream:
            old = pq.read_table(stream)
        new, run = rows.select(old.column_names).cast(old.schema), rows["run_id"][0].as_py()
        order = np.arange(len(old))
        ids = old["image_id"].to_numpy()
        by_id = np.argsort(ids, kind="stable")
        places = by_id[np.searchsorted(ids, new["image_id"].to_numpy(), sorter=by_id)]
        order[places] = len(old) + np.arange(len(new))
        made = pa.concat_tables([old, new]).take(pa.array(order))
        known = rows.filter(rows["container_rows"].is_valid()).select(["uri", "container_rows"]).to_pylist()
        for row in known:
            file.footer.containers[container_of(row["uri"])].total = row["container_rows"]
        footer = file.footer.with_runs(set(made["run_id"].unique().to_pylist()), {run: maker})
        self.storage.write(uri, to_parquet(made, footer))
        self.files[self.files.index(file)] = TableFile(uri, len(made), footer)
        return old.take(pa.array(np.sort(places)))

    def _drop(self, file: TableFile, choose: Callable[[pa.Table], NDArray[np.bool_]]) -> int:
        with self.storage.open(file.uri) as stream:
            rows = pq.read_table(stream)
        gone = choose(rows)
        if not gone.any():
            return 0
        kept = rows.filter(pa.array(~gone))
        if not len(kept):
            self.storage.delete(file.uri)
            self.files.remove(file)
            return len(rows)
        uris = rows.filter(pa.array(gone)).column("uri").to_pylist()
        lost, exact = Counter(map(container_of, uris)), set(uris)
        for key, container in file.footer.containers.items():
            container.rows -= lost[key]
            container.doubtful = [member for member in container.doubtful if f"{key}#{member}" not in exact]
            if key in exact:  # the row of a shard that broke: how many images it has was a guess
                container.total = None
        footer = file.footer
        if footer.runs:
            footer = footer.with_runs(set(kept["run_id"].unique().to_pylist()), {})
        self.storage.write(file.uri, to_parquet(kept, footer))
        self.files[self.files.index(file)] = TableFile(file.uri, len(kept), footer)
        return int(gone.sum())


def _has_id(ids: pa.Array, rows: pa.Table) -> NDArray[np.bool_]:
    return np.isin(rows["image_id"].to_numpy(), ids)


def _is_stray(container: str, member: str, total: int) -> bool:
    """Whether a container of so many rows has none of this member; see `Container.doubtful`."""
    page = page_of(f"{container}#{member}") if has_pages(container) else None
    if page is not None:
        return total == 1 or page > total  # of a file of one page the row is the file's own
    return not (is_parquet(container) and member.isdecimal() and int(member) < total)


def container_of(uri: str) -> str:
    """The address of the shard or file that a row's address lies in; its own, where it lies in none."""
    return split_member(uri)[0]


def to_parquet(table: pa.Table, footer: Footer) -> bytes:
    """One table file's bytes: zstd, row groups of 131,072 rows, the footer in its metadata."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(footer.to_metadata()),
        sink,
        compression="zstd",
        row_group_size=131_072,
    )
    return bytes(sink.getvalue())
