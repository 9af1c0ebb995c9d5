"""Images inside archives: a member of a tar, a row of a Parquet file."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from captionkit.errors import UsageError
from captionkit.storage.addresses import is_parquet
from captionkit.storage.archives import ARCHIVE_ERRORS, members, open_parquet, seekable
from captionkit.storage.errors import AddressError, Cause, StorageError, failure, redact


def read_member(file: BinaryIO, base: str, member: str, column: str | None = None) -> bytes:
    """The bytes of one member. Reads a tar from its start up to the member; of a Parquet file, one row group.

    Raises StorageError where the member is missing or the archive is broken.
    """
    try:
        if is_parquet(base):
            return _read_row(file, base, member, column)
        return _read_tar(file, base, member)
    except UsageError:
        raise
    except (*ARCHIVE_ERRORS, ValueError, ArithmeticError, LookupError) as error:
        raise failure("read_error", f"{base}#{member}", f"the archive is broken: {error}") from Cause.of(error)


def image_column(schema: pa.Schema, name: str | None = None) -> str | None:
    """The column of image bytes in a Parquet schema: the one named, else `image`, else the only one; None without any.

    Binary columns of every kind and Hugging Face's ``struct<bytes: binary, path: string>`` count. Captioning and
    whoever reads a row again (a page, say) choose by this one rule.

    Raises:
        UsageError: several columns would do, or the one named does not.
    """
    fitting: list[str] = [column.name for column in schema if holds_bytes(column.type)]
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
    name = image_column(table.schema_arrow, column)
    if name is None:
        raise AddressError(f"{redact(base)} has no column of image bytes")
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
