"""Any other storage that fsspec knows: gs://, az://, abfs://, hdfs://, sftp://, memory:// …"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO

import fsspec
from fsspec.registry import known_implementations
from pyarrow.fs import FSSpecHandler, PyFileSystem

from captionkit.storage.addresses import Pattern, is_hidden
from captionkit.storage.backends import GuardedFile
from captionkit.storage.errors import (
    UsageError,
    explain_os_error,
    explain_write_error,
    explained,
    failure,
    redact,
)
from captionkit.storage.options import Entry

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

    def __init__(self, scheme: str) -> None:
        if scheme in _WRAPPERS:
            raise UsageError(f"{scheme}:// cannot stand alone; use {_COMMON}")
        try:
            self._class = fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            raise missing_package(scheme) from error
        except ValueError as error:
            raise UsageError(f"unknown kind of address {scheme}://; use {_COMMON}") from error

    def read(self, address: str) -> bytes:
        fs, path = self._place(address)
        with explained(address, explain_os_error):
            data: bytes = fs.cat_file(path)
        return data

    def open(self, address: str) -> BinaryIO:
        fs, path = self._place(address)
        with explained(address, explain_os_error):
            file = fs.open(path, "rb")
        return io.BufferedReader(GuardedFile(file, address, explain_os_error), 1 << 20)

    def write(self, address: str, data: bytes) -> None:
        fs, path = self._place(address)
        with explained(address, explain_write_error):
            try:
                fs.pipe_file(path, data)
            except FileNotFoundError:  # storage with real folders wants them made first
                fs.makedirs(fs._parent(path), exist_ok=True)
                fs.pipe_file(path, data)

    def delete(self, address: str) -> None:
        fs, path = self._place(address)
        with explained(address, explain_write_error):
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                return

    def stat(self, address: str) -> Entry:
        fs, path = self._place(address)
        with explained(address, explain_os_error):
            fs.invalidate_cache()
            info = fs.info(path)
        if info["type"] == "directory":
            raise failure("not_found", address, "a folder, not a file")
        return _entry(address, info)

    def arrow(self, address: str) -> tuple[str, Any]:
        fs, path = self._place(address)
        return path, PyFileSystem(FSSpecHandler(fs))

    def is_folder(self, address: str) -> bool:
        fs, path = self._place(address)
        with explained(address, explain_os_error):
            return bool(fs.isdir(path))

    def list(self, folder: str) -> Iterator[Entry]:
        if not self.is_folder(folder):
            yield self.stat(folder)
            return
        start = folder.rstrip("/") + "/"
        for entry in self._walk(start):
            if not is_hidden(entry.uri[len(start) :]):
                yield entry

    def glob(self, pattern: Pattern) -> Iterator[Entry]:
        start = pattern.literal[: pattern.literal.rfind("/") + 1]
        if start.endswith("://"):
            raise UsageError(f"the first folder must not hold wildcards: {redact(pattern.literal)}*")
        if self.is_folder(start):
            yield from self._walk(start)

    def _walk(self, start: str) -> Iterator[Entry]:
        """Everything below a folder (with its slash), folder by folder, spelled as the folder is."""
        fs, root = self._place(start)
        root = root.rstrip("/")
        with explained(start, explain_os_error):
            fs.invalidate_cache()
            steps = fs.walk(root, detail=True, on_error="raise")
        while True:
            with explained(start, explain_os_error):
                step = next(steps, None)
            if step is None:
                return
            for info in step[2].values():
                yield _entry(start + info["name"][len(root) :].lstrip("/"), info)

    def _place(self, address: str) -> tuple[Any, str]:
        with explained(address, explain_os_error):
            try:
                fs = self._class(**self._class._get_kwargs_from_urls(address))
            except (TypeError, ValueError) as error:
                raise UsageError(f"{redact(address)}: this kind of address cannot stand alone") from error
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
