"""The autoscaler from nothing to workers to nothing, without cloud or root: on Ray's fake multi-node provider."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
from tests.deploy.fake_cluster import ROOT, FakeCluster, NoSpotCapacity, fake_cluster
from tests.support.archive import Folder

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

STORE = 100 * 2**20
ONE_CPU = """
import ray, sys
ray.init(sys.argv[1], logging_level="ERROR")
work = ray.remote(num_cpus=1)(lambda: 1)
print("done", ray.get(work.remote()))
"""


def wait_until(done: Callable[[], bool], seconds: float, what: str, cluster: FakeCluster) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}\n{cluster.log()[-3000:]}"
        time.sleep(1)


def cpus(count: int, most: int) -> dict[str, Any]:
    resources = {"CPU": count, "memory": 10**9, "object_store_memory": STORE}
    return {"resources": resources, "min_workers": 0, "max_workers": most}


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_a_caption_job_grows_the_cluster_and_leaves_it_empty(folder: Folder, tmp_path: Path, v2: bool) -> None:
    for seed in range(10):
        folder.add(f"{seed}.jpg", seed)
    for number in range(10, 400):  # three units of the manifest
        (folder.path / f"{number}.jpg").symlink_to(folder.path / f"{number % 10}.jpg")
    out = str(tmp_path / "out")
    with fake_cluster({"cpu": cpus(2, 2)}, v2=v2) as cluster:
        assert cluster.node_types() == []
        job = subprocess.Popen(
            [sys.executable, "jobs/caption.py", "--input", str(folder.path), "--output", out, "--actors", "1:2",
             "--batch-size", "16", "--address", cluster.gcs],
            cwd=ROOT, env=cluster.env, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        most = 0
        while job.poll() is None:
            most = max(most, len(cluster.node_types()))
            time.sleep(1)
        errors = job.communicate()[1]
        assert job.returncode == 0, errors[-4000:]
        assert most >= 1
        uris = [row["uri"] for row in CaptionTable(out, Storage()).rows()]
        assert len(uris) == len(set(uris)) == 400
        wait_until(lambda: cluster.node_types() == [], 180, "workers go when they are idle", cluster)


def demand_one_cpu(cluster: FakeCluster) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ONE_CPU, cluster.gcs], env=cluster.env, stdout=subprocess.PIPE, text=True
    )


SPOT_AND_NOT = {"cpu_spot": cpus(1, 2), "cpu_on_demand": cpus(1, 2)}


def test_on_demand_steps_in_where_there_is_no_spot() -> None:
    env = {
        "RAY_AUTOSCALER_UTILIZATION_SCORER": "spot_first.score",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'deploy'}",
    }
    with fake_cluster(SPOT_AND_NOT, v2=False, provider=NoSpotCapacity, env=env) as cluster:
        task = demand_one_cpu(cluster)
        wait_until(lambda: task.poll() is not None, 240, "the task runs", cluster)
        assert "done 1" in task.communicate()[0]
        assert "cpu_spot" in cluster.log()  # it was asked for first


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_ray_alone_asks_for_spot_for_ever(v2: bool) -> None:
    """The day this fails, Ray has learnt it: deploy/spot_first.py and the older autoscaler can go."""
    types = {"cpu_spot": SPOT_AND_NOT["cpu_spot"] | {"priority": 1}, "cpu_on_demand": SPOT_AND_NOT["cpu_on_demand"]}
    with fake_cluster(types, v2=v2, provider=NoSpotCapacity) as cluster:
        task = demand_one_cpu(cluster)
        refused = "no spot capacity"
        wait_until(lambda: cluster.log().count(refused) >= 4, 240, "it asks again and again", cluster)
        assert cluster.node_types() == []
        assert task.poll() is None
        task.kill()
