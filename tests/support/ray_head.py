"""`ray start --head` beside whatever else runs on this machine, and its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.servers import free_port

BIN = Path(sys.executable).parent


class Head(NamedTuple):
    """A head node."""

    address: str
    """For `ray.init`."""
    dashboard: str
    """For `ray job submit`."""
    folder: Path


@contextlib.contextmanager
def ray_head(
    folder: Path, env: Mapping[str, str], is_up: Callable[[Head], bool], *, store: int, seconds: float
) -> Iterator[Head]:
    """A head of two CPUs, once it is up; started again where it ended, as another program may take a port between its
    finding and its use.

    Args:
        folder: of its own, with a short path, since sockets lie there. It is removed in the end.
        is_up: whether what the caller waits for is there.
        store: bytes of its object store.
        seconds: to wait.
    """
    for _ in range(3):
        folder.mkdir(exist_ok=True)
        log = folder / "head.log"
        head, process = _start(folder, env, store, log)
        try:
            deadline = time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < deadline and not is_up(head):
                time.sleep(0.2)
            if process.poll() is None and is_up(head):
                yield head
                return
            said = log.read_text()[-3000:]
        finally:
            _stop(process)
            shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError(f"no head came up in three tries of {seconds} s: {said}")


def _start(folder: Path, env: Mapping[str, str], store: int, log: Path) -> tuple[Head, subprocess.Popen[bytes]]:
    port, dashboard = free_port(), free_port()
    command = [
        str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}",
        f"--metrics-export-port={free_port()}", "--num-cpus=2", f"--object-store-memory={store}",
        f"--temp-dir={folder}", "--disable-usage-stats", f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, start_new_session=True, stdout=out, stderr=out)
    return Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", folder), process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)  # what is left is killed with its group, as it would be after more
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
