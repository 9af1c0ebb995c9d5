"""Clusters of several Ray nodes on one machine, and who is on them; for scripts that tests run in their own process.

`ray.cluster_utils.Cluster` resets what the process knows of any other Ray, so it is not for pytest's own process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parent.parent.parent
STORE = 120 * 2**20


def run(module: str, *args: str, timeout: float) -> str:
    """Run a script that uses `nodes`; what it wrote.

    Raises:
        AssertionError: it failed.
    """
    folder = tempfile.mkdtemp(prefix="ckn", dir="/tmp")  # a socket's path must be short
    environment = {
        **os.environ,
        "RAY_TMPDIR": folder,  # the address of "the" cluster of this machine is written there too
        "HOME": folder,
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",  # workers come up although the machine is busy
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", module, *args]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def add_node(cluster: Cluster, **options: Any) -> Any:
    """A node more, tried three times: Ray gives its own services 30 seconds to start, and the machine may be busy."""
    for tries_left in (2, 1, 0):
        try:
            return cluster.add_node(**options)
        except Exception as err:
            if "timed out during startup" not in str(err) or not tries_left:
                raise
    return None


@contextlib.contextmanager
def nodes(*cpus: int) -> Iterator[Cluster]:
    """A head without CPUs and workers of so many; this process is connected to it."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster()
    try:
        add_node(cluster, **head)
        for count in cpus:
            add_node(cluster, num_cpus=count, object_store_memory=STORE)
        ray.init(cluster.address, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class Watch(threading.Thread):
    """Notes every quarter of a second on which nodes actors of a class are alive."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True)
        self.name_of_class = name
        self.counts: list[int] = []
        self.nodes: set[str] = set()

    def run(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # Ray may be going down
                actors = ray._private.state.actors(actor_state_name="ALIVE").values()
                places = [
                    actor["Address"]["NodeID"] for actor in actors if self.name_of_class in actor["ActorClassName"]
                ]
                self.nodes.update(places)
                self.counts.append(len(places))
            time.sleep(0.25)

    def wait_for(self, count: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.counts or self.counts[-1] != count:
            assert time.monotonic() < deadline, f"not {count} in {seconds} s: {self.steps()}"
            time.sleep(0.1)

    def steps(self) -> list[int]:
        """The counts, each once as long as it stayed."""
        return [count for at, count in enumerate(self.counts) if at == 0 or count != self.counts[at - 1]]
