import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionkit.errors import UsageError
from captionkit.pipeline.cluster import plan_pool, require_gpus
from captionkit.pipeline.options import ClusterOptions
from tests.support.archive import Folder

NODES = st.lists(st.sampled_from([1, 2, 3, 4, 7, 8, 64, 96]), min_size=1, max_size=5)


@given(st.integers(1, 64), st.integers(1, 64), NODES, st.booleans())
def test_actors_on_cpus_leave_room_for_a_fetch_task_on_every_node(
    low: int, more: int, nodes: list[float], grows: bool
) -> None:
    pool = plan_pool(ClusterOptions(actors=f"{low}:{low + more}"), nodes, 0, grows=grows)
    assert 1 <= pool.low <= pool.high
    assert pool.device == "cpu"
    assert pool.threads >= 1
    fit = [int(cpus // pool.cpus) for cpus in nodes]
    assert pool.low <= sum(fit)
    for cpus, actors in zip(nodes, fit, strict=True):
        # Wherever Ray starts actors of lost nodes again: on those that hold any, a task fits beside as many as fit.
        assert not actors or actors * pool.cpus + pool.fetch_cpus <= cpus
        assert actors >= min(1, cpus // 2)
    assert pool.high <= sum(fit) or grows


@given(st.sampled_from([1, 2, 8]), st.sampled_from([1, 2, 8]), st.sampled_from([None, 0.25, 1, 2]))
def test_a_pool_on_gpus_takes_no_cpu(cpus: int, gpus: int, each: float | None) -> None:
    pool = plan_pool(ClusterOptions(actors="2:8", gpus_per_actor=each), [cpus], gpus)
    assert (pool.low, pool.high, pool.cpus, pool.gpus) == (2, 8, 0, each or 1)
    assert pool.device == "cuda"


def test_gpus_can_be_left_alone() -> None:
    assert plan_pool(ClusterOptions(gpus_per_actor=0), [8], 4).device == "cpu"


@pytest.mark.parametrize("nodes", [[], [1], [2], [5], [1, 16]])
def test_a_cluster_that_grows_keeps_the_maximum_that_was_asked_for(nodes: list[float]) -> None:
    assert plan_pool(ClusterOptions(actors="2:8"), nodes, 0, grows=True).high == 8


@pytest.mark.parametrize("nodes", [[], [2]])
def test_a_pool_on_gpus_that_are_not_there_yet_is_as_asked_for(nodes: list[float]) -> None:
    pool = plan_pool(ClusterOptions(actors="2:8", gpus_per_actor=0.5), nodes, 0, grows=True)
    assert (pool.low, pool.high, pool.gpus, pool.cpus, pool.fetch_cpus) == (2, 8, 0.5, 0, 1)


@pytest.mark.usefixtures("ray_cluster")
def test_gpus_that_can_never_come_are_refused_and_others_waited_for_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    require_gpus(0.0, "--gpus-per-actor 0", "started")
    with pytest.raises(UsageError, match="--gpus-per-actor 99: wants 99 GPUs, and Ray sees"):
        require_gpus(99.0, "--gpus-per-actor 99", "started")
    assert not capsys.readouterr().err
    require_gpus(99.0, "--gpus-per-actor 99", "joined")
    assert "waiting for a node with 99 GPUs (--gpus-per-actor 99)" in capsys.readouterr().err


@pytest.mark.slow  # a Ray of its own each; all quick tests have two CPUs
@pytest.mark.ray
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
