"""Listing of the images of a corpus: folders, prefixes, patterns and shards, each listed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from captionkit.corpus.record import CorpusError
from captionkit.errors import UsageError
from captionkit.storage import SHARD_SUFFIXES, Entry, Storage, is_pattern, join_member, redact
from captionkit.storage.archives import ARCHIVE_ERRORS, listing


def list_images(storage: Storage, places: str | Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of (name relative to the place, address) of all files, in any order. Files are not opened.

    Args:
        places: folders, prefixes, patterns (`shards/train-*.tar`), brace ranges (`train-{000..127}.tar`), files. A
            shard (tar, compressed or not, or zip), given or found in a folder, yields its members
            (`shard.tar#name.jpg`).

    Raises:
        StorageError: a place that does not exist, or cannot be listed.
        UsageError: web addresses, which cannot be listed.
        CorpusError: a pattern that matches nothing, or a broken shard.
    """
    named = [places] if isinstance(places, str) else places
    for place in (one for name in named for one in storage.expand(name)):
        root = storage.normalize(place).rstrip("/")
        any_image = False
        for entry in _entries(storage, place):
            any_image = True
            if entry.uri.lower().endswith(SHARD_SUFFIXES):
                yield from _members(storage, entry.uri)
            else:
                below = entry.uri.startswith(f"{root}/")
                yield (entry.uri[len(root) + 1 :] if below else entry.uri.rpartition("/")[2]), entry.uri
        if not any_image:
            raise CorpusError(f"{redact(place)}: this pattern matches no file")


def _entries(storage: Storage, place: str) -> Iterator[Entry]:
    if is_pattern(place) and not storage.is_folder(place):
        yield from storage.glob(place)
    else:
        yield from storage.list(place)


def _members(storage: Storage, shard: str) -> Iterator[tuple[str, str]]:
    try:
        with storage.open(shard) as stream:
            for member in listing(stream):
                yield member.name.removeprefix("./"), join_member(shard, member.name)
    except UsageError:
        raise
    except (*ARCHIVE_ERRORS, ValueError, ArithmeticError, LookupError) as error:  # a StorageError is not among these
        raise CorpusError(f"{redact(shard)}: the shard is broken: {error}") from error
