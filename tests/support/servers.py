"""Real servers for tests: one that speaks S3, one that serves files over HTTP. Both on this machine only."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_RGW = Path(__file__).with_name("rgw.sh")


@dataclass(frozen=True)
class S3Server:
    """A running S3 server. kind: "given" by the environment, "rgw" (Ceph) or "moto"."""

    endpoint: str
    key: str
    secret: str
    kind: str

    @property
    def checks_keys(self) -> bool:
        """Whether wrong credentials are refused (moto takes any)."""
        return self.kind != "moto"

    def env(self) -> dict[str, str]:
        """The variables with which every S3 tool finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # nobody to ask for a role here, and asking takes seconds
            # pyarrow's own S3 client sends checksums that Ceph 16 answers with 411.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }

    def client(self) -> Any:
        """A client of botocore's, for arranging and checking things behind captionkit's back."""
        return _client(self.endpoint, self.key, self.secret)

    def make_bucket(self, name: str = "bucket") -> str:
        """Makes a bucket nobody else has and gives its name."""
        bucket = f"{name}-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=bucket)
        return bucket


@functools.cache  # making one takes a fifth of a second
def _client(endpoint: str, key: str, secret: str) -> Any:
    import botocore.session

    return botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """The server named by CAPTIONKIT_TEST_S3_ENDPOINT (with the usual AWS_ keys), or else Ceph's gateway if its
    programs are installed (`radosgw`, `ceph-mon`, `ceph-osd`), or else moto's.
    """
    given = os.environ.get("CAPTIONKIT_TEST_S3_ENDPOINT")
    if given:
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        yield S3Server(given, key, secret, "given")
    elif all(shutil.which(program) for program in ("radosgw", "ceph-mon", "ceph-osd")):
        with _rgw() as server:
            yield server
    else:
        with _moto() as server:
            yield server


@contextmanager
def _rgw() -> Iterator[S3Server]:
    with tempfile.TemporaryDirectory(prefix="captionkit-rgw-") as home:
        place = Path(home, "rgw")
        for _ in range(3):  # another process may take a port between finding it free and using it
            port, monitor = free_port(), free_port()
            started = subprocess.run(
                ["bash", str(_RGW), "start", str(place), str(port)],
                env={**os.environ, "RGW_MON_PORT": str(monitor)},
                capture_output=True,
                text=True,
                timeout=90,
            )
            if started.returncode == 0:
                break
        else:
            raise RuntimeError(f"Ceph's gateway did not start:\n{started.stdout}{started.stderr}")
        try:
            yield S3Server(f"http://127.0.0.1:{port}", "testkey", "testsecret", "rgw")
        finally:
            subprocess.run(["bash", str(_RGW), "stop", str(place)], check=True, timeout=30)


@contextmanager
def _moto() -> Iterator[S3Server]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield S3Server(f"http://{host}:{port}", "testkey", "testsecret", "moto")
    finally:
        server.stop()


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder with ETags. `/status/503` answers so, `/flaky/…` does only the first time,
    `/no-head/…` refuses HEAD, `/slow` never answers.
    """

    server: _FileServer

    def do_HEAD(self) -> None:
        if self.path.startswith("/no-head/"):
            self.send_error(403)
        elif self._detour():
            super().do_HEAD()

    def do_GET(self) -> None:
        if self._detour():
            super().do_GET()

    def _detour(self) -> bool:
        if self.path.startswith("/status/"):
            self.send_error(int(self.path.removeprefix("/status/").partition("?")[0]))
            return False
        if self.path == "/slow":
            self.server.closing.wait(30)
            return False
        if self.path.startswith("/flaky/") and self.path not in self.server.asked:
            self.server.asked.add(self.path)
            self.send_error(503)
            return False
        for prefix in ("/flaky/", "/no-head/"):
            if self.path.startswith(prefix):
                self.path = "/" + self.path.removeprefix(prefix)
        return True

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass  # not into the test's output


class _FileServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.asked: set[str] = set()
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), lambda *args: _Handler(*args, directory=str(folder)))


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serves a folder over HTTP; gives the address of its root, without a slash."""
    server = _FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
