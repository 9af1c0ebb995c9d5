import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionkit.pipeline.cluster import plan_pool
from captionkit.pipeline.options import ClusterOptions
from tests.pipeline.conftest import Folder


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 2, 3, 4, 7, 8, 64]))
def test_a_pool_on_cpus_always_leaves_room_for_a_fetch_task(low: int, more: int, cpus: int) -> None:
    pool = plan_pool(ClusterOptions(actors=f"{low}:{low + more}"), cpus, 0)
    assert 1 <= pool.low <= pool.high
    assert pool.high * pool.cpus + pool.fetch_cpus <= cpus
    assert pool.device == "cpu"
    assert pool.threads >= 1


@given(st.sampled_from([1, 2, 8]), st.sampled_from([1, 2, 8]), st.sampled_from([None, 0.25, 1, 2]))
def test_a_pool_on_gpus_takes_no_cpu(cpus: int, gpus: int, each: float | None) -> None:
    pool = plan_pool(ClusterOptions(actors="2:8", gpus_per_actor=each), cpus, gpus)
    assert (pool.low, pool.high, pool.cpus, pool.gpus) == (2, 8, 0, each or 1)
    assert pool.device == "cuda"


def test_gpus_can_be_left_alone() -> None:
    assert plan_pool(ClusterOptions(gpus_per_actor=0), 8, 4).device == "cpu"


@pytest.mark.parametrize("cpus", [0, 1, 2, 5, 64])
def test_a_cluster_that_grows_keeps_the_maximum_that_was_asked_for(cpus: int) -> None:
    pool = plan_pool(ClusterOptions(actors="2:8"), cpus, 0, grows=True)
    assert pool.high == 8
    # The minimum is started without a look at what is there, so it leaves a fetch task its CPU.
    assert pool.low * pool.cpus + pool.fetch_cpus <= max(2, cpus)


@pytest.mark.parametrize("cpus", [0, 2])
def test_a_pool_on_gpus_that_are_not_there_yet_is_as_asked_for(cpus: int) -> None:
    pool = plan_pool(ClusterOptions(actors="2:8", gpus_per_actor=0.5), cpus, 0, grows=True)
    assert (pool.low, pool.high, pool.gpus, pool.cpus, pool.fetch_cpus) == (2, 8, 0.5, 0, 1)


@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_few_cpus_do_not_hang(folder: Folder, tmp_path: Path, cpus: int) -> None:
    for seed in range(4):
        folder.add(f"{seed}.jpg", seed)
    script = (
        "import ray, sys; from captionkit.cli import main\n"
        f"ray.init('local', num_cpus={cpus}, include_dashboard=False, logging_level='ERROR')\n"
        f"sys.exit(main(['caption', '--input', {str(folder.path)!r}, '--output', {str(tmp_path / 'out')!r}, "
        "'--actors', '2:4']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "captioned 4, failed 0" in done.stderr
