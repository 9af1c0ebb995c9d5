"""The unit for systemd and the line for cron: a job that is killed goes on (two at once: tests/table/test_lease.py)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import pytest

from captionkit.cli.exit_codes import OK, TIME_IS_UP, TOO_MANY_FAILED
from captionkit.cli.options import parse
from captionkit.pipeline.options import CaptionOptions
from captionkit.storage import Storage
from captionkit.table.check import check
from tests.support.archive import Folder

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"


def unit(name: str) -> ConfigParser:
    found = ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]  # names are spelled as systemd has them
    found.read_string((DEPLOY / name).read_text())
    return found


def words(command: str) -> list[str]:
    """The options of a `captionkit caption` in a command."""
    after = shlex.split(command.partition("captionkit caption ")[2].partition(" >>")[0])
    parse(CaptionOptions, "caption", after)
    return after


def cron_line() -> str:
    text = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r"^\*/10 .*captionkit caption .*$", text, re.MULTILINE)
    assert found is not None
    return found.group()


def test_the_unit_starts_again_what_broke_and_not_what_ended() -> None:
    service = unit("captionkit.service")["Service"]
    assert service["Restart"] == "on-failure"
    assert {int(code) for code in service["SuccessExitStatus"].split()} == {TOO_MANY_FAILED, TIME_IS_UP}
    # A dead job's lease is good for 90 seconds elsewhere.
    assert int(service["RestartSec"]) > 90
    assert words(service["ExecStart"])
    assert unit("captionkit.timer")["Timer"]["OnCalendar"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_every_word_of_it(tmp_path: Path) -> None:
    for name in ("captionkit.service", "captionkit.timer"):
        # What it starts is not on this machine.
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (DEPLOY / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())], capture_output=True, text=True, check=False
    )
    assert "Unknown" not in done.stderr, done.stderr


def test_cron_s_line_is_one_and_never_starts_a_second_job_of_its_own() -> None:
    line = cron_line()
    assert len(line.split(None, 5)) == 6
    assert "flock -n" in line
    assert "%" not in line  # cron takes that for a new line
    assert words(line)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_is_killed_goes_on_when_it_is_started_again(
    folder: Folder, tmp_path: Path, pictures: list[bytes]
) -> None:
    """As systemd does it: the unit's own command again and again, until it ends with a code that is no failure."""
    service = unit("captionkit.service")["Service"]
    for number in range(512):
        folder.add(f"{number:03d}.jpg", pictures[number % 12])
    output = tmp_path / "out"
    places = {"s3://archive/2014/": str(folder.path), "s3://archive-captions/2014/": str(output)}
    options = [places.get(word, word) for word in words(service["ExecStart"])]
    options[options.index("--until") + 1] = "2099-01-01T07:00"
    quick = ["--beam", "1", "--actors", "1", "--batch-size", "8", "--flush-rows", "8", "--fetch-threads", "2"]
    command = [sys.executable, "-m", "captionkit", "caption", *options, *quick]
    ends = {OK, *map(int, service["SuccessExitStatus"].split())}
    codes, killed = list[int](), 0
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    while not codes or codes[-1] not in ends:
        assert len(codes) < 6, codes
        job = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            if killed < 1:
                deadline = time.monotonic() + 300
                while len(list(output.glob("*.parquet"))) < 2 and time.monotonic() < deadline:
                    assert job.poll() is None
                    time.sleep(0.05)
                if job.poll() is None:
                    os.killpg(job.pid, signal.SIGKILL)  # with its Ray, as a machine goes
                killed += 1
            codes.append(job.wait(300))
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    assert codes[0] == -signal.SIGKILL
    assert codes[-1] == OK
    report = check(str(output), Storage())
    assert report.ok, report.text()
    assert report.rows == 512
