"""A node that is drained by deploy/spot_notice.py: `python -m tests.deploy.draining METADATA`. Prints what was seen."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ray
from ray._private.state import state

from tests.deploy.nodes import ROOT, nodes


@ray.remote(num_cpus=1, max_retries=0)
def where(until: str = "") -> str:
    """The node that this runs on, once the file is there."""
    time.sleep(0.2)
    while until and not Path(until).exists():
        time.sleep(0.1)
    return str(ray.get_runtime_context().get_node_id())


def main(metadata: str) -> None:
    with nodes(1, 1) as cluster, tempfile.TemporaryDirectory() as folder:
        workers = {node["NodeID"] for node in ray.nodes() if node["Resources"].get("CPU")}
        victim = sorted(workers)[0]
        go_on = f"{folder}/go-on"
        running = [where.remote(go_on) for _ in workers]
        while ray.available_resources().get("CPU"):
            time.sleep(0.2)
        command = [sys.executable, str(ROOT / "deploy" / "spot_notice.py"), "--metadata", metadata, "--seconds", "0.2"]
        watcher = subprocess.Popen([*command, "--address", cluster.address, "--node-id", victim])
        code = watcher.wait(120)
        draining = state.get_draining_nodes()
        Path(go_on).touch()
        finished = set(ray.get(running)) == workers
        after = {ray.get(where.remote()) for _ in range(6)}
        seen = {
            "code": code,
            "draining": list(draining) == [victim],
            "finished": finished,
            "after": after == workers - {victim},
        }
        print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
