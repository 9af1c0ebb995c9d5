"""Any other storage that fsspec knows: gs://, az://, abfs://, hdfs://, sftp://, memory:// …"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.registry import known_implementations
from pyarrow.fs import FSSpecHandler, PyFileSystem

from captionkit.errors import UsageError
from captionkit.storage.addresses import Pattern, is_hidden
from captionkit.storage.backends import spooled
from captionkit.storage.errors import (
    AddressError,
    Explain,
    explain_os_error,
    explain_write_error,
    explained,
    failure,
    redact,
)
from captionkit.storage.options import Entry, StorageOptions
from captionkit.storage.ranges import ResumedFile, buffered
from captionkit.storage.retrying import Retries
from captionkit.storage.spread import Spread

T = TypeVar("T")

# Which package brings a scheme, where its name does not say so.
_PACKAGES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "hf": "huggingface_hub",
    "oss": "ossfs",
    "oci": "ocifs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
    "webdav": "webdav4",
    "dropbox": "dropboxdrivefs",
    "gdrive": "gdrive-fsspec",
    "lakefs": "lakefs-spec",
    "box": "boxfs",
    "tos": "tosfs",
    "git": "pygit2",
    "github": "requests",
    "webhdfs": "requests",
    "s3": "s3fs",
    "http": "aiohttp",
    "https": "aiohttp",
}
# Filesystems over other filesystems, which take more than an address.
_WRAPPERS = ("zip", "tar", "libarchive", "reference", "dir", "simplecache", "filecache", "blockcache", "cached")
_COMMON = "a local path, s3://, gs://, az://, https://"


def missing_package(scheme: str) -> UsageError:
    """What to install for a scheme that fsspec knows."""
    package = _PACKAGES.get(scheme)
    known = known_implementations.get(scheme, {}).get("err", "")
    return UsageError(f"{scheme}:// needs a package: pip install {package}" if package else known)


class GenericBackend:
    """One scheme's filesystem, as fsspec makes it from its defaults and the environment."""

    def __init__(self, scheme: str, options: StorageOptions) -> None:
        if scheme in _WRAPPERS:
            raise AddressError(f"{scheme}:// cannot stand alone; use {_COMMON}")
        try:
            self._class = fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            raise missing_package(scheme) from error
        except ValueError as error:
            raise AddressError(f"unknown kind of address {scheme}://; use {_COMMON}") from error
        self._retries = Retries(options.retries, options.retry_seconds)

    def read(self, address: str) -> bytes:
        fs, path = self._place(address)
        data: bytes = self._patiently(address, lambda: fs.cat_file(path))
        return data

    def open(self, address: str) -> BinaryIO:
        fs, path = self._place(address)
        return buffered(ResumedFile(address, lambda: fs.open(path, "rb"), explain_os_error, self._retries))

    def write(self, address: str, data: bytes) -> None:
        fs, path = self._place(address)

        def put() -> None:
            try:
                fs.pipe_file(path, data)
            except FileNotFoundError:  # storage with real folders wants them made first
                fs.makedirs(fs._parent(path), exist_ok=True)
                fs.pipe_file(path, data)

        self._patiently(address, put, explain_write_error)

    def create(self, address: str) -> AbstractContextManager[BinaryIO]:
        def publish(file: BinaryIO, _: int) -> None:
            fs, path = self._place(address)

            def put() -> None:
                fs.makedirs(fs._parent(path), exist_ok=True)
                fs.put_file(file.name, path)

            self._patiently(address, put, explain_write_error)

        return spooled(publish)

    def delete(self, address: str) -> None:
        fs, path = self._place(address)

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                fs.rm_file(path)

        self._patiently(address, remove, explain_write_error)

    def create_if_absent(self, address: str, data: bytes) -> None:
        return None

    def read_with_age(self, address: str) -> tuple[bytes, None]:
        return self.read(address), None

    def stat(self, address: str) -> Entry:
        fs, path = self._place(address)

        def ask() -> Any:
            fs.invalidate_cache()
            return fs.info(path)

        info = self._patiently(address, ask)
        if info["type"] == "directory":
            raise failure("not_found", address, "a folder, not a file")
        return _entry(address, info)

    def arrow(self, address: str) -> tuple[str, Any]:
        fs, path = self._place(address)
        return path, PyFileSystem(FSSpecHandler(fs))

    def is_folder(self, address: str) -> bool:
        fs, path = self._place(address)

        def ask() -> bool:
            try:
                return bool(fs.info(path)["type"] == "directory")  # fs.isdir takes a broken connection for a no
            except FileNotFoundError:
                return False

        return self._patiently(address, ask)

    def list(self, folder: str, spread: Spread | None = None) -> Iterator[Entry]:
        if not self.is_folder(folder):
            yield self.stat(folder)
            return
        start = folder.rstrip("/") + "/"
        for entry in self._walk(start):
            if not is_hidden(entry.uri[len(start) :]):
                yield entry

    def glob(self, pattern: Pattern, spread: Spread | None = None) -> Iterator[Entry]:
        start = pattern.literal[: pattern.literal.rfind("/") + 1]
        if start.endswith("://"):
            raise UsageError(f"the first folder must not hold wildcards: {redact(pattern.literal)}*")
        if self.is_folder(start):
            yield from self._walk(start)

    def region(self, address: str) -> str | None:
        return None

    def _walk(self, start: str) -> Iterator[Entry]:
        """Everything below a folder (with its slash), folder by folder, spelled as the folder is."""
        fs, root = self._place(start)
        root = root.rstrip("/")
        fs.invalidate_cache()
        folders = [root]
        while folders:
            folder = folders.pop()
            for info in self._patiently(start, partial(fs.ls, folder, detail=True)):
                name = info["name"].rstrip("/")
                if info["type"] != "directory":
                    yield _entry(start + info["name"][len(root) :].lstrip("/"), info)
                elif name != folder:
                    folders.append(name)

    def _patiently(self, address: str, action: Callable[[], T], explain: Explain = explain_os_error) -> T:
        def explained_action() -> T:
            with explained(address, explain):
                return action()

        return self._retries.call(explained_action)

    def _place(self, address: str) -> tuple[Any, str]:
        with explained(address, explain_os_error):
            try:
                fs = self._class(**self._class._get_kwargs_from_urls(address))
            except (TypeError, ValueError) as error:
                raise AddressError(f"{redact(address)}: this kind of address cannot stand alone") from error
        return fs, self._class._strip_protocol(address)


def _entry(uri: str, info: dict[str, Any]) -> Entry:
    size = info.get("size")
    for name in ("ETag", "etag", "generation", "md5Hash", "content_md5"):
        if info.get(name):
            return Entry(uri, size, str(info[name]).strip('"'))
    for name in ("mtime", "modified", "last_modified", "LastModified", "updated", "created"):
        changed = info.get(name)
        if changed:
            # Some filesystems give a number in listings and a date elsewhere: make one spelling of both.
            moment = changed.timestamp() if isinstance(changed, datetime) else changed
            return Entry(uri, size, f"{size}-{moment:.3f}" if isinstance(moment, float) else f"{size}-{moment}")
    return Entry(uri, size, "")
