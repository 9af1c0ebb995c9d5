"""Hosts of the machine's own for cluster tests: the lab beside the checkout (`../shared/cluster-lab`), where it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT.parent / "shared" / "cluster-lab"
STATE = Path("/var/lib/cluster-lab")
VENV = Path(sys.executable).parent.parent


def missing() -> str | None:
    """Why there is no lab here, or None."""
    if not (TOOLS / "lab").exists():
        return f"no lab at {TOOLS}"
    if os.geteuid() != 0:
        return "the lab needs root"
    absent = [
        name
        for name in ("ip", "sshd", "rsync", "nsenter")
        if not shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    ]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: iproute2, openssh-server, rsync)"
    if (STATE / "run" / "list").exists():
        return f"a lab is up already, at {STATE}"
    return None


@dataclass
class Lab:
    """`ctl` is the operator's host; the others are h1, h2, …"""

    keep: tuple[Path, ...] = ()
    """Folders below /tmp that hosts are to see; each host has a /tmp of its own."""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._environment = {**os.environ, "VENV": str(VENV), "KEEP": " ".join(map(str, self.keep))}
        self._environment["LABENV"] = " ".join(f"{name}={value}" for name, value in self.env.items())

    def tool(self, *words: str) -> None:
        subprocess.run([str(TOOLS / "lab"), *words], env=self._environment, check=True, capture_output=True)

    def run(self, host: str, command: str, timeout: float = 300) -> str:
        """Run a command on a host as a login shell would; what it printed.

        Raises:
            AssertionError: it failed; the message has its output.
        """
        done = self.start(host, command)
        try:
            output, _ = done.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(done.pid, signal.SIGKILL)
            output, _ = done.communicate()
            raise AssertionError(f"{command}: not done in {timeout} s\n{output[-6000:]}") from None
        assert done.returncode == 0, f"{command}: {done.returncode}\n{output[-6000:]}"
        return output

    def start(self, host: str, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(TOOLS / "lab"), "exec", host, "bash", "-lc", f"cd {ROOT} && {command}"],
            env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


@contextlib.contextmanager
def plain_lab(hosts: int, lab: Lab) -> Iterator[Lab]:
    """The operator's host, and h1 to hN at 10.77.0.1 to N."""
    lab.tool("up", str(hosts))
    try:
        yield lab
    finally:
        lab.tool("down")


@contextlib.contextmanager
def ec2_lab(lab: Lab, log: Path) -> Iterator[Lab]:
    """The operator's host with EC2's control plane; each instance becomes a host. What comes and goes is in the log."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(TOOLS / "ec2lab")], env=lab._environment, stdout=output, stderr=output
        )
        try:
            deadline = time.monotonic() + 120
            while not (STATE / "run" / "ec2.json").exists():  # written once the control plane has answered
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "the lab did not come up"
                time.sleep(0.5)
            yield lab
        finally:
            process.terminate()
            process.wait(60)
