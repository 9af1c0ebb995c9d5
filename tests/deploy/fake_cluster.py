"""A Ray cluster that grows and shrinks on one machine: Ray's autoscaler over its fake multi-node provider.

`ray.cluster_utils.AutoscalingCluster` wants an example file that is not in Ray's wheel, and begins with `ray stop`,
which ends every Ray process of the machine. This one has ports and a folder of its own, and ends only its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
HEAD_ID, HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"
"""As Ray's fake provider has its head."""
TYPE = "type:"
"""Each worker has a resource of this and its type's name: the fake provider does not label its nodes."""


class Machines(FakeMultiNodeProvider):  # type: ignore[misc]  # Ray publishes no types
    """The fake provider, for node types that say how much memory they have.

    They must, since fetch tasks ask for some, and the autoscaler takes a type that says nothing for one that has none.
    But the fake provider hands every resource it does not know to the node as one of its own, and Ray refuses that.
    """

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        fewer = {name: amount for name, amount in resources.items() if name != "memory"}
        super().create_node_with_resources_and_labels(node_config, tags, count, fewer, labels)


class NoSpotCapacity(Machines):
    """The same in a zone that has run out of spot machines: node types named *spot* fail to launch."""

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], *rest: Any
    ) -> None:
        if "spot" in tags["ray-user-node-type"]:
            from ray.autoscaler.node_launch_exception import NodeLaunchException

            raise NodeLaunchException("InsufficientInstanceCapacity", "there is no spot capacity", None)
        super().create_node_with_resources_and_labels(node_config, tags, *rest)


@dataclass(frozen=True)
class FakeCluster:
    """address: of the dashboard, for `ray job submit`. env: what its commands need in their environment."""

    address: str
    gcs: str
    env: dict[str, str]
    folder: Path

    def node_types(self) -> list[str]:
        """Node types of the workers that are alive now, sorted."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/api/v0/nodes?detail=1&limit=1000", timeout=20) as answer:
                    nodes = json.load(answer)["data"]["result"]["result"]
                break
            except OSError:  # the dashboard of a busy machine drops a request now and then
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        return sorted(
            name.removeprefix(TYPE)
            for node in nodes
            if node["state"] == "ALIVE"
            for name in node["resources_total"]
            if name.startswith(TYPE)
        )

    def log(self) -> str:
        """What the autoscaler said so far."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("session_latest/logs/monitor*")))


@contextlib.contextmanager
def fake_cluster(
    node_types: dict[str, dict[str, Any]],
    *,
    v2: bool = True,
    provider: type[Machines] = Machines,
    idle_seconds: float = 5,
    env: dict[str, str] | None = None,
) -> Iterator[FakeCluster]:
    """A head without CPUs, and an autoscaler that adds workers of these types on demand.

    Args:
        node_types: As `available_node_types` has them; `node_config` may be left out.
        v2: Ray's newer autoscaler, or the older one.
        env: Further variables for the head and its workers.
    """
    folder = Path(tempfile.mkdtemp(prefix="ckf", dir="/tmp"))  # a socket's path must be short
    gcs, dashboard = free_port(), free_port()
    config = {
        "cluster_name": "fake",
        "max_workers": 8,
        "idle_timeout_minutes": idle_seconds / 60,
        "upscaling_speed": 10,
        "provider": {
            "type": "external",
            "module": f"{provider.__module__}.{provider.__qualname__}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "gcs_address": f"127.0.0.1:{gcs}",
        },
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **{
                name: {"node_config": {}, **kind, "resources": {**kind["resources"], f"{TYPE}{name}": 1}}
                for name, kind in node_types.items()
            },
        },
        # What `ray up` would have filled in.
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{
            name: []
            for name in (
                "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
                "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "rsync_exclude",
                "rsync_filter",
            )
        },
        "file_mounts_sync_continuously": False,
    }  # fmt: skip
    (folder / "autoscaling.json").write_text(json.dumps(config))
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),  # the autoscaler imports the provider
        "HOME": str(folder),  # Ray leaves a token there
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": str(int(v2)),
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",  # workers come up although the machine is busy
        "RAY_USAGE_STATS_ENABLED": "0",
        **(env or {}),
    }
    environment.pop("RAY_ADDRESS", None)
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}", "--num-cpus=0",
        f"--ray-client-server-port={free_port()}", f"--object-store-memory={200 * 2**20}", f"--temp-dir={folder}",
        f"--autoscaling-config={folder / 'autoscaling.json'}",
    ]  # fmt: skip
    output = (folder / "head.log").open("w")
    head = subprocess.Popen(command, env=environment, start_new_session=True, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{dashboard}"
    for name in ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"):
        environment.pop(name)  # a job's driver is no head
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api/version", timeout=5)
                break
            assert head.poll() is None, (folder / "head.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the dashboard did not come up"
            time.sleep(0.3)
        yield FakeCluster(address, f"127.0.0.1:{gcs}", environment, folder)
    finally:
        output.close()
        head.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(15)
        for pid in _processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _processes_of(folder: Path) -> list[int]:
    """Ray's processes of the cluster that lives in this folder, fake nodes too: all were started with it as HOME."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={folder}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found
