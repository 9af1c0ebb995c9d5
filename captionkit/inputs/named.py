"""Whether what a command names is there: asked before anything slow is imported or read."""

from __future__ import annotations

from collections.abc import Iterable

from captionkit.errors import UsageError
from captionkit.storage import Storage, is_pattern, public_uri


def require(option: str, addresses: Iterable[str], storage: Storage) -> None:
    """Refuse addresses that stand for neither a file nor a folder. Of a pattern or a brace range the first will do.

    Raises:
        UsageError: nothing is there.
        StorageError: storage that cannot be read.
    """
    for address in addresses:
        one = next(storage.expand(address))
        if storage.exists(one) or storage.is_folder(one):
            continue
        if not is_pattern(one):
            raise UsageError(f"{option} {public_uri(one)}: no such file or folder")
        if next(storage.glob(one), None) is None:
            raise UsageError(f"{option} {public_uri(one)}: nothing fits this pattern")
