"""The cluster's machines: those on which the captioner cannot be built, and those that are awaited."""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import ray
from ray.exceptions import RayActorError

from captionkit.counting import counted
from captionkit.errors import OutsideError
from captionkit.pipeline.cluster import Pool
from captionkit.pipeline.worker_lines import NOT_BUILT
from captionkit.progress import log_line

TRIES = 3
"""Failed starts after which a run ends whose captioner could be built nowhere."""
AVOID_SECONDS = 600.0
"""Time after which a machine is tried again: what was wrong may have passed."""
_FAILED = re.compile(rf"{NOT_BUILT} (\S+) \(Ray node (\w+)\): (.*)")


class CaptionerNotBuilt(OutsideError):
    """On a machine, or on all of them, the captioner cannot be built."""

    @classmethod
    def here(cls, error: Exception) -> CaptionerNotBuilt:
        """In a worker: names its machine, in words that `Machines` knows again."""
        context = ray.get_runtime_context()
        lines = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        return cls(f"{NOT_BUILT} {socket.gethostname()} (Ray node {context.get_node_id()}): {lines}")


class NoMachine(OutsideError):
    """No machine has come, or none has made progress, for as long as `--wait-for-machines` allows."""


@dataclass
class FailedMachine:
    """A machine on which the captioner could not be built, for the run record."""

    host: str
    node: str
    error: str
    failures: int = 0


class Machines:
    """Keeps account of machines on which captioner actors could not be built, and keeps new ones away from these.

    Args:
        pool: What an actor reserves.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.failed: list[FailedMachine] = []
        """Those on which the captioner could not be built, each once."""
        self._last: dict[str, float] = {}

    @property
    def deaths(self) -> int:
        """Failed starts in a row with which Ray Data itself is to give up: those of processes that say no reason."""
        return TRIES * max(TRIES, self._pool.high)

    def failed_start(self, error: BaseException | None) -> None:
        """Take down that an actor could not be built, from Ray's error, and say so."""
        match = _FAILED.search(str(error))
        if match is None:
            line = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
            log_line(f"a captioner actor died as it started, and is started again: {line}")
            return
        host, node, reason = match.groups()
        machine = next((each for each in self.failed if each.node == node), None)
        if machine is None:
            self.failed.append(machine := FailedMachine(host, node, reason))
        machine.error, machine.failures = reason, machine.failures + 1
        self._last[node] = time.monotonic()
        log_line(f"the {match[0]}. It is started again, elsewhere if another machine has room")

    def place(self) -> dict[str, Any]:
        """Where Ray may start the next actor, as options of a Ray actor.

        Raises:
            CaptionerNotBuilt: no machine of the cluster can build one.
        """
        now = time.monotonic()
        bad = [node for node, last in self._last.items() if now - last < AVOID_SECONDS]
        if not bad:
            return {}
        fit = {node["NodeID"] for node in ray.nodes() if node["Alive"] and self._fits(node["Resources"])}
        if fit - set(bad):
            return {"label_selector": {"ray.io/node-id": f"!in({','.join(bad)})"}}
        if sum(machine.failures for machine in self.failed) >= TRIES:
            raise self._everywhere()
        return {}

    def _fits(self, resources: dict[str, float]) -> bool:
        return resources.get("GPU", 0.0) >= self._pool.gpus and resources.get("CPU", 0.0) >= self._pool.cpus

    def _everywhere(self) -> CaptionerNotBuilt:
        reasons = "; ".join(
            f"{machine.host} (Ray node {machine.node}, {counted(machine.failures, 'time')}): {machine.error}"
            for machine in self.failed
        )
        return CaptionerNotBuilt(
            f"the captioner can be built on no machine of the cluster: {reasons}. Mend or replace the machines; the "
            "same command goes on"
        )

    def explain(self, error: BaseException) -> BaseException:
        """An error that ended the run, in plain words where its cause is that no actor could be built."""
        seen: BaseException | None = error
        while seen is not None:
            if isinstance(seen, CaptionerNotBuilt):
                return seen
            seen = seen.__cause__
        if not isinstance(error, RayActorError):
            return error
        if self.failed and _FAILED.search(str(error)):
            return self._everywhere()
        return CaptionerNotBuilt(f"captioner actors died: {' '.join(str(error).split())[:600]}")


class Waiting:
    """Says what is awaited when no rows come, in a thread of its own. A context manager.

    Args:
        pool: What actors and fetch tasks reserve.
        hours: When the run gives up.
        quiet: Seconds without a row before the first line; each next one comes after twice the time, at most an hour.
    """

    def __init__(self, pool: Pool, hours: float, quiet: float = 60.0) -> None:
        self._pool, self._hours, self._quiet = pool, hours, quiet
        self._stop = threading.Event()
        self._since = datetime.now().astimezone()
        self._pause = quiet
        self._next = time.monotonic() + quiet
        self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def rows_came(self) -> None:
        """Begin anew: there is progress."""
        self._since, self._pause = datetime.now().astimezone(), self._quiet
        self._next = time.monotonic() + self._quiet

    def _watch(self) -> None:
        while not self._stop.wait(min(5.0, self._quiet)):
            if time.monotonic() >= self._next:
                self._pause = min(2 * self._pause, 3600.0)
                self._next = time.monotonic() + self._pause
                log_line(self._line())

    def _line(self) -> str:
        end = self._since + timedelta(hours=self._hours)
        return (
            f"no captions since {self._since:%H:%M}: {self.awaited()}. This run gives up about {end:%a %H:%M} "
            f"(--wait-for-machines {self._hours:g})"
        )

    def awaited(self) -> str:
        """What the run waits for, and what to do."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        pool = self._pool
        cluster = f"{counted(len(nodes), 'machine')}, {sum(node.get('CPU', 0.0) for node in nodes):g} CPUs and "
        cluster += f"{sum(node.get('GPU', 0.0) for node in nodes):g} GPUs in the cluster"
        actor = f"{pool.gpus:g} GPUs" if pool.gpus else f"{pool.cpus:.2g} CPUs"
        for needs, gpus, cpus in ((f"a captioner ({actor})", pool.gpus, pool.cpus), ("fetching", 0.0, pool.fetch_cpus)):
            if not any(node.get("GPU", 0.0) >= gpus and node.get("CPU", 0.0) >= cpus for node in nodes):
                return (
                    f"waiting for a machine with room for {needs}; {cluster} now. `ray status` on the head says what "
                    "is asked for and why none comes"
                )
        return (
            f"{cluster}, enough for this run; captioners are starting, storage is slow, other jobs hold the machines, "
            "or one hangs. `ray status` on the head says what is free"
        )


def no_progress(error: BaseException, waiting: Waiting, hours: float) -> BaseException:
    """Ray Data's error after so many hours without progress in plain words; any other as it is."""
    if type(error).__name__ != "ExecutionTimeoutError":
        return error
    return NoMachine(
        f"no progress for {hours:g} h (--wait-for-machines): {waiting.awaited()}. What was captioned is kept; the same "
        "command goes on"
    )
