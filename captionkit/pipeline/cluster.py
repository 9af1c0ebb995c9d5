"""Ray: joining or starting it, and how large a pool of captioner actors it can bear."""

from __future__ import annotations

import logging
import os
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ray
from ray.exceptions import RayTaskError

import captionkit
from captionkit.pipeline.options import ClusterOptions
from captionkit.storage import StorageError, UsageError

Connection = Literal["found", "joined", "started"]
"""How this process came to Ray: it was connected before, joined a cluster, or started a Ray of its own."""


def connect(options: ClusterOptions, dashboard: bool = False) -> Connection:
    """Join the cluster that the options or RAY_ADDRESS name, else start a Ray of this run's own.

    Args:
        dashboard: Whether that one has a dashboard. Nobody looks at that of a Ray which lives for one run, and without
            it the start takes seconds less; but Ray Train asks it what is alive.

    Returns:
        Unless Ray was "found", it is for the caller to shut down: that ends a Ray that was "started", and leaves a
        cluster that was "joined".
    """
    # Ray Data announces each plan, warns that its bars are off, and prints pages of stack for an error that it raises
    # as well; this job has its own progress, record and words.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return "found"
    if options.address or os.environ.get("RAY_ADDRESS"):
        with _away_from_inputs():
            ray.init(address=options.address)
        return "joined"
    with _away_from_inputs():
        ray.init(address="local", include_dashboard=dashboard, logging_level=logging.ERROR)
    return "started"


@contextmanager
def _away_from_inputs() -> Iterator[None]:
    """Start Ray from a folder that holds no files of the user's.

    Ray puts the current folder on the import path of its workers, before the libraries: whoever captions strangers'
    files from within their folder would run any `queue.py` among them. Workers need the folder of this package where
    it is not installed.
    """
    package = str(Path(captionkit.__file__).resolve().parent.parent)
    before = os.getcwd()
    os.chdir("/" if package in sysconfig.get_paths().values() else package)
    try:
        yield
    finally:
        os.chdir(before)


def raised_by_task(error: BaseException) -> BaseException:
    """What a Ray task has raised, where that has words of its own, rather than Ray's page of stack about it."""
    cause: object = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    return cause if isinstance(cause, (StorageError, UsageError)) else error


@dataclass(frozen=True)
class Pool:
    """What captioner actors and fetch tasks reserve."""

    low: int
    high: int
    gpus: float
    cpus: float
    fetch_cpus: float
    threads: int
    """Threads of the network in one actor."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


EDGE = 1.001
"""CPUs of an actor on CPUs: more than one, so that n of them never fill a node of n CPUs."""
FETCH = 0.9
"""CPUs of a fetch task: it fits beside n - 1 such actors on a node of n CPUs, up to a hundred."""


def node_cpus() -> list[float]:
    """The CPUs of each node of the cluster that is there now, nodes without any left out."""
    found = (node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    return [cpus for cpus in found if cpus]


def plan_pool(options: ClusterOptions, nodes: Sequence[float], gpus: float, *, grows: bool = False) -> Pool:
    """The pool for a cluster with nodes of so many CPUs, and so many GPUs in all.

    Actors that reserve every CPU leave none for the tasks that feed them: Ray Data then waits for ever, without an
    error (ray-project/ray#44687). So actors on GPUs reserve no CPU. Those on CPUs reserve a little more than one, for
    which a node of n CPUs has room n - 1 times: whatever nodes are lost, and wherever Ray starts the actors of lost
    nodes again, a fetch task finds a place beside them. Nodes of one CPU hold half an actor's and half a task's.

    Args:
        grows: Whether there may be more nodes later: true of every cluster but a Ray of this run's own. There the
            pool's maximum is what was asked for, whatever is there now. Where there is no node yet, nothing is known of
            those to come, and actors reserve one CPU, to fit on any.
    """
    low, high = options.actor_range()
    per_actor = options.gpus_per_actor if options.gpus_per_actor is not None else float(gpus > 0)
    largest = max(nodes, default=0.0)
    if per_actor:
        return Pool(low, high, per_actor, 0.0, min(1.0, largest) or 1.0, 1)
    actor, fetch = (
        (1.0, 1.0) if not largest else (EDGE, FETCH) if largest >= 2 else (EDGE * largest / 2, largest * 0.45)
    )
    room = max(1, sum(int(cpus // actor) for cpus in nodes))
    if not grows:
        high = min(high, room)
    return Pool(min(low, room), high, 0.0, actor, fetch, max(1, int(largest) // high))
