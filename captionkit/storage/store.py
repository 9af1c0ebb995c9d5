"""`Storage`: every address by one interface."""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from captionkit.storage import addresses
from captionkit.storage.addresses import Pattern, escape, expand_braces, is_pattern, split_member, split_scheme
from captionkit.storage.backends import Backend
from captionkit.storage.errors import AddressError, StorageError, failure, redact
from captionkit.storage.members import read_member
from captionkit.storage.options import Entries, Entry, StorageOptions
from captionkit.storage.spread import Spread

if TYPE_CHECKING:
    from captionkit.storage.local import LocalBackend

PROBE_S = 10.0
STAT_THREADS = 16
_DEFAULT_OPTIONS = StorageOptions()


class Storage:
    """Reads, writes and lists addresses of every kind.

    Carries only its options, so it pickles into workers small and without connections; these are made when
    first needed, once per process, and shared by all its threads. Every method takes addresses as people write
    them (see `normalize`), and raises StorageError for what storage says and UsageError for what cannot work.
    """

    def __init__(self, options: StorageOptions = _DEFAULT_OPTIONS) -> None:
        self.options = options

    def __repr__(self) -> str:
        return f"Storage({self.options!r})"

    def normalize(self, uri: str) -> str:
        """The one spelling of an address: local paths absolute and without file://, the rest as it is."""
        return addresses.normalize(uri)

    def join(self, base: str, *parts: str) -> str:
        """The address of something below a folder."""
        return addresses.join(base, *parts)

    def read(self, uri: str, column: str | None = None) -> bytes:
        """The whole object, or member of an archive; for a page the file that it is of. column: of a Parquet file,
        where it is not evident."""
        base, member, backend = self._resolve(addresses.without_page(uri))
        if member is None:
            return backend.read(base)
        with backend.open(base) as file:
            return read_member(file, base, member, column)

    def open(self, uri: str) -> BinaryIO:
        """The object as a seekable file that is read as it comes. Close it. Members of archives are not opened."""
        address, backend = self._object(uri)
        return backend.open(address)

    def write(self, uri: str, data: bytes) -> None:
        """Makes an object of these bytes, whole or not at all, in place of what was there. Makes folders."""
        address, backend = self._object(uri)
        backend.write(address, data)

    @contextmanager
    def create(self, uri: str) -> Iterator[BinaryIO]:
        """A file to write to, of any length: its object appears when the block ends, whole, in place of what was there;
        not at all where the block raises. Locally it grows beside its place, for other storage in a temporary file."""
        address, backend = self._object(uri)
        with backend.create(address) as file:
            yield file

    def delete(self, uri: str) -> None:
        """Removes an object; one that is not there is no error."""
        address, backend = self._object(uri)
        backend.delete(address)

    def create_if_absent(self, uri: str, data: bytes) -> bool | None:
        """Make an object if there is none of that name, whoever else tries at the same time: whether this call made it.

        None where this kind of storage offers no such write; nothing is written then.
        """
        address, backend = self._object(uri)
        return backend.create_if_absent(address, data)

    def read_with_age(self, uri: str) -> tuple[bytes, float | None]:
        """An object, and the seconds since it was written by the storage's own clock; None where it has no clock."""
        address, backend = self._object(uri)
        return backend.read_with_age(address)

    def stat(self, uri: str) -> Entry:
        """Size and version of an object. A member of an archive has its archive's version and no size."""
        base, member, backend = self._resolve(uri)
        entry = backend.stat(base)
        return entry if member is None else Entry(f"{base}#{member}", None, entry.version)

    def arrow(self, uri: str) -> tuple[str, Any]:
        """Path and pyarrow filesystem (None: the local one) of an address, for libraries that take only those.

        Raises:
            UsageError: a kind of storage that cannot be written.
        """
        address, backend = self._object(uri)
        return backend.arrow(address)

    def check_writable(self, folder: str) -> None:
        """Writes and removes a small object below a folder, so that what cannot be is known before any work.

        Raises:
            StorageError: nothing can be written there (fatal). Faults are waited out for `PROBE_S` seconds only.
            UsageError: nothing can be written to addresses of this kind.
        """
        # Others may look into the folder meanwhile: readers of Parquet pass over names with an underscore.
        probe = self.join(self.normalize(folder), f"_probe-{secrets.token_hex(4)}")
        seconds = min(PROBE_S, self.options.retry_seconds)
        hasty = Storage(replace(self.options, retry_seconds=seconds))
        try:
            hasty.write(probe, b"This may be deleted.\n")
            hasty.delete(probe)
        except StorageError as error:
            raise StorageError(error.kind, f"cannot write: {error}", True, error.fault) from error.__cause__

    def without_scheme_limit(self) -> Storage:
        """The same without `StorageOptions.schemes`: for what the user named, not what stands in a list."""
        return Storage(replace(self.options, schemes=()))

    def exists(self, uri: str) -> bool:
        """Whether there is an object (not a folder) at this address."""
        try:
            self.stat(uri)
        except StorageError as error:
            if error.kind == "not_found" and not error.fatal:
                return False
            raise
        return True

    def is_folder(self, uri: str) -> bool:
        """Whether there is something below this address; always so for a bucket, never on the web."""
        address, backend = self._object(uri)
        return backend.is_folder(address)

    def region(self, uri: str) -> str | None:
        """The region that an address's bucket lies in; None where there is no bucket, or storage does not say."""
        address, backend = self._object(uri)
        return backend.region(address)

    def expand(self, address: str) -> Iterator[str]:
        """What the braces in an address stand for (see `expand_braces`); itself where something has that very name."""
        if next(expand_braces(address)) == address or self.exists(address) or self.is_folder(address):
            yield address
        else:
            yield from expand_braces(address)

    def list(self, prefix: str, spread: Spread | None = None) -> Iterator[Entry]:
        """Everything below a folder, as a stream in constant memory; or just the one object. In no order, but for S3,
        which lists in that of keys.

        The address is taken literally, wildcards and all. Names that begin with a dot, and what is below
        them, are left out, and so are S3's empty markers of folders. Links are followed. Raises StorageError
        "not_found" where there is neither folder nor object, and for any folder that cannot be read: a listing
        is complete or fails.

        A long listing of S3 is made by ranges of keys side by side, in the same order.

        spread: where these are listed; else on threads of this process.
        """
        address, backend = self._object(prefix)
        if prefix.endswith("/") and not address.endswith("/"):
            address += "/"  # a local path has lost it; it says that a folder is meant
        yield from backend.list(address, spread)

    def list_batches(self, prefix: str, spread: Spread | None = None) -> Iterator[Entry | Entries]:
        """`list`, many entries at a time where storage is quick enough for that to matter: on a local disk."""
        address, backend = self._object(prefix)
        if "://" in address:
            yield from self.list(prefix, spread)
        else:
            yield from cast("LocalBackend", backend).list_batches(f"{address}/" if prefix.endswith("/") else address)

    def glob(self, pattern: str, spread: Spread | None = None) -> Iterator[Entry]:
        """Objects that match `*`, `?`, `[…]` (within a name) and `**` (any folders), as a stream.

        Storage is listed from the longest part without wildcards; locally, only folders that can match.
        Wildcards pass over names that begin with a dot. A folder whose very name has what looks like wildcards is
        meant literally (`arch [2014]/*.jpg`). spread: as of `list`.
        """
        address, backend = self._object(pattern)
        compiled = Pattern(self._with_literal_folders(address))
        return (entry for entry in backend.glob(compiled, spread) if compiled.matches(entry.uri))

    def _with_literal_folders(self, pattern: str) -> str:
        names = pattern.split("/")
        for end in range(len(names) - 1, 0, -1):
            folder = "/".join(names[:end])
            if is_pattern(names[end - 1]) and "**" not in folder and self.is_folder(folder):
                return "/".join([escape(folder), *names[end:]])
        return pattern

    def stat_many(self, uris: Iterable[str], concurrency: int = 64) -> Iterator[Entry]:
        """`stat` for a stream of addresses, in their order, `concurrency` at a time, a bounded number ahead.

        What cannot be asked about (missing, forbidden, not answering, no address at all) has size None and version "",
        and will say why when it is read. Raises only what every other address would raise too: fatal StorageErrors,
        and UsageErrors that are no AddressErrors.
        """
        archives: OrderedDict[str, Future[Entry]] = OrderedDict()
        waiting: deque[tuple[str, str | None, Future[Entry]]] = deque()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="stat") as pool:
            try:
                for uri in uris:
                    try:
                        base, member = split_member(addresses.normalize(uri))
                    except AddressError as error:
                        waiting.append((addresses.spelled(uri), None, _failed(error)))
                        continue
                    answer = archives.get(base) if member is not None else None
                    if answer is None:
                        answer = self._asked(base, pool)
                    if member is not None:  # thousands of members in a row share one archive: ask once
                        archives[base] = answer
                        if len(archives) > 256:
                            archives.popitem(last=False)
                    waiting.append((base, member, answer))
                    if len(waiting) > 4 * concurrency:
                        yield _answered(*waiting.popleft())
                while waiting:
                    yield _answered(*waiting.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def stat_all(self, uris: Sequence[str]) -> tuple[Entry, ...]:
        """`stat_many` of some hundred addresses, as one of many tasks that do so at a time."""
        return tuple(self.stat_many(uris, STAT_THREADS))

    def _asked(self, base: str, pool: ThreadPoolExecutor) -> Future[Entry]:
        try:
            return pool.submit(self._resolve(base)[2].stat, base)
        except (StorageError, AddressError) as error:  # forbidden
            return _failed(error)

    def _resolve(self, uri: str) -> tuple[str, str | None, Backend]:
        base, member = split_member(addresses.normalize(uri))
        scheme = split_scheme(base)[0]
        allowed = self.options.schemes
        if allowed and (scheme or "file") not in allowed:
            message = f"{scheme or 'file'} is not among the schemes allowed: {', '.join(allowed)}"
            raise failure("forbidden", base, message)
        return base, member, _backend(scheme, self.options)

    def _object(self, uri: str) -> tuple[str, Backend]:
        base, member, backend = self._resolve(uri)
        if member is not None:
            raise AddressError(f"only reading works inside an archive: {redact(uri)}")
        return base, backend


def _failed(error: Exception) -> Future[Entry]:
    answer: Future[Entry] = Future()
    answer.set_exception(error)
    return answer


def _answered(base: str, member: str | None, answer: Future[Entry]) -> Entry:
    address = base if member is None else f"{base}#{member}"
    try:
        entry = answer.result()
    except StorageError as error:
        if error.fatal:
            raise
        return Entry(address, None, "")
    except AddressError:
        return Entry(address, None, "")
    return Entry(address, entry.size if member is None else None, entry.version)


_S3_SCHEMES = ("s3", "s3a")
_backends: dict[tuple[object, ...], Backend] = {}


def _backend(scheme: str, options: StorageOptions) -> Backend:
    """The connections of this process for this kind of address.

    Made anew after a fork, whose child must not use its parent's sockets and event loop, and when the
    environment names another server or other keys.
    """
    environment: tuple[object, ...] = ()
    if scheme in _S3_SCHEMES:
        environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    if options.schemes:  # asked of every address; of the web also where a redirect leads
        web = tuple(name for name in ("http", "https") if name in options.schemes)
        options = replace(options, schemes=web if scheme in web and len(web) == 1 else ())
    key = (os.getpid(), scheme, options, environment)
    backend = _backends.get(key)
    if backend is None:
        backend = _backends.setdefault(key, _make_backend(scheme, options))
    return backend


def _make_backend(scheme: str, options: StorageOptions) -> Backend:
    # Imported when needed: each of them takes a second that local work need not wait for.
    if scheme == "":
        from captionkit.storage.local import LocalBackend

        return LocalBackend()
    from captionkit.storage.generic import GenericBackend, missing_package

    try:
        if scheme in _S3_SCHEMES:
            from captionkit.storage.s3 import S3Backend

            return S3Backend(scheme, options)
        if scheme in ("http", "https"):
            from captionkit.storage.http import HTTPBackend

            return HTTPBackend(options)
    except ImportError as error:
        raise missing_package("s3" if scheme in _S3_SCHEMES else scheme) from error
    return GenericBackend(scheme, options)
