"""deploy/spot_notice.py, with a server in the place of the cloud's metadata service."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from tests.deploy import nodes

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def spot_notice() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spot_notice", ROOT / "deploy" / "spot_notice.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Metadata(BaseHTTPRequestHandler):
    """EC2's service in version 2, and Google's: the parts that are asked for."""

    looks = 0
    notice_after = 0
    end = datetime.now(timezone.utc)

    def answer(self, code: int, body: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_PUT(self) -> None:
        fine = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, "a-token") if fine else self.answer(400)

    def do_GET(self) -> None:
        there = type(self).looks >= self.notice_after
        type(self).looks += 1
        if self.path == "/computeMetadata/v1/instance/preempted":
            if self.headers["Metadata-Flavor"] != "Google":
                self.answer(403)
            else:
                self.answer(200, "TRUE" if there else "FALSE")
        elif self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self.answer(401)
        elif self.path == "/latest/meta-data/spot/instance-action" and there:
            self.answer(200, json.dumps({"action": "terminate", "time": f"{self.end:%Y-%m-%dT%H:%M:%SZ}"}))
        else:
            self.answer(404)

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def metadata() -> Iterator[tuple[type[Metadata], str]]:
    handler = type("Handler", (Metadata,), {"end": datetime.now(timezone.utc) + timedelta(seconds=120)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_notice_says_how_long_there_is(spot_notice: ModuleType, metadata: tuple[type[Metadata], str]) -> None:
    handler, address = metadata
    handler.notice_after = 2
    assert spot_notice.aws_notice(address) is None
    assert spot_notice.google_notice(address) is None
    assert 100 < spot_notice.aws_notice(address) <= 120
    assert spot_notice.google_notice(address) == 30
    handler.end = datetime.now(timezone.utc) - timedelta(seconds=5)
    assert spot_notice.aws_notice(address) == 0


def test_a_service_that_does_not_answer_is_asked_again(
    spot_notice: ModuleType, metadata: tuple[type[Metadata], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, address = metadata
    said: list[tuple[float, str | None, str | None]] = []
    tries = iter([False, True])

    def drain(seconds: float, head: str | None, node: str | None) -> bool:
        said.append((seconds, head, node))
        return next(tries)

    broken = handler.do_PUT

    def once_broken(self: Metadata) -> None:
        handler.do_PUT = broken  # type: ignore[method-assign]
        self.answer(503)

    monkeypatch.setattr(handler, "do_PUT", once_broken)
    monkeypatch.setattr(spot_notice, "drain", drain)
    handler.notice_after = 1
    assert spot_notice.main(["--metadata", address, "--seconds", "0.01", "--node-id", "ab"]) == 0
    assert [where for _, *where in said] == [[None, "ab"]] * 2
    assert 100 < said[1][0] < said[0][0] <= 120


@pytest.mark.slow
def test_ray_drains_the_node_and_gives_it_no_more_tasks(metadata: tuple[type[Metadata], str]) -> None:
    handler, address = metadata
    handler.notice_after = 3
    seen = json.loads(nodes.run("tests.deploy.draining", address, timeout=300).splitlines()[-1])
    # What ran on it is done to the end.
    assert seen == {"code": 0, "draining": True, "finished": True, "after": True}
