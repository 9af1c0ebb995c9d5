"""Ray: joining or starting it, and how large a pool of captioner actors it can bear."""

from __future__ import annotations

import logging
import os
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayTaskError
from ray.job_config import JobConfig

import captionkit
from captionkit.errors import UsageError
from captionkit.pipeline.options import ClusterOptions
from captionkit.pipeline.ray_address import await_head, check_ray, named_cluster, temporary_folder
from captionkit.pipeline.ray_log import listen
from captionkit.pipeline.worker_lines import quieten
from captionkit.progress import log_line
from captionkit.search_path import safe_environment
from captionkit.storage import StorageError

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

    Raises:
        UsageError: the cluster cannot be joined, or Ray does not start.
    """
    # Ray Data announces each plan, warns that its bars are off, and prints pages of stack for an error that it raises
    # as well; this job has its own progress, record and words.
    listen()
    if ray.is_initialized():
        return "found"
    check_ray(options.address)
    quieten()
    if named := named_cluster(options.address):
        _join(*named)
        return "joined"
    _start(dashboard)
    return "started"


LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"


class _Driver(JobConfig):  # type: ignore[misc]  # Ray publishes no types
    """What Ray is told of this driver, by a call between the start of its own processes and that of the driver's part.

    Args:
        search_path: What workers put first on their search path, where the job brings no working directory. Ray itself
            puts the driver's current folder there, and any numpy.py in it would then be run by every worker.
        held_back: Takes what Ray says of the level of its log.
    """

    def __init__(self, search_path: list[str], held_back: _HeldBack) -> None:
        super().__init__()
        self._search_path, self._held_back = search_path, held_back

    def _serialize(self) -> str:
        self._py_driver_sys_path = [] if self._runtime_env_has_working_dir() else self._search_path
        # At every run Ray's own code warns, in red and through the bar of progress, that actors may lose their
        # arguments: Ray Data puts them into the object store, and keeps them there as long as the actors may live.
        if LOG_LEVEL not in os.environ:
            os.environ[LOG_LEVEL] = "fatal"
            self._held_back.begin()
        serialized: str = super()._serialize()
        return serialized


def _start(dashboard: bool) -> None:
    """A Ray of this run's own."""
    try:
        with _environment(safe_environment() | _own_niceness()), _HeldBack() as held_back:
            job = _Driver([], held_back)
            ray.init(address="local", include_dashboard=dashboard, logging_level=logging.ERROR, job_config=job)
    except Exception as err:
        ray.shutdown()
        folder, variable = temporary_folder()
        raise UsageError(
            f"Ray does not start: {_first_line(err)}. Its files lie in {folder}"
            + (f", as {variable} says" if variable else "")
            + "; RAY_TMPDIR names another folder"
        ) from err


def _own_niceness() -> dict[str, str]:
    """Ray makes its workers nicer than its driver, by 15 levels, and beside any other program they starve.

    A run that is to give way is started so as a whole: `nice -n 15 captionkit …`.
    """
    name = "RAY_worker_niceness"
    return {name: os.environ.get(name, "0")}


def _join(address: str, source: str) -> None:
    """The cluster at an address."""
    await_head(address, source)
    if address.startswith("ray://"):
        log_line(f"waiting up to 30 s for the Ray client server at {address} ({source})")
    own = str(Path(captionkit.__file__).resolve().parent.parent)
    installed = own in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    try:
        with _environment({}), _HeldBack() as held_back:
            # Ray Client pickles it, for a server that may have no captionkit.
            job: dict[str, Any] = (
                {} if "://" in address else {"job_config": _Driver([] if installed else [own], held_back)}
            )
            ray.init(address=address, **job)
    except Exception as err:
        ray.shutdown()
        hint = "Unset it" if source == "RAY_ADDRESS" else f"Leave out {source}"
        raise UsageError(f"{source} {address}: {_first_line(err)}. {hint} to start a Ray for this run") from err


class _HeldBack:
    """Standard error of this process between `begin` and the end, given out then, but for Ray's word on its log."""

    def __init__(self) -> None:
        self._stderr: int | None = None
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)

    def __enter__(self) -> _HeldBack:
        return self

    def begin(self) -> None:
        with suppress(OSError):  # it is closed
            self._stderr = os.dup(2)
            os.dup2(self._file.fileno(), 2)

    def __exit__(self, *_: object) -> None:
        if self._stderr is not None:
            os.dup2(self._stderr, 2)
            os.close(self._stderr)
            self._file.seek(0)
            for line in self._file:
                if LOG_LEVEL.encode() not in line:
                    os.write(2, line)
        self._file.close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These variables for processes that are started meanwhile; they, and the level of the log, are as before then."""
    before = {name: os.environ.get(name) for name in (*variables, LOG_LEVEL)}
    try:
        os.environ.update(variables)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def require_gpus(each: float, option: str, connection: Connection, count: int = 1) -> None:
    """Say that GPUs are waited for which no node has now.

    Raises:
        UsageError: none can come, since this Ray is this machine alone.
    """
    nodes = [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]
    fit = sum(int(gpus / each + 1e-6) for gpus in nodes) if each else count
    if fit >= count:
        return
    available = f"{max(nodes, default=0.0):g}" if any(nodes) else "none"
    wanted = f"{each:g} GPU{'s' * (each != 1)}" + (f" for each of {count}" if count > 1 else "")
    if connection == "started":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f", by CUDA_VISIBLE_DEVICES={visible}" if visible is not None else ""
        raise UsageError(f"{option}: wants {wanted}, and Ray sees {available} on this machine{why}")
    log_line(
        f"waiting for a node with {wanted} ({option}): of {len(nodes)} in the cluster now, the largest has "
        f"{available}. Ctrl-C stops it"
    )


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


ACTOR_CPUS = 1.001
"""CPUs of an actor on CPUs: more than one, so that n of them never fill a node of n CPUs."""
FETCH_CPUS = 0.9
"""CPUs of a fetch task: it fits beside n - 1 such actors on a node of n CPUs, up to a hundred."""


def node_cpus() -> list[float]:
    """The CPUs of each node of the cluster that is there now, nodes without any left out."""
    counts = (node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    return [cpus for cpus in counts if cpus]


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
    actor, fetch = 1.0, 1.0
    if largest >= 2:
        actor, fetch = ACTOR_CPUS, FETCH_CPUS
    elif largest:
        actor, fetch = ACTOR_CPUS * largest / 2, largest * 0.45
    places = max(1, sum(int(cpus // actor) for cpus in nodes))
    if not grows:
        high = min(high, places)
    return Pool(min(low, places), high, 0.0, actor, fetch, max(1, int(largest) // high))
