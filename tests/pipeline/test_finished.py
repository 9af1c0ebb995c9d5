"""Runs that end by the clock, and tell how they ended."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray

from captionkit.cli import OK, USAGE, main
from captionkit.cli.exit_codes import TIME_IS_UP
from captionkit.errors import UsageError
from captionkit.pipeline.finished import check_notice, give_notice, next_time
from captionkit.pipeline.signals import TimeIsUp, stop_at
from captionkit.storage import Storage
from captionkit.storage.documents import from_document
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder

NOW = datetime(2026, 11, 30, 22, 15, tzinfo=timezone(timedelta(hours=1)))
KEEP = "import os, sys; open(sys.argv[1], 'w').write(os.environ['CAPTIONKIT_STATUS'] + '\\n' + sys.stdin.read())"
"""A program that keeps what it is told in a file."""


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("07:00", "2026-12-01T07:00:00+01:00"),
        ("23:30", "2026-11-30T23:30:00+01:00"),
        ("22:15", "2026-12-01T22:15:00+01:00"),
        ("2026-12-24T07:00", "2026-12-24T07:00:00+01:00"),
        ("2026-12-24T07:00:00+00:00", "2026-12-24T07:00:00+00:00"),
    ],
)
def test_a_time_of_day_is_the_next_one(text: str, moment: str) -> None:
    assert next_time(text, NOW).isoformat() == moment


@pytest.mark.parametrize("text", ["dawn", "25:00", "2026-11-30T07:00", ""])
def test_what_is_no_time_to_come_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--until {text}"):
        next_time(text, NOW)


def test_time_is_up_while_something_is_awaited_and_not_after() -> None:
    now = datetime.now().astimezone()
    with pytest.raises(TimeIsUp), stop_at(now + timedelta(seconds=0.1)):
        threading.Event().wait(20)
    with pytest.raises(TimeIsUp), stop_at(now - timedelta(seconds=1)):
        threading.Event().wait(20)
    with stop_at(now + timedelta(seconds=0.5)):
        pass
    time.sleep(0.6)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_ends_at_its_time_with_what_it_has(folder: Folder, tmp_path: Path) -> None:
    for seed in range(10):
        folder.add(f"{seed}.jpg", seed)
    for number in range(10, 6000):
        (folder.path / f"{number}.jpg").symlink_to(folder.path / f"{number % 10}.jpg")
    out, kept = tmp_path / "out", tmp_path / "kept"
    until = f"{datetime.now() + timedelta(seconds=60):%H:%M:%S}"
    notice = shlex.join([sys.executable, "-c", KEEP, str(kept)])
    command = ["job", str(folder.path), str(out), str(tmp_path), "--until", until, "--when-finished", notice]
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.nights", *command],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == TIME_IS_UP, done.stderr
    assert f"--until {until} has come" in done.stderr
    (record,) = (from_document(file.read_bytes()) for file in (out / "_runs").glob("*.parquet"))
    rows = len(CaptionTable(str(out), Storage()))
    assert 0 < rows < 6000
    assert (record["status"], record["counts"]["captioned"], record["total"]) == ("time_is_up", rows, 6000)
    assert not list((out / "_runs").glob("*.arrow"))
    status, told = kept.read_text().split("\n", 1)
    assert status == json.loads(told)["status"] == "time_is_up"
    assert json.loads(told)["counts"] == record["counts"]


@contextmanager
def web(*codes: int) -> Iterator[tuple[str, list[bytes]]]:
    """A web server that answers with these codes in turn, and what it was sent."""
    bodies: list[bytes] = []
    answers = iter(codes)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(next(answers))
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook/s3cret", bodies
    finally:
        server.shutdown()


RECORD = {"run_id": "r1", "status": "succeeded"}


def test_an_address_gets_the_record_also_when_it_falters(capsys: pytest.CaptureFixture[str]) -> None:
    with web(503, 200) as (address, bodies):
        give_notice(address, RECORD, "s3://b/out/_runs/r1.parquet")
    assert bodies[0] == bodies[1]
    assert json.loads(bodies[1]) == RECORD | {"record": "s3://b/out/_runs/r1.parquet"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [302, 404])
def test_an_address_that_refuses_is_told_without_its_secret(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with web(code, 200) as (address, bodies):
        give_notice(address, RECORD, "r1.parquet")
    assert len(bodies) == 1
    told = capsys.readouterr().err
    assert told.startswith("--when-finished: HTTPError")
    assert "s3cret" not in told


def test_a_program_gets_the_record_and_no_shell_sees_its_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, evil = tmp_path / "kept; touch evil", tmp_path / "evil"
    give_notice(shlex.join([sys.executable, "-c", KEEP, str(kept)]), RECORD, "r1.parquet")
    assert kept.read_text().splitlines()[0] == "succeeded"
    give_notice(f"{sys.executable} -c pass ; touch {evil} $(touch {evil})", RECORD, "r1.parquet")
    assert not evil.exists()
    give_notice(f"{sys.executable} -c 'exit(7)'", RECORD, "r1.parquet")
    assert "ended with exit code 7" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["/no/such/program", "echo 'half", "", "http://"])
def test_whom_nobody_could_tell_is_refused_before_the_night(target: str, folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--when-finished"):
        check_notice(target)
    folder.add("a.jpg", 1)
    args = ["--input", str(folder.path), "--output", str(tmp_path / "out"), "--when-finished", target]
    assert main(["caption", *args]) == USAGE


@pytest.mark.usefixtures("ray_cluster")
def test_a_command_tells_how_it_ended_and_keeps_the_address_to_itself(folder: Folder, tmp_path: Path) -> None:
    folder.add("a.jpg", 1)
    out = tmp_path / "out"
    with web(200, 200) as (address, bodies):
        args = ["--output", str(out), "--beam", "1", "--when-finished", address]
        assert main(["caption", "--input", str(folder.path), *args]) == OK
        # A run that breaks tells as well.
        assert main(["caption", "--input", str(folder.add("notes.txt", b"a.jpg")), *args, "--max-length", "3"]) == USAGE
    told = json.loads(bodies[0])
    assert (told["status"], told["counts"]["captioned"]) == ("succeeded", 1)
    assert "s3cret" not in bodies[0].decode()
    record = Path(told["record"]).read_bytes()
    assert b"s3cret" not in record
    assert from_document(record)["counts"] == told["counts"]
