"""A node that is drained by deploy/spot_notice.py: `python -m tests.deploy.draining METADATA`. Prints what was seen."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import ray
from ray._private.state import state

from tests.deploy.nodes import ROOT, nodes


@ray.remote(num_cpus=1, max_retries=0)
def where() -> str:
    time.sleep(0.2)
    return str(ray.get_runtime_context().get_node_id())


def main(metadata: str) -> None:
    with nodes(1, 1) as cluster:
        workers = {node["NodeID"] for node in ray.nodes() if node["Resources"].get("CPU")}
        victim = sorted(workers)[0]
        before = set(ray.get([where.remote() for _ in range(12)]))
        command = [sys.executable, str(ROOT / "deploy" / "spot_notice.py"), "--metadata", metadata, "--seconds", "0.2"]
        watcher = subprocess.Popen([*command, "--address", cluster.address, "--node-id", victim])
        code = watcher.wait(60)
        draining = state.get_draining_nodes()
        after = set(ray.get([where.remote() for _ in range(6)]))
        print(
            json.dumps(
                {
                    "code": code,
                    "before": before == workers,
                    "draining": list(draining) == [victim],
                    "seconds": draining[victim] / 1000 - time.time(),
                    "after": after == workers - {victim},
                }
            )
        )


if __name__ == "__main__":
    main(sys.argv[1])
