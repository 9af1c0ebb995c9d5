"""Web addresses, against a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captionkit.errors import UsageError
from captionkit.storage import Storage, StorageError, StorageOptions
from tests.support.servers import free_port

STORAGE = Storage()
Web = tuple[Path, str]


def test_reading(web: Web) -> None:
    folder, address = web
    (folder / "a b é.jpg").write_bytes(b"picture" * 100)
    for spelled in ("a b é.jpg", "a%20b%20%C3%A9.jpg"):
        uri = f"{address}/{spelled}"
        assert STORAGE.read(uri) == b"picture" * 100
        entry = STORAGE.stat(uri)
        assert (entry.uri, entry.size) == (uri, 700)
        assert entry.version == f"{(folder / 'a b é.jpg').stat().st_mtime_ns:x}"  # the server's ETag
        assert STORAGE.stat(uri) == entry
        assert STORAGE.exists(uri)
        with STORAGE.open(uri) as file:
            assert file.read(7) == b"picture"
            assert len(file.read()) == 693


def test_servers_that_refuse_head(web: Web) -> None:
    folder, address = web
    (folder / "a.jpg").write_bytes(b"12345")
    entry = STORAGE.stat(f"{address}/no-head/a.jpg")
    assert (entry.size, entry.version) == (5, STORAGE.stat(f"{address}/a.jpg").version)
    assert STORAGE.exists(f"{address}/no-head/a.jpg")
    assert STORAGE.read(f"{address}/no-head/a.jpg") == b"12345"
    assert not STORAGE.exists(f"{address}/no-head/b.jpg")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "not_found"), (410, "not_found"), (401, "permission"), (403, "permission"), (418, "read_error")],
)
def test_refusals(web: Web, status: int, kind: str) -> None:
    for action in (STORAGE.read, STORAGE.stat):
        with pytest.raises(StorageError) as caught:
            action(f"{web[1]}/status/{status}")
        assert (caught.value.kind, caught.value.fatal) == (kind, False)
        assert str(status) in str(caught.value)


def test_a_busy_server_is_asked_again(web: Web) -> None:
    folder, address = web
    (folder / "a.jpg").write_bytes(b"at last")
    assert STORAGE.read(f"{address}/flaky/a.jpg") == b"at last"
    hasty = Storage(StorageOptions(retries=0))
    for status, kind in ((503, "read_error"), (504, "timeout")):
        with pytest.raises(StorageError, match=str(status)) as caught:
            hasty.read(f"{address}/status/{status}")
        assert caught.value.kind == kind


def test_nobody_there() -> None:
    for address in (f"http://127.0.0.1:{free_port()}/a.jpg", "http://no-such-host.invalid/a.jpg"):
        with pytest.raises(StorageError) as caught:
            STORAGE.read(address)
        assert (caught.value.kind, caught.value.fatal) == ("unreachable", False)


def test_no_answer(web: Web) -> None:
    with pytest.raises(StorageError) as caught:
        Storage(StorageOptions(timeout_seconds=0.2, retries=0)).read(f"{web[1]}/slow")
    assert caught.value.kind == "timeout"


def test_addresses_that_are_none() -> None:
    with pytest.raises(StorageError) as caught:
        STORAGE.read("http:///a.jpg")
    assert caught.value.kind == "not_found"


def test_the_web_is_read_only(web: Web) -> None:
    for action in (
        lambda: STORAGE.write(f"{web[1]}/a", b""),
        lambda: STORAGE.delete(f"{web[1]}/a"),
        lambda: list(STORAGE.list(web[1])),
        lambda: list(STORAGE.glob(f"{web[1]}/*.jpg")),
    ):
        with pytest.raises(UsageError):
            action()


def test_passwords_in_addresses_are_not_told(web: Web) -> None:
    with pytest.raises(StorageError) as caught:
        STORAGE.read(web[1].replace("://", "://ann:hunter2@") + "/status/404?sig=abcdef")
    assert "hunter2" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


def test_stat_many_keeps_order_and_leaves_reasons_to_reading(web: Web) -> None:
    folder, address = web
    (folder / "a.jpg").write_bytes(b"1")
    uris = [f"{address}/a.jpg", f"{address}/none.jpg", f"{address}/status/403", str(folder / "a.jpg")]
    assert [entry.size for entry in STORAGE.stat_many(uris)] == [1, None, None, 1]


@contextmanager
def redirecting(target: str) -> Iterator[str]:
    """A server that leads on to another address, whatever it is asked for."""

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "s3://bucket/a", "gopher:x"])
def test_a_redirect_out_of_the_web_is_not_followed(target: str) -> None:
    with redirecting(target) as address:
        for action in (STORAGE.read, STORAGE.stat, STORAGE.open):
            with pytest.raises(StorageError, match=f"leads on to {target.partition(':')[0]}") as caught:
                action(f"{address}/a.jpg")
            assert (caught.value.kind, caught.value.fault) == ("forbidden", "")


def test_a_redirect_leads_nowhere_that_the_schemes_allowed_do_not(web: Web) -> None:
    (web[0] / "a.jpg").write_bytes(b"picture")
    only = Storage(StorageOptions(schemes=("http",)))
    with redirecting("https://127.0.0.1/a.jpg") as address:
        for action in (only.read, only.stat, only.open):
            with pytest.raises(StorageError, match="leads on to https, and here only http may be read") as caught:
                action(f"{address}/a.jpg")
            assert caught.value.kind == "forbidden"
    with redirecting(f"{web[1]}/a.jpg") as address:
        assert only.read(f"{address}/b.jpg") == STORAGE.read(f"{address}/b.jpg") == b"picture"
        assert Storage(StorageOptions(schemes=("s3", "https", "http"))).read(f"{address}/b.jpg") == b"picture"
