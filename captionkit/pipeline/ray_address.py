"""Which Ray a command is for, and what can be checked of that before Ray is imported."""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
import time

from captionkit.errors import UsageError
from captionkit.progress import log_line

HEAD_SECONDS = 30.0
"""How long a head that does not answer is waited for; one that has just been started needs some seconds."""
HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^\s:/]+):(?P<port>\d{1,5})")
_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket that Ray makes in the folder of its temporary files."""
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107


def named_cluster(address: str | None) -> tuple[str, str] | None:
    """The address of the cluster to join and the option or variable that names it; None for a Ray of this run's own."""
    for value, source in ((address, "--address"), (os.environ.get("RAY_ADDRESS"), "RAY_ADDRESS")):
        if value:
            return None if value == "local" else (value, source)
    return None


def check_ray(address: str | None) -> None:
    """Refuse an address that can be no cluster's, and a folder of temporary files in which no Ray can start.

    Raises:
        UsageError: says which option or variable is wrong and what to set.
    """
    named = named_cluster(address)
    if named is None:
        _check_temporary_folder()
        return
    value, source = named
    if value.startswith(("http://", "https://")):
        raise UsageError(
            f"{source} {value}: that is the address of a dashboard, as `ray job submit` takes it. "
            f"{_leave_out(source)}, or give the head's HOST:PORT, as `ray start --head` prints it"
        )
    match = HOST_AND_PORT.fullmatch(value)
    if value != "auto" and "://" not in value and not (match and 0 < int(match["port"]) < 2**16):
        raise UsageError(
            f"{source} {value}: expected the head's HOST:PORT, or `auto` for a cluster on this machine. "
            f"{_leave_out(source)}"
        )


def await_head(address: str, source: str, seconds: float = HEAD_SECONDS) -> None:
    """Return once something answers where the head should be. Ray itself would wait for minutes without a word.

    Raises:
        UsageError: nothing has answered in so many seconds, or what did is no Ray head.
    """
    match = HOST_AND_PORT.fullmatch(address)
    if not match:
        return
    host, port = match["host"].strip("[]"), int(match["port"])
    deadline, told = time.monotonic() + seconds, False
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            break
        except OSError as err:
            why = (err.strerror or str(err)).lower()
            if time.monotonic() >= deadline:
                raise UsageError(
                    f"{source} {address}: no Ray head answers there ({why}). "
                    f"Give the HOST:PORT that `ray start --head` printed. {_leave_out(source)}"
                ) from err
            if not told:
                log_line(f"waiting up to {seconds:.0f} s for the Ray head at {address} ({source}): {why}")
                told = True
            time.sleep(min(1.0, seconds))
    if not os.environ.get("RAY_USE_TLS") and not _speaks_grpc(f"{match['host']}:{port}"):
        raise UsageError(
            f"{source} {address}: something answers there that is no Ray head; perhaps its dashboard or another "
            f"program. Give the HOST:PORT that `ray start --head` printed. {_leave_out(source)}"
        )


def _speaks_grpc(target: str) -> bool:
    import grpc  # slow to import, and only needed where a cluster is joined

    with grpc.insecure_channel(target) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=10)
        except grpc.FutureTimeoutError:
            return False
    return True


def temporary_folder() -> tuple[str, str]:
    """Where Ray puts its files on this machine, and the variable that says so."""
    for name in ("RAY_TMPDIR", *(("TMPDIR",) if sys.platform.startswith("linux") else ())):
        if name in os.environ:
            return os.environ[name], name
    return ("/tmp" if os.name == "posix" else tempfile.gettempdir()), ""


def _check_temporary_folder() -> None:
    folder, variable = temporary_folder()
    length = len(os.fsencode(os.path.join(folder, _SOCKET)))
    if variable and os.name == "posix" and length > _LONGEST_SOCKET:
        raise UsageError(
            f"{variable} {folder}: too long a path for Ray's sockets, by {length - _LONGEST_SOCKET} bytes. "
            "Set RAY_TMPDIR to a folder with a shorter path"
        )


def _leave_out(source: str) -> str:
    return f"{'Unset' if source == 'RAY_ADDRESS' else 'Leave out'} {source} to start a Ray for this run"
