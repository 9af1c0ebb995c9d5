"""A proxy between a client and a real HTTP server (S3's among them) that does what networks and servers do on bad days.

    with fault_proxy(s3.endpoint) as proxy:
        storage = Storage(StorageOptions(endpoint_url=proxy.endpoint))
        proxy.fault("reset", match="GET .*jpg", after=1000, times=2)
        proxy.fault("status", status=503, code="SlowDown", headers={"Retry-After": "1"}, probability=0.5)
        proxy.down() ... proxy.up()

One request to a connection, so that each can meet its own fate. The Host that the client sent is passed on, which S3
signatures cover: RGW and moto take any.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["latency", "trickle", "reset", "truncate", "status", "stall"]


@dataclass
class Fault:
    """What happens to requests that match.

    latency: each answer waits `seconds`. trickle: its body comes in pieces of `after` bytes, every `seconds`. reset,
    truncate: the connection is reset, or closed, after `after` bytes of the body. status: the server is not asked, the
    answer is `status` with S3's error `code`. stall: no answer, ever.
    """

    kind: Kind
    match: re.Pattern[str]
    probability: float
    times: int | None
    """How often still; None for always."""
    after: int
    seconds: float
    status: int
    code: str
    headers: Mapping[str, str]


@dataclass
class FaultProxy:
    """A running proxy. Faults are tried in the order they were set; the first that matches happens."""

    upstream: tuple[str, int]
    port: int
    seed: int = 0
    requests: list[str] = field(default_factory=list)
    """`METHOD /path` of every request, and ` bytes=…` where it asked for a range."""
    faulted: int = 0
    """Requests that met a fault."""
    at_once: int = 0
    """The most connections that were open at a time."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._faults: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="fault-proxy")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fault(
        self,
        kind: Kind,
        match: str = "",
        *,
        probability: float = 1.0,
        times: int | None = None,
        after: int = 0,
        seconds: float = 0.0,
        status: int = 500,
        code: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let this happen from now on. match: a regular expression, searched in `METHOD /path?query`."""
        found = Fault(kind, re.compile(match), probability, times, after, seconds, status, code, headers or {})
        self._faults.append(found)

    def clear(self) -> None:
        """No more faults; counts begin anew."""
        self._faults.clear()
        self.requests.clear()
        self.faulted = self.at_once = 0

    def down(self) -> None:
        """Break all connections and refuse new ones."""
        self._run(self._close())

    def up(self) -> None:
        """Accept connections again."""
        self._run(self._listen())

    def start(self) -> None:
        self._thread.start()
        self.up()

    def stop(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            _reset(writer)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _choose(self, request: str) -> Fault | None:
        for fault in self._faults:
            if fault.times == 0 or not fault.match.search(request) or self._random.random() >= fault.probability:
                continue
            if fault.times is not None:
                fault.times -= 1
            self.faulted += 1
            return fault
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.at_once = max(self.at_once, len(self._open))
        try:
            # A client that goes away in the middle is no error here, nor is `down`.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head, reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        asked = re.search(rb"(?im)^range: *(.*?)\r$", head)
        request = f"{method} {path}"
        self.requests.append(f"{request} {asked[1].decode()}" if asked else request)
        fault = self._choose(request)
        kind = fault.kind if fault else ""
        if fault and kind == "stall":
            await reader.read()  # until the client has had enough
            return
        if fault and kind == "latency":
            await asyncio.sleep(fault.seconds)
        if fault and kind == "status":
            await _refuse(method, head, reader, writer, fault)
            return
        above_reader, above_writer = await asyncio.open_connection(*self.upstream, limit=1 << 20)
        sending: asyncio.Task[None] | None = None
        try:
            head = re.sub(rb"(?im)^connection:.*\r\n", b"", head)
            above_writer.write(head[:-2] + b"Connection: close\r\n\r\n")
            sending = asyncio.create_task(_pump(reader, above_writer))
            if fault and kind in ("reset", "truncate", "trickle"):
                await _spoil(above_reader, writer, fault)
            else:
                await _pump(above_reader, writer)
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            above_writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()


async def _spoil(source: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
    head = b"HTTP/1.1 100"
    while head.startswith(b"HTTP/1.1 100"):  # which only says that the body may come
        head = await source.readuntil(b"\r\n\r\n")
        writer.write(head)
        await writer.drain()
    if fault.kind == "trickle":
        while data := await source.read(fault.after):
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(fault.seconds)
        return
    left = fault.after
    while left and (data := await source.read(min(left, 1 << 16))):
        left -= len(data)
        writer.write(data)
        await writer.drain()
    if fault.kind == "reset":
        await asyncio.sleep(0.05)  # else what was sent goes down with the connection
        _reset(writer)


async def _refuse(
    method: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault
) -> None:
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    if length and not re.search(rb"(?im)^expect: *100-continue", head):
        await reader.readexactly(int(length[1]))
    body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code></Error>".encode() if fault.code else b""
    lines = [f"HTTP/1.1 {fault.status} Fault", "Content-Type: application/xml", f"Content-Length: {len(body)}"]
    lines += ["Connection: close", *(f"{name}: {value}" for name, value in fault.headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body))
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST rather than FIN."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def fault_proxy(upstream: str, seed: int = 0) -> Iterator[FaultProxy]:
    """A proxy before the server at an http address, on a port of its own."""
    parts = urlsplit(upstream)
    proxy = FaultProxy((parts.hostname or "127.0.0.1", parts.port or 80), 0, seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
