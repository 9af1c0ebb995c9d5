"""The local server: HTTP on 127.0.0.1, for whoever knows the token in the address.

Other pages in the same browser can send requests to local servers. They do not know the token, and are refused by what
the browser says of them: a `Host` that is not ours (DNS rebinding), an `Origin` that is not ours, a body that is no
JSON (which a page of another origin cannot send unasked).
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from captionkit.drawing.formatting import one_line
from captionkit.errors import UsageError
from captionkit.review.desk import Desk
from captionkit.review.index import Query
from captionkit.review.page import Page
from captionkit.review.pictures import SIDES, Pictures
from captionkit.storage import StorageError

HOST = "127.0.0.1"
MAX_BODY = 64 * 1024


@dataclass(frozen=True)
class _Answer:
    status: HTTPStatus
    kind: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class ReviewServer(ThreadingHTTPServer):
    """A server of one desk; `url` is where.

    Raises (from the constructor):
        UsageError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, desk: Desk, pictures: Pictures, page: Page, port: int = 0) -> None:
        self.desk, self.pictures, self.page = desk, pictures, page
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as err:
            raise UsageError(f"--port {port}: {err}") from err
        self.origin = f"http://{HOST}:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.origin}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        known = {"": self._page, "facts": self._facts, "rows": self._rows, "picture": self._picture}
        self._answer({**known, "attention": self._attention})

    def do_POST(self) -> None:
        self._answer({"decisions": self._decide})

    def _answer(self, known: dict[str, Callable[[str, dict[str, str]], _Answer]]) -> None:
        parts = urlsplit(self.path)
        _, token, *rest = (parts.path + "//").split("/")[:4]
        name, argument = rest
        act = known.get(name)
        try:
            if not self._trusted(token):
                answer = _Answer(HTTPStatus.FORBIDDEN, "text/plain", b"This address lacks the token.\n")
            elif act is None:
                answer = _Answer(HTTPStatus.NOT_FOUND, "text/plain", b"There is nothing here.\n")
            else:
                answer = act(argument, dict(parse_qsl(parts.query)))
        except UsageError as err:
            answer = _error(HTTPStatus.BAD_REQUEST, err)
        except (IndexError, ValueError) as err:
            answer = _error(HTTPStatus.NOT_FOUND, err)
        except StorageError as err:
            answer = _error(HTTPStatus.BAD_GATEWAY, err)
        if self.command == "POST" and answer.status != HTTPStatus.OK:
            self.close_connection = True  # its body may not have been read
        self.send_response(answer.status)
        for header, value in (
            ("Content-Type", answer.kind),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            *answer.headers,
        ):
            self.send_header(header, value)
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(answer.body)

    def _trusted(self, token: str) -> bool:
        server = self.server
        if not hmac.compare_digest(token.encode(), server.token.encode()):
            return False
        if self.headers.get("Host") != server.origin.removeprefix("http://"):
            return False
        return self.headers.get("Origin", server.origin) == server.origin

    def _page(self, _: str, __: dict[str, str]) -> _Answer:
        page = self.server.page
        headers = (("Content-Security-Policy", page.policy),)
        return _Answer(HTTPStatus.OK, "text/html; charset=utf-8", page.html.encode(), headers)

    def _facts(self, _: str, __: dict[str, str]) -> _Answer:
        return _json(self.server.desk.facts())

    def _rows(self, _: str, fields: dict[str, str]) -> _Answer:
        offset = _number(fields, "offset")
        return _json(self.server.desk.page(Query.parse(fields), max(offset, 0)))

    def _picture(self, number: str, fields: dict[str, str]) -> _Answer:
        side = SIDES[fields.get("side") == "large"]
        row = self.server.desk.index.row(int(number))
        try:
            data = self.server.pictures.get(row["uri"], side, row["run_id"])
        except Exception as err:  # whatever a stranger's image does to a decoder costs this picture alone
            return _error(HTTPStatus.NOT_FOUND, err)
        return _Answer(HTTPStatus.OK, "image/webp", data)

    def _attention(self, number: str, fields: dict[str, str]) -> _Answer:
        desk, pictures = self.server.desk, self.server.pictures
        row, words = desk.index.row(int(number)), desk.card(int(number))["words"]
        if desk.attention is None or words is None:
            raise UsageError("this caption was not made by the captioner that --model names")
        word, limits = _number(fields, "word"), pictures.limits(row["uri"], row["run_id"])
        try:
            data = desk.attention.picture(row["uri"], pictures.read, limits, words, word)
        except Exception as err:  # as in `_picture`
            return _error(HTTPStatus.NOT_FOUND, err)
        return _Answer(HTTPStatus.OK, "image/webp", data)

    def _decide(self, _: str, __: dict[str, str]) -> _Answer:
        length = self.headers.get("Content-Length") or ""
        is_short = length.isdecimal() and 0 < int(length) <= MAX_BODY
        if self.headers.get("Content-Type") != "application/json" or not is_short:
            raise UsageError("a decision is JSON, and short")
        try:
            told = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as err:
            raise UsageError(f"a decision is JSON: {err}") from err
        if not isinstance(told, dict) or type(told.get("row")) is not int:  # true would be row 1
            raise UsageError("a decision names its row, by its number")
        decision, caption = told.get("decision"), told.get("caption")
        if not all(isinstance(one, str) or one is None for one in (decision, caption)):
            raise UsageError("decision and caption are texts")
        desk = self.server.desk
        card = desk.decide(told["row"], decision, caption)
        return _json({"card": card, "counts": desk.index.counts()})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address has the token in it."""


def _number(fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "0")
    try:
        return int(text)
    except ValueError as err:
        raise UsageError(f"{name} is a whole number, not {one_line(text, 40)}") from err


def _json(value: Any) -> _Answer:
    return _Answer(HTTPStatus.OK, "application/json", json.dumps(value, allow_nan=False).encode())


def _error(status: HTTPStatus, error: Exception) -> _Answer:
    text = one_line(error, 500) or type(error).__name__
    return _Answer(status, "text/plain; charset=utf-8", text.encode())
