"""How much of what a caption job moves goes over the network: three nodes, and what their object stores sent.

    python benchmarks/locality.py                # 600 drawn images, three nodes of two CPUs on this machine
    python benchmarks/locality.py --actors 1:1   # one captioner for all fetch tasks

Prints the bytes of decoded images that fetch tasks made, and the bytes that nodes pushed to one another, as Ray's own
metric `object_manager_bytes` counts them (the bundle, which every node with an actor gets once, among them).
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass

import ray
import tyro
from _report import report
from ray.cluster_utils import Cluster

from captionkit.cli.options import parse
from captionkit.pipeline.job import CaptionJob
from captionkit.pipeline.options import CaptionOptions
from captionkit.scenes import draw_folder

PUSHED = re.compile(r'^ray_object_manager_bytes\{.*Type="PushedFromLocal\w+".*\} (\S+)$', re.MULTILINE)
STORE = 150 * 2**20


@dataclass(frozen=True)
class Options:
    """A caption job on a cluster of several nodes, all on this machine."""

    nodes: int = 3
    images: int = 600
    actors: str = "1:3"
    settle: float = 12.0
    """Seconds until the nodes have published their last figures; they do every five."""
    json: str | None = None
    """Also write the table, with the machine's facts, to this file."""


def pushed() -> float:
    """Bytes that all nodes together have sent to others."""
    total = 0.0
    for node in ray.nodes():
        if node["Alive"]:
            address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(address, timeout=10) as answer:
                total += sum(map(float, PUSHED.findall(answer.read().decode())))
    return total


def main(options: Options) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE},
    )
    for _ in range(options.nodes):
        cluster.add_node(num_cpus=2, object_store_memory=STORE)
    ray.init(cluster.address, logging_level="ERROR")
    try:
        with tempfile.TemporaryDirectory() as folder:
            list(draw_folder(f"{folder}/in", options.images, 0, 320))
            words = ["--input", f"{folder}/in", "--output", f"{folder}/out", "--actors", options.actors]
            job = CaptionJob(parse(CaptionOptions, "caption", words))
            time.sleep(options.settle)
            before = pushed()
            record = job.run()
            time.sleep(options.settle)
            made = options.images * 3 * job.preprocessing.size**2
            moved = pushed() - before
            row = {"images": record.rows, "pixels, MiB": made / 2**20, "pushed between nodes, MiB": moved / 2**20}
            report([row], options.json)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
