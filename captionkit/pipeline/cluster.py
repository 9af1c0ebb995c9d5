"""Ray: joining or starting it, and how large a pool of captioner actors it can bear."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Literal

import ray
from ray.exceptions import RayTaskError

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
        ray.init(address=options.address)
        return "joined"
    ray.init(address="local", include_dashboard=dashboard, logging_level=logging.ERROR)
    return "started"


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


def plan_pool(options: ClusterOptions, cpus: float, gpus: float, *, grows: bool = False) -> Pool:
    """The pool for a cluster with so many CPUs and GPUs in all.

    An actor pool that reserves every CPU leaves none for the tasks that feed it: Ray Data then waits for ever,
    without an error (ray-project/ray#44687). So actors on GPUs reserve no CPU, actors on CPUs always leave one, and
    on a machine of one CPU an actor and a fetch task share it.

    Args:
        grows: Whether there may be more CPUs and GPUs later: true of every cluster but a Ray of this run's own. There
            the pool's maximum is what was asked for, whatever is there now. Ray Data itself adds no actor that would
            take the CPU which it keeps for fetch tasks (and takes away those that do when machines are lost); only
            the minimum is started without looking, so that is held down.
    """
    low, high = options.actor_range()
    per_actor = options.gpus_per_actor if options.gpus_per_actor is not None else float(gpus > 0)
    if per_actor:
        return Pool(low, high, per_actor, 0.0, min(1.0, cpus) or 1.0, 1)
    if 0 < cpus < 2:
        return Pool(1, high if grows else 1, 0.0, cpus / 2, cpus / 2, 1)
    room = max(1, int(cpus) - 1)
    if not grows:
        high = min(high, room)
    return Pool(min(low, room), high, 0.0, 1.0, 1.0, max(1, int(cpus) // high))
