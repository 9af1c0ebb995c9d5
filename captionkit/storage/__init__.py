"""Everything about addresses: local paths, s3://, https:// and whatever else fsspec knows, by one interface.

    Storage(StorageOptions(endpoint_url="https://minio.example")).read("s3://archive/2024/cat.jpg")

An address is a string, spelled as its storage spells it. A member of a tar is `ADDRESS.tar#member/name.jpg`, a
row of a Parquet file `ADDRESS.parquet#17`. Failures are `StorageError` (what storage says, with a kind from a
closed set) or `UsageError` (what cannot work as written; `AddressError` where just this address cannot).

The names are imported when they are first used: a command's `--help` needs few of them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captionkit.storage.addresses import (
        CONTAINER_NAME,
        SHARD_SUFFIXES,
        escape,
        expand_braces,
        is_pattern,
        join_member,
        spelled,
        split_member,
    )
    from captionkit.storage.errors import FAULTS, STORAGE_ERROR_KINDS, AddressError, StorageError
    from captionkit.storage.options import Entry, StorageOptions
    from captionkit.storage.redaction import public_uri, redact
    from captionkit.storage.retrying import retry_counts
    from captionkit.storage.store import Storage

__all__ = [
    "CONTAINER_NAME",
    "FAULTS",
    "SHARD_SUFFIXES",
    "STORAGE_ERROR_KINDS",
    "AddressError",
    "Entry",
    "Storage",
    "StorageError",
    "StorageOptions",
    "escape",
    "expand_braces",
    "is_pattern",
    "join_member",
    "public_uri",
    "redact",
    "retry_counts",
    "spelled",
    "split_member",
]

_HOMES = {
    "AddressError": "captionkit.storage.errors",
    "CONTAINER_NAME": "captionkit.storage.addresses",
    "Entry": "captionkit.storage.options",
    "FAULTS": "captionkit.storage.errors",
    "SHARD_SUFFIXES": "captionkit.storage.addresses",
    "STORAGE_ERROR_KINDS": "captionkit.storage.errors",
    "Storage": "captionkit.storage.store",
    "StorageError": "captionkit.storage.errors",
    "StorageOptions": "captionkit.storage.options",
    "escape": "captionkit.storage.addresses",
    "expand_braces": "captionkit.storage.addresses",
    "is_pattern": "captionkit.storage.addresses",
    "join_member": "captionkit.storage.addresses",
    "public_uri": "captionkit.storage.redaction",
    "redact": "captionkit.storage.redaction",
    "retry_counts": "captionkit.storage.retrying",
    "spelled": "captionkit.storage.addresses",
    "split_member": "captionkit.storage.addresses",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
