"""The server: for whoever knows the token, on this machine; what it confirms is saved."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionkit.errors import UsageError
from captionkit.review.job import serving
from captionkit.review.options import ReviewOptions
from captionkit.review.server import ReviewServer
from captionkit.storage import StorageError
from captionkit.table.reviews import Reviews, reviews_of
from tests.export.table import STORAGE
from tests.review.conftest import CAPTIONS

JSON = {"Content-Type": "application/json"}


def ask(server: ReviewServer, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    data = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, data, {**(JSON if body is not None else {}), **headers})
    answer = connection.getresponse()
    told = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return told


def rows(server: ReviewServer, query: str = "") -> list[dict[str, Any]]:
    status, body, _ = ask(server, f"/{server.token}/rows?{query}")
    assert status == 200, body
    return list(json.loads(body)["cards"])


def decide(server: ReviewServer, row: int, decision: str | None, caption: str | None = None) -> tuple[int, Any]:
    body = {"row": row, "decision": decision, "caption": caption}
    status, data, _ = ask(server, f"/{server.token}/decisions", body)
    return status, json.loads(data) if status == 200 else data.decode()


Serve = Callable[..., ReviewServer]


def test_it_listens_on_this_machine_alone(table: str, serve: Serve) -> None:
    server = serve(table)
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/{server.token}/"
    assert len(server.token) >= 32


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/facts", {}),
        ("/{other}/", {}),
        ("/{other}/picture/0", {}),
        ("/{token}/", {"Host": "evil.example"}),
        ("/{token}/facts", {"Host": "localhost.evil.example:80"}),
        ("/{token}/facts", {"Origin": "http://evil.example"}),
        ("/{token}/facts", {"Origin": "null"}),
    ],
)
def test_strangers_are_refused(table: str, serve: Serve, path: str, headers: dict[str, str]) -> None:
    server = serve(table)
    wrong = "x" + server.token[1:] if server.token[0] != "x" else "y" + server.token[1:]
    status, body, _ = ask(server, path.format(token=server.token, other=wrong), **headers)
    assert status == 403
    assert body == b"This address lacks the token.\n"


def test_a_page_of_another_origin_decides_nothing(table: str, serve: Serve) -> None:
    server = serve(table)
    body = {"row": 0, "decision": "rejected"}
    path = f"/{server.token}/decisions"
    assert ask(server, path, body, Origin="http://evil.example")[0] == 403
    assert ask(server, path, body, **{"Content-Type": "text/plain"})[0] == 400
    assert ask(server, path, {"row": 0, "decision": "approved", "caption": "x" * 70_000})[0] == 400
    assert not Reviews(reviews_of(table), STORAGE)


def post(server: ReviewServer, body: bytes) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    connection.request("POST", f"/{server.token}/decisions", body, JSON)
    answer = connection.getresponse()
    told = answer.status, answer.read().decode()
    connection.close()
    return told


@pytest.mark.parametrize(
    "body",
    [
        b'{"row": 0, "decision": "approved"',
        b'{"row": 0, "decision": "\xff"}',
        b"[" * 60_000,
        b"[]",
        b'{"row": true, "decision": "approved"}',
        b'{"row": 1.0, "decision": "approved"}',
        b'{"row": 0, "decision": true}',
    ],
)
def test_what_is_no_decision_is_the_asker_s_fault(table: str, serve: Serve, body: bytes) -> None:
    status, said = post(serve(table), body)
    assert status == 400
    assert said.startswith(("a decision", "decision and caption"))
    assert not Reviews(reviews_of(table), STORAGE)


def test_a_number_that_is_none_is_the_asker_s_fault(table: str, serve: Serve) -> None:
    server = serve(table)
    status, said, _ = ask(server, f"/{server.token}/rows?offset=x")
    assert (status, said) == (400, b"offset is a whole number, not x")


def test_the_page_is_sent_with_a_policy_that_lets_its_own_script_run_and_nothing_else(table: str, serve: Serve) -> None:
    server = serve(table)
    status, body, headers = ask(server, f"/{server.token}/")
    assert status == 200
    assert body.count(b"<script>") == 1
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert b"http" not in body.replace(b"http-equiv", b"")


@pytest.mark.parametrize("path", ["picture/99", "picture/-1", "picture/x", "nothing", "picture/5"])
def test_what_is_not_there_is_said(table: str, serve: Serve, path: str) -> None:
    server = serve(table)
    status, body, headers = ask(server, f"/{server.token}/{path}")
    assert status == 404
    assert body
    assert headers["Content-Type"].startswith("text/plain")


def test_pictures_are_small_and_large(table: str, serve: Serve) -> None:
    server = serve(table)
    for path in ("picture/0", "picture/0?side=large", "picture/0"):
        status, body, headers = ask(server, f"/{server.token}/{path}")
        assert (status, headers["Content-Type"]) == (200, "image/webp")
        with Image.open(io.BytesIO(body)) as small:
            assert small.size == (64, 48)


def test_decisions_are_saved_when_they_are_confirmed_and_laid_over_the_captions(table: str, serve: Serve) -> None:
    server = serve(table, reviewer="ada")
    assert decide(server, 0, "approved")[1]["card"]["caption"] == CAPTIONS[0]
    assert decide(server, 1, "edited", "  a blue boat ")[1]["card"]["caption"] == "a blue boat"
    assert decide(server, 2, "rejected")[1]["card"]["caption"] is None
    status, told = decide(server, 3, "edited", "a house")
    assert (status, told["counts"]) == (200, {"approved": 1, "edited": 2, "rejected": 1, "undecided": 2})
    saved = Reviews(reviews_of(table), STORAGE)
    found = [saved.get(row) for row in [str(Path(table).parent / f"{n}.jpg") for n in range(4)]]
    assert [one and (one.decision, one.caption, one.generated, one.reviewer) for one in found] == [
        ("approved", "a dog in the grass", "a dog in the grass", "ada"),
        ("edited", "a blue boat", "a red boat", "ada"),
        ("rejected", None, "two cats", "ada"),
        ("edited", "a house", None, "ada"),
    ]
    assert [card["row"] for card in rows(server, "review=undecided")] == [4, 5]
    assert [card["review"] for card in rows(server)] == ["approved", "edited", "rejected", "edited", None, None]
    assert decide(server, 1, None)[1]["card"]["caption"] == "a red boat"
    assert len(Reviews(reviews_of(table), STORAGE)) == 3


def test_they_are_there_when_it_is_served_again(table: str) -> None:
    for expected in (None, "edited"):
        with serving(ReviewOptions(table), STORAGE) as server:
            assert server.desk.card(1)["review"] == expected
            server.desk.decide(1, "edited", "a blue boat")


@pytest.mark.parametrize(
    ("row", "decision", "caption", "word"),
    [
        (0, "edited", " ", "1 to 10,000 characters"),
        (0, "edited", "x" * 10_001, "1 to 10,000 characters"),
        (3, "approved", None, "no caption to approve"),
        (3, "rejected", None, "no caption to approve"),
        (0, "applauded", None, "no decision applauded"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    table: str, serve: Serve, row: int, decision: str, caption: str | None, word: str
) -> None:
    status, told = decide(serve(table), row, decision, caption)
    assert status == 400
    assert word in told


def test_the_captioners_own_words_typed_again_are_approval(table: str, serve: Serve) -> None:
    assert decide(serve(table), 1, "edited", "a red boat")[1]["card"]["review"] == "approved"


def test_what_cannot_be_saved_does_not_hold(table: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(table)
    decide(server, 0, "approved")

    def full(self: Reviews) -> None:
        raise StorageError("write_error", "the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(Reviews, "save", full)
        status, told = decide(server, 1, "rejected")
        assert (status, told) == (502, "the disk is full")
        assert [card["review"] for card in rows(server)[:2]] == ["approved", None]
    assert decide(server, 2, "approved")[0] == 200
    assert len(Reviews(reviews_of(table), STORAGE)) == 2


def test_many_at_once_are_all_saved(table: str, serve: Serve) -> None:
    server = serve(table)
    threads = [threading.Thread(target=decide, args=(server, row, "edited", f"text {row}")) for row in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Reviews(reviews_of(table), STORAGE)) == 6


def test_one_reviews_at_a_time(table: str, serve: Serve) -> None:
    serve(table)
    with pytest.raises(UsageError, match="review-"):
        serve(table)
    looking = serve(table, reviews="none")
    assert decide(looking, 0, "approved") == (400, "this page is for looking only")


def test_a_port_that_is_taken_is_wrong_usage(table: str, serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="Address already in use"):
            serve(table, port=taken.getsockname()[1])
