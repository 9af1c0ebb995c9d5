"""Images inside archives: a member of a tar, a row of a Parquet file."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.errors import UsageError
from captionkit.storage.archives import ARCHIVE_ERRORS, members, open_parquet, seekable
from captionkit.storage.errors import AddressError, Cause, StorageError, failure, redact

_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "img", "image_bytes", "bytes", "content", "data")


def read_member(file: BinaryIO, base: str, member: str, column: str | None = None) -> bytes:
    """The bytes of one member. Reads a tar from its start up to the member; of a Parquet file, one row group.

    Raises StorageError where the member is missing or the archive is broken.
    """
    try:
        if base.partition("?" if base.lower().startswith("http") else "\0")[0].lower().endswith(".parquet"):
            return _read_row(file, base, member, column)
        return _read_tar(file, base, member)
    except UsageError:
        raise
    except (*ARCHIVE_ERRORS, ValueError, ArithmeticError, LookupError) as error:
        raise failure("read_error", f"{base}#{member}", f"the archive is broken: {error}") from Cause.of(error)


def image_column(schema: pa.Schema, base: str, column: str | None = None) -> str:
    """The column that holds images: the one named, or else the one that looks like it.

    A image is bytes, or a struct with `bytes` in it (as Hugging Face datasets have it). Of several such
    columns a usual name wins. Raises UsageError where none or no single one is left.
    """
    holds: list[str] = [field.name for field in schema if holds_bytes(field.type)]
    if column is not None:
        if column not in holds:
            raise UsageError(f"{redact(base)} has no column {column!r} of bytes; it has {', '.join(holds) or 'none'}")
        return column
    usual = [name for name in _IMAGE_COLUMNS if name in holds]
    if usual:
        return usual[0]
    if len(holds) != 1:
        raise AddressError(f"{redact(base)}: which column holds the images? There are {', '.join(holds) or 'none'}")
    return holds[0]


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds images: bytes, or Hugging Face's struct with `bytes` in it."""
    if pa.types.is_struct(kind):
        return any(holds_bytes(field.type) for field in kind if field.name == "bytes")
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _read_tar(file: BinaryIO, base: str, member: str) -> bytes:
    wanted = member.removeprefix("./")
    for item in members(file):
        if item.name.removeprefix("./") == wanted:
            data = item.open().read()
            if len(data) != item.size:
                raise failure("read_error", f"{base}#{member}", "the archive is cut short")
            return data
    raise _missing(base, member, "no such member")


def _read_row(file: BinaryIO, base: str, member: str, column: str | None) -> bytes:
    with seekable(file) as stream:
        return _row_of(open_parquet(stream), base, member, column)


def _row_of(table: pq.ParquetFile, base: str, member: str, column: str | None) -> bytes:
    name = image_column(table.schema_arrow, base, column)
    if not member.isdecimal() or int(member) >= table.metadata.num_rows:
        raise _missing(base, member, f"no such row, there are {table.metadata.num_rows}")
    row, group = int(member), 0
    while row >= table.metadata.row_group(group).num_rows:
        row -= table.metadata.row_group(group).num_rows
        group += 1
    value = table.read_row_group(group, columns=[name]).column(name)[row].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise _missing(base, member, "the row has no image")
    return bytes(data)


def _missing(base: str, member: str, cause: str) -> StorageError:
    return failure("not_found", f"{base}#{member}", cause)
