"""Tables of Lance, Delta Lake and Iceberg, written by their own libraries: a version that appears when it is whole.

The libraries read a stream of record batches and write their own files; memory does not grow with the table.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any

import pyarrow as pa

from captionkit.errors import OutsideError, UsageError
from captionkit.export.options import ExportOptions
from captionkit.export.rows import Row
from captionkit.storage import Storage, StorageError, StorageOptions, public_uri, redact

LIBRARIES = {
    "lance": ("lance", "pip install pylance"),
    "delta": ("deltalake", "pip install deltalake"),
    "iceberg": ("pyiceberg", "pip install 'pyiceberg[pyarrow,sql-sqlite]'"),
}
"""What writes each format: module, and how to get it."""
BATCH = 8192
"""Rows of a batch."""
ICEBERG_FILE_BYTES = 64 * 2**20
"""Rows in memory that become one file of an Iceberg table: pyiceberg gathers as much as that."""
CATALOG = "catalog:"
"""What an output begins with that names an Iceberg table of a catalog rather than a folder."""
_MOMENT = pa.timestamp("us", tz="UTC")
_HINT = "version-hint.text"


def library(format: str) -> ModuleType:
    """The package that writes a format.

    Raises:
        UsageError: it is not installed.
    """
    name, command = LIBRARIES[format]
    try:
        if format == "iceberg":
            importlib.import_module("pyiceberg.catalog.sql")  # which wants SQLAlchemy
        return importlib.import_module(name)
    except ImportError as err:
        raise UsageError(f"--as {format} is written by {name}, which is not installed: {command}") from err


def lake_schema(columns: dict[str, str], schema: pa.Schema) -> pa.Schema:
    """The columns as all three can hold them: numbers, truth values, moments and `alternatives` stay; all else is text.

    Args:
        columns: of the table, by the names that they get.
        schema: of the table.
    """
    return pa.schema(
        [
            pa.field(name, _kind(schema.field(column).type) if column in schema.names else pa.string())
            for name, column in columns.items()
        ]
    )


def write_lake(
    rows: Iterable[Row],
    columns: dict[str, str],
    schema: pa.Schema,
    options: ExportOptions,
    storage: Storage,
    progress: Callable[[int], None],
) -> int:
    """Write rows as one version of a table; the number of rows.

    Args:
        schema: of the caption table.

    Raises:
        UsageError: the library is not installed, or there is a table already and `overwrite` was not asked for.
        StorageError: the caption table cannot be read, or the output not asked about.
        OutsideError: the library could not write it.
    """
    package, fields = library(options.format), lake_schema(columns, schema)
    written, failure = 0, list[BaseException]()

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal written
        left = iter(rows)
        try:
            while part := list(islice(left, BATCH)):
                arrays = [_array([row[column] for row in part], fields.field(name)) for name, column in columns.items()]
                yield pa.RecordBatch.from_arrays(arrays, schema=fields)
                written += len(part)
                progress(written)
        except BaseException as err:  # which the library would tell of in words of its own
            failure.append(err)
            raise

    reader = pa.RecordBatchReader.from_batches(fields, batches())
    try:
        if options.format == "lance":
            _write_lance(package, reader, options, storage)
        elif options.format == "delta":
            _write_delta(package, reader, options, storage)
        else:
            _write_iceberg(reader, options, storage)
    except (UsageError, StorageError, KeyboardInterrupt):
        raise
    except Exception as err:  # of whatever kind: each library has its own
        if failure:
            raise failure[0] from None
        message = redact(" ".join(str(err).split()))[:500]
        raise OutsideError(f"{package.__name__} could not write {public_uri(options.output)}: {message}") from err
    return written


def _write_lance(lance: Any, reader: pa.RecordBatchReader, options: ExportOptions, storage: Storage) -> None:
    exists = _check_free(options, storage)
    lance.write_dataset(
        reader,
        _address(options, storage),
        mode="overwrite" if exists else "create",
        storage_options=_object_store(storage.options),
    )


def _write_delta(deltalake: Any, reader: pa.RecordBatchReader, options: ExportOptions, storage: Storage) -> None:
    exists = _check_free(options, storage)
    deltalake.write_deltalake(
        _address(options, storage),
        reader,
        mode="overwrite" if exists else "error",
        schema_mode="overwrite" if exists else None,
        storage_options=_object_store(storage.options),
    )


def _write_iceberg(reader: pa.RecordBatchReader, options: ExportOptions, storage: Storage) -> None:
    """Into a catalog of the user's, or into a folder, by a catalog that is gone with this process."""
    from pyiceberg.catalog import load_catalog
    from pyiceberg.catalog.sql import SqlCatalog

    if options.output.startswith(CATALOG):
        name, _, identifier = options.output.removeprefix(CATALOG).partition("/")
        if not name or "." not in identifier:
            raise UsageError(
                f"{options.output}: expected {CATALOG}NAME/NAMESPACE.TABLE, as pyiceberg's settings have it"
            )
        catalog: Any = load_catalog(name)
        if catalog.table_exists(identifier) and not options.overwrite:
            raise UsageError(f"{options.output} is there already; --overwrite takes its place")
        _fill(catalog, identifier, reader)
        return
    exists = _check_free(options, storage)
    folder, identifier = _address(options, storage), "captions.captions"
    catalog = SqlCatalog("captionkit", uri="sqlite:///:memory:", **_iceberg_files(storage.options))
    catalog.create_namespace("captions")
    if exists:
        catalog.register_table(identifier, _newest_metadata(folder, storage))
    table = _fill(catalog, identifier, reader, folder)
    # What a folder has in a catalog's place: the name of the newest metadata, for the next export and for readers.
    newest = table.metadata_location.rpartition("/")[2].removesuffix(".metadata.json")
    storage.write(storage.join(folder, "metadata", _HINT), newest.encode())


def _fill(catalog: Any, identifier: str, reader: pa.RecordBatchReader, location: str | None = None) -> Any:
    """The table with these rows alone, in one commit."""
    from pyiceberg.expressions import AlwaysTrue

    if catalog.table_exists(identifier):
        table = catalog.load_table(identifier)
        with table.transaction() as change:
            with change.update_schema(allow_incompatible_changes=True) as columns:
                columns.union_by_name(reader.schema)
            change.delete(AlwaysTrue())
            change.append(reader)
        return catalog.load_table(identifier)
    properties = {"write.target-file-size-bytes": str(ICEBERG_FILE_BYTES)}
    with catalog.create_table_transaction(identifier, reader.schema, location, properties=properties) as change:
        change.append(reader)
    return catalog.load_table(identifier)


def _newest_metadata(folder: str, storage: Storage) -> str:
    try:
        hint = storage.read(storage.join(folder, "metadata", _HINT)).decode("utf-8", "replace").strip()
    except StorageError as err:
        if err.fatal or err.kind != "not_found":
            raise
        raise UsageError(f"{public_uri(folder)} holds files, and no Iceberg table that captionkit wrote") from err
    return storage.join(folder, "metadata", f"{hint}.metadata.json")


def _check_free(options: ExportOptions, storage: Storage) -> bool:
    """Whether there is something already, which --overwrite allows."""
    try:
        exists = next(iter(storage.list(_address(options, storage))), None) is not None
    except StorageError as err:
        if err.fatal or err.kind != "not_found":
            raise
        return False
    if exists and not options.overwrite:
        raise UsageError(f"{public_uri(options.output)} is there already; --overwrite makes a new version of the table")
    return exists


def _address(options: ExportOptions, storage: Storage) -> str:
    uri = storage.normalize(options.output).rstrip("/")
    return f"s3://{uri.removeprefix('s3a://')}" if uri.startswith("s3a://") else uri


def _object_store(options: StorageOptions) -> dict[str, str]:
    """Options of storage in the words of Rust's object_store; keys come from the environment, as everywhere."""
    if options.profile is not None:
        raise UsageError(
            "--profile: Lance and Delta do not read ~/.aws; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    settings: dict[str, str] = {}
    if (endpoint := _endpoint(options)) is not None:
        settings |= {"aws_endpoint": endpoint}
        settings |= {"aws_allow_http": "true"} if endpoint.startswith("http://") else {}
    if options.region is not None:
        settings["aws_region"] = options.region
    if options.anonymous:
        settings["aws_skip_signature"] = "true"
    return settings


def _endpoint(options: StorageOptions) -> str | None:
    """An S3 server other than Amazon's, from where captionkit's own storage has it."""
    return options.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _iceberg_files(options: StorageOptions) -> dict[str, str]:
    """The same in pyiceberg's words."""
    given = {
        "s3.endpoint": _endpoint(options),
        "s3.region": options.region,
        "s3.profile-name": options.profile,
        "s3.anonymous": "true" if options.anonymous else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _kind(kind: pa.DataType) -> pa.DataType:
    """The type that a column of the caption table is written as. Delta and Iceberg have no unsigned numbers."""
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_integer(kind) and kind != pa.uint64():
        return pa.int64() if kind.bit_width == 64 or kind == pa.uint32() else pa.int32()
    if types.is_boolean(kind) or types.is_float32(kind) or types.is_float64(kind):
        return kind
    if types.is_timestamp(kind):
        return _MOMENT if kind.tz else pa.timestamp("us")
    texts_with_scores = types.is_list(kind) and types.is_struct(kind.value_type)
    return kind if texts_with_scores and all(map(_is_flat, kind.value_type)) else pa.string()


def _is_flat(field: pa.Field) -> bool:
    return bool(pa.types.is_string(field.type) or pa.types.is_float32(field.type) or pa.types.is_float64(field.type))


def _array(values: list[Any], field: pa.Field) -> pa.Array:
    """A column of rows as `Selection.rows` gives them: moments as text, lists as lists."""
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.string()).cast(field.type)
    if pa.types.is_string(field.type):
        return pa.array([_text(value) for value in values], pa.string())
    return pa.array(values, field.type)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
