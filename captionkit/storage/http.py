"""Web addresses, read only, through aiohttp."""

from __future__ import annotations

import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urljoin

from fsspec.asyn import sync

from captionkit._version import __version__
from captionkit.errors import UsageError
from captionkit.storage.addresses import Pattern
from captionkit.storage.errors import (
    StorageError,
    explain_os_error,
    explained,
    failure,
    fault_of,
    no_such_host,
    redact,
    retry_after,
)
from captionkit.storage.options import Entry, StorageOptions
from captionkit.storage.ranges import Body, Changed, RangeFile, ResumedFile, buffered, changed, cut_short
from captionkit.storage.retrying import Retries
from captionkit.storage.spread import Spread

T = TypeVar("T")

WEB = ("http", "https")
_HOSTS = 4096
# Unpacked on the way, bytes could not be counted; and images do not become smaller.
_PLAIN = {"Accept-Encoding": "identity"}


class HTTPBackend:
    """http:// and https:// addresses, spelled as URLs are (quoted, with a query if need be)."""

    def __init__(self, options: StorageOptions) -> None:
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem

        self._options = options
        self._schemes = options.schemes or WEB
        wait = options.timeout_seconds
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(15.0, wait), sock_read=wait)
        watch = aiohttp.TraceConfig()
        watch.on_request_redirect.append(self._redirected)
        # trust_env: proxies and ~/.netrc, as every other tool on the machine has them
        self._fs = HTTPFileSystem(
            client_kwargs={
                "timeout": timeout,
                "trust_env": True,
                "trace_configs": [watch],
                "headers": {"User-Agent": options.user_agent or user_agent()},
            },
            skip_instance_cache=True,
        )
        self._hosts: OrderedDict[str, Retries] = OrderedDict()
        self._lock = threading.Lock()

    async def _redirected(self, _session: Any, _context: Any, redirect: Any) -> None:
        """Asked before a redirect is followed: a server may not lead where its address itself would not be let."""
        headers = redirect.response.headers
        target = urljoin(str(redirect.url), headers.get("Location") or headers.get("URI") or "")
        scheme = target.partition(":")[0].lower()
        if scheme not in self._schemes:
            redirect.response.close()
            allowed = ", ".join(self._schemes)
            raise failure(
                "forbidden", str(redirect.url), f"it leads on to {scheme}, and here only {allowed} may be read"
            )

    def read(self, address: str) -> bytes:
        return self._body(address, Body(patience=self._options.timeout_seconds))

    def open(self, address: str) -> BinaryIO:
        headers = self._headers(address)
        entry = _entry(address, headers)
        ranged = _ranged(headers) or _ranged(self._headers(address, part=True))

        def fetch(start: int, end: int) -> bytes:
            return self._body(address, Body(start, end, _mark(headers), self._options.timeout_seconds))

        def stream() -> BinaryIO:
            file: BinaryIO = self._fs.open(address, "rb", block_size=0, size=1)  # size: so that it does not ask
            return file

        if entry.size is not None and ranged:
            return buffered(RangeFile(entry.size, fetch))
        return buffered(ResumedFile(address, stream, _explain, self._retries(address), seekable=False))

    def create_if_absent(self, address: str, data: bytes) -> None:
        return None

    def read_with_age(self, address: str) -> tuple[bytes, None]:
        return self.read(address), None

    def stat(self, address: str) -> Entry:
        return _entry(address, self._headers(address))

    def _headers(self, address: str, part: bool = False) -> Mapping[str, str]:
        headers: Mapping[str, str] = self._patiently(address, lambda: sync(self._fs.loop, self._ask, address, part))
        return headers

    async def _ask(self, address: str, part: bool) -> Mapping[str, str]:
        """The headers of an object; part: of an answer with its first byte."""
        headers: Mapping[str, str]
        session = await self._fs.set_session()
        url = self._fs.encode_url(address)
        if not part:
            async with session.head(url, headers=_PLAIN, allow_redirects=True) as response:
                if response.status in (404, 410) or fault_of(response.status):
                    response.raise_for_status()
                headers = response.headers
                if response.status < 400:
                    return headers
        # Plenty of servers, and every presigned address, refuse a HEAD to what they serve: ask for one byte.
        async with session.get(url, headers={**_PLAIN, "Range": "bytes=0-0"}) as response:
            if response.status != 416:  # the answer for an empty file
                response.raise_for_status()
            headers = response.headers
            return headers

    def _body(self, address: str, body: Body) -> bytes:
        fixed = bool(body.version)

        def receive() -> None:
            if body.done:  # the last try broke after the last byte
                return
            try:
                sync(self._fs.loop, self._receive, address, body)
            except Changed:
                raise changed(address, fixed) from None
            if not body.whole:
                raise cut_short(address)

        self._patiently(address, receive, progress=lambda: len(body.data))
        return bytes(body.data)

    async def _receive(self, address: str, body: Body) -> None:
        session = await self._fs.set_session()
        asked = {**_PLAIN, "Range": body.range} if body.range else _PLAIN
        async with session.get(self._fs.encode_url(address), headers=asked) as response:
            response.raise_for_status()
            headers = response.headers
            packed = headers.get("Content-Encoding", "identity") != "identity"  # against our wish
            first, total = 0, None if packed else headers.get("Content-Length")
            if response.status == 206:
                place, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
                first = int(place.partition("-")[0] or 0)
            body.begin(_mark(headers), first, int(total) if total and total.isdecimal() else None)
            async for chunk in response.content.iter_any():
                body.add(chunk)
                if body.done:
                    break

    def _patiently(self, address: str, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        def explained_action() -> T:
            with explained(address, _explain):
                return action()

        return self._retries(address).call(explained_action, progress)

    def _retries(self, address: str) -> Retries:
        """The patience for an address's host: that one of them is gone says nothing of the others."""
        host = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
        with self._lock:
            retries = self._hosts.pop(host, None) or Retries(
                self._options.retries, self._options.retry_seconds, wary=True
            )
            self._hosts[host] = retries  # at the end: asked for last
            if len(self._hosts) > _HOSTS:
                self._hosts.popitem(last=False)
        return retries

    def write(self, address: str, data: bytes) -> None:
        raise _read_only(address)

    def create(self, address: str) -> AbstractContextManager[BinaryIO]:
        raise _read_only(address)

    def delete(self, address: str) -> None:
        raise _read_only(address)

    def arrow(self, address: str) -> tuple[str, Any]:
        raise _read_only(address)

    def is_folder(self, address: str) -> bool:
        return False

    def list(self, folder: str, spread: Spread | None = None) -> Iterator[Entry]:
        raise UsageError(f"web addresses cannot be listed, give a list of them: {redact(folder)}")

    def glob(self, pattern: Pattern, spread: Spread | None = None) -> Iterator[Entry]:
        return self.list(pattern.literal)

    def region(self, address: str) -> str | None:
        return None


def _entry(address: str, headers: Mapping[str, str]) -> Entry:
    # "bytes 0-0/1234" where one byte of 1234 came, else the length of all that would
    length = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    mark = _mark(headers)
    return Entry(address, size, mark if "ETag" in headers or not mark else f"{size}-{mark}")


def _mark(headers: Mapping[str, str]) -> str:
    """What changes with the content: the ETag, or else the date."""
    return headers.get("ETag", "").strip('"') or headers.get("Last-Modified", "")


def _ranged(headers: Mapping[str, str]) -> bool:
    return headers.get("Accept-Ranges", "").lower() == "bytes" or "Content-Range" in headers


def _read_only(address: str) -> UsageError:
    return UsageError(f"web addresses can only be read: {redact(address)}")


def _explain(error: Exception, address: str) -> StorageError:
    status: Any = getattr(error, "status", None)
    families = {family.__name__ for family in type(error).__mro__}
    if isinstance(status, int) and status >= 400:
        message = f"the server says {status} {getattr(error, 'message', '') or ''}".strip()
        if status in (404, 410):
            return failure("not_found", address, message)
        if status in (401, 403, 407, 451):
            return failure("permission", address, message)
        fault, headers = fault_of(status), getattr(error, "headers", None) or {}
        kind = "timeout" if fault == "timeout" else "read_error"
        return failure(kind, address, message, fault=fault, after=retry_after(headers.get("Retry-After")))
    if "ClientConnectorDNSError" in families or isinstance(getattr(error, "os_error", None), socket.gaierror):
        return no_such_host(getattr(error, "os_error", error), address)
    if "TimeoutError" in families and "connect" in str(error).lower():
        return failure("unreachable", address, "nothing answers there in time", fault="unreachable")
    if families & {"ClientConnectorCertificateError", "ClientSSLError"}:
        return failure("unreachable", address, "the certificate is not trusted")
    if "ClientConnectorError" in families:
        return failure("unreachable", address, "no connection", "does the host exist?", fault="unreachable")
    if families & {"ServerDisconnectedError", "ClientPayloadError", "ClientOSError"}:
        return failure("read_error", address, "the connection broke", fault="broken")
    if "InvalidURL" in families:
        return failure("not_found", address, "not a web address")
    return explain_os_error(error, address)


def user_agent() -> str:
    """What captionkit calls itself to web servers."""
    return f"captionkit/{__version__} (batch image captioning)"
