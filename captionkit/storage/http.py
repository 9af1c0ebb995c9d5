"""Web addresses, read only, through fsspec's HTTP filesystem."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from fsspec.asyn import sync

from captionkit.storage.addresses import Pattern
from captionkit.storage.backends import GuardedFile
from captionkit.storage.errors import (
    StorageError,
    UsageError,
    explain_os_error,
    explained,
    failure,
    redact,
)
from captionkit.storage.options import Entry

_BUSY = (429, 500, 502, 503, 504)
_PAUSES_S = (0.5, 2.0)


class HTTPBackend:
    """http:// and https:// addresses, spelled as URLs are (quoted, with a query if need be)."""

    def __init__(self) -> None:
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
        # trust_env: proxies and ~/.netrc, as every other tool on the machine has them
        self._fs = HTTPFileSystem(client_kwargs={"timeout": timeout, "trust_env": True}, skip_instance_cache=True)

    def read(self, address: str) -> bytes:
        for pause in _PAUSES_S:
            try:
                return self._read_once(address)
            except StorageError as error:
                # A busy server or a broken connection is asked again; one that is not there is not.
                status = getattr(error.__cause__, "status", None)
                if not (status in _BUSY if status else error.kind == "read_error"):
                    raise
            time.sleep(pause)
        return self._read_once(address)

    def _read_once(self, address: str) -> bytes:
        with explained(address, _explain):
            data: bytes = self._fs.cat_file(address)
        return data

    def open(self, address: str) -> BinaryIO:
        entry = self.stat(address)
        with explained(address, _explain):
            file = self._fs.open(address, "rb", size=entry.size)
        return io.BufferedReader(GuardedFile(file, address, _explain), 1 << 20)

    def stat(self, address: str) -> Entry:
        with explained(address, _explain):
            headers: Mapping[str, str] = sync(self._fs.loop, self._headers, address)
        # "bytes 0-0/1234" where one byte of 1234 came, else the length of all that would
        length = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
        version = etag.strip('"') if etag else f"{size}-{modified}" if modified else ""
        return Entry(address, size, version)

    async def _headers(self, address: str) -> Mapping[str, str]:
        headers: Mapping[str, str]
        session = await self._fs.set_session()
        url = self._fs.encode_url(address)
        plain = {"Accept-Encoding": "identity"}
        async with session.head(url, headers=plain, allow_redirects=True) as response:
            if response.status in (404, 410):
                response.raise_for_status()
            headers = response.headers
            if response.status < 400:
                return headers
        # Plenty of servers, and every presigned address, refuse a HEAD to what they serve: ask for one byte.
        async with session.get(url, headers={**plain, "Range": "bytes=0-0"}) as response:
            if response.status != 416:  # the answer for an empty file
                response.raise_for_status()
            headers = response.headers
            return headers

    def write(self, address: str, data: bytes) -> None:
        raise _read_only(address)

    def delete(self, address: str) -> None:
        raise _read_only(address)

    def arrow(self, address: str) -> tuple[str, Any]:
        raise _read_only(address)

    def is_folder(self, address: str) -> bool:
        return False

    def list(self, folder: str) -> Iterator[Entry]:
        raise UsageError(f"web addresses cannot be listed, give a list of them: {redact(folder)}")

    def glob(self, pattern: Pattern) -> Iterator[Entry]:
        return self.list(pattern.literal)


def _read_only(address: str) -> UsageError:
    return UsageError(f"web addresses can only be read: {redact(address)}")


def _explain(error: Exception, address: str) -> StorageError:
    status: Any = getattr(error, "status", None)
    if isinstance(status, int) and status >= 400:
        said = f"the server says {status} {getattr(error, 'message', '') or ''}".strip()
        if status in (404, 410):
            return failure("not_found", address, said)
        if status in (401, 403, 407, 451):
            return failure("permission", address, said)
        if status in (408, 504):
            return failure("timeout", address, said)
        return failure("read_error", address, said)
    families = {family.__name__ for family in type(error).__mro__}
    if families & {"ServerDisconnectedError", "ClientPayloadError", "ClientOSError"} and not (
        families & {"ClientConnectorError", "ClientConnectorDNSError"}
    ):
        return failure("read_error", address, "the connection broke")
    if "TimeoutError" in families and "connect" in str(error).lower():
        return failure("unreachable", address, "nothing answers there in time")
    if "ClientConnectorError" in families:
        return failure("unreachable", address, "no connection", "does the host exist?")
    if "InvalidURL" in families:
        return failure("not_found", address, "not a web address")
    return explain_os_error(error, address)
