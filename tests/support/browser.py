"""A headless Chromium, driven by the DevTools protocol over aiohttp, which captionkit depends on anyway."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "ArrowRight": ("", 39), "ArrowLeft": ("", 37), " ": (" ", 32)}


class Browser:
    """One page of a browser. `problems` are what its scripts complained of."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._number = loop, socket, 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, params), 120))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            told = json.loads((await self._socket.receive()).data)
            if told.get("id") == number:
                assert "error" not in told, told
                return dict(told["result"])
            if told.get("method") == "Runtime.exceptionThrown":
                self.problems.append(told["params"]["exceptionDetails"]["exception"].get("description", "?"))
            if told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.problems.append(told["params"]["entry"]["text"])

    def open(self, address: str) -> None:
        """Go to an address."""
        # Chromium 150 at times never answers a navigation that meets another one under way.
        self.wait("document.readyState === 'complete'")
        self.send("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        told = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}\n{self.problems}"
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        """Press and release a key."""
        text, code = KEYS.get(key, (key, ord(key[0].upper())))
        pressed = {"key": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **pressed, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def type(self, text: str) -> None:
        """Type a text where the focus is, in the place of what is selected."""
        self.send("Input.insertText", text=text)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Set the window's size in pixels, and the colours that the page is to prefer."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own, without a profile that anybody else has."""
    assert CHROMIUM, "there is no Chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        process = subprocess.Popen(
            [CHROMIUM, *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        loop = asyncio.new_event_loop()
        try:
            session, socket = loop.run_until_complete(_connect(Path(profile) / "DevToolsActivePort"))
            yield Browser(loop, socket)
            loop.run_until_complete(session.close())
        finally:
            process.terminate()
            process.wait(20)
            loop.close()


async def _connect(told: Path) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    end = time.monotonic() + 60
    while not (told.exists() and "\n" in told.read_text()):
        assert time.monotonic() < end, "Chromium did not start"
        await asyncio.sleep(0.05)
    port = told.read_text().split("\n")[0]
    session = aiohttp.ClientSession()
    while True:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [page for page in await answer.json() if page["type"] == "page"]
        if pages:
            break
        assert time.monotonic() < end, "Chromium opened no page"
        await asyncio.sleep(0.05)
    socket = await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=64 * 2**20)
    return session, socket
