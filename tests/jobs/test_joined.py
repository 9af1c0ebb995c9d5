"""What a command says on a cluster that it joins: its own lines, and Ray's two about whom it joins."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.archive import jpeg
from tests.support.ray_head import BIN, Head, ray_head

pytestmark = [pytest.mark.slow, pytest.mark.ray]

EXPECTED = [
    r"captioner ck-\w+: .*",
    r"3 images to caption",
    r".* INFO worker\.py:\d+ -- Connecting to existing Ray cluster at address: .*",
    r".* INFO worker\.py:\d+ -- Connected to Ray cluster\. .*",
    r"captioned 3, failed 0.*",
    r"table:  .*",
    r"record: .*",
]


def answers(head: Head) -> bool:
    host, _, port = head.address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 2):
        return True
    return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a head beside whatever else runs here, and the environment to use."""
    env = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}  # Ray leaves a token there
    env.pop("RAY_ADDRESS", None)
    with ray_head(Path("/tmp") / f"cj{os.getpid()}", env, answers, store=200 * 2**20, seconds=90) as head:
        yield head.address, env


def run_in_terminal(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Exit code and what a terminal gets to see of a command."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how the end of a terminal is told
        while data := os.read(ours, 1 << 16):
            shown += data
    os.close(ours)
    return process.wait(60), shown.decode("utf-8", "replace")


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_said_that_nobody_can_act_on(
    terminal: bool, cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, env = cluster
    (tmp_path / "in").mkdir()
    for seed in range(3):
        (tmp_path / "in" / f"{seed}.jpg").write_bytes(jpeg(seed))
    command = [str(BIN / "captionkit"), "caption", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    command += ["--address", address]
    if terminal:
        code, said = run_in_terminal(command, env)
    else:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        code, said = done.returncode, done.stderr
        assert done.stdout == ""
    assert code == 0, said
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).replace("\t", " ")
    lines = [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
    lines = [line for line in lines if not re.match(r".? *(listing|captioning) ", line)]  # the bar of progress
    assert len(lines) == len(EXPECTED), lines
    for line, expected in zip(lines, EXPECTED, strict=True):
        assert re.fullmatch(expected, line), line
