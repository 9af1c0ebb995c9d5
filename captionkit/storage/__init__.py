"""Everything about addresses: local paths, s3://, https:// and whatever else fsspec knows, by one interface.

    Storage(StorageOptions(endpoint_url="https://minio.example")).read("s3://archive/2024/cat.jpg")

An address is a string, spelled as its storage spells it. A member of a tar is `ADDRESS.tar#member/name.jpg`, a
row of a Parquet file `ADDRESS.parquet#17`. Failures are `StorageError` (what storage says, with a kind from a
closed set) or `UsageError` (what cannot work as written; `AddressError` where just this address cannot).

The names are imported when they are first used: a command's `--help` needs few of them.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.storage.addresses import (
        CONTAINER_NAME,
        PAGE,
        SHARD_SUFFIXES,
        escape,
        expand_braces,
        has_pages,
        is_parquet,
        is_pattern,
        join_member,
        page_of,
        spelled,
        split_member,
        without_page,
    )
    from captionkit.storage.errors import FAULTS, STORAGE_ERROR_KINDS, AddressError, StorageError
    from captionkit.storage.options import Entries, Entry, StorageOptions
    from captionkit.storage.redaction import public_uri, redact
    from captionkit.storage.retrying import retry_counts
    from captionkit.storage.store import Storage

__all__ = [
    "CONTAINER_NAME",
    "FAULTS",
    "PAGE",
    "SHARD_SUFFIXES",
    "STORAGE_ERROR_KINDS",
    "AddressError",
    "Entries",
    "Entry",
    "Storage",
    "StorageError",
    "StorageOptions",
    "escape",
    "expand_braces",
    "has_pages",
    "is_parquet",
    "is_pattern",
    "join_member",
    "page_of",
    "public_uri",
    "redact",
    "retry_counts",
    "spelled",
    "split_member",
    "without_page",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AddressError": "errors",
        "CONTAINER_NAME": "addresses",
        "Entries": "options",
        "Entry": "options",
        "FAULTS": "errors",
        "SHARD_SUFFIXES": "addresses",
        "STORAGE_ERROR_KINDS": "errors",
        "Storage": "store",
        "StorageError": "errors",
        "StorageOptions": "options",
        "escape": "addresses",
        "has_pages": "addresses",
        "is_parquet": "addresses",
        "PAGE": "addresses",
        "page_of": "addresses",
        "without_page": "addresses",
        "expand_braces": "addresses",
        "is_pattern": "addresses",
        "join_member": "addresses",
        "public_uri": "redaction",
        "redact": "redaction",
        "retry_counts": "retrying",
        "spelled": "addresses",
        "split_member": "addresses",
    },
)
