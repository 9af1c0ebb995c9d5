"""Listing and asking as Ray tasks, on whatever machines a cluster has."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import ray

from captionkit.pipeline.cluster import raised_by_task
from captionkit.storage import retry_counts
from captionkit.storage.retrying import count_retries
from captionkit.storage.spread import Spread

T = TypeVar("T")

TASKS = 16
"""At a time: as many as list 80,000 keys a second where S3 takes a fifth of a second over a page of a thousand. That is
more than one driver takes in."""


class RayTasks(Executor):
    """Runs functions as Ray tasks until it is shut down, and counts what they try again as this process's own.

    They reserve no CPU, since they wait for storage most of the time, and captioners that hold all CPUs must not stop
    the listing that feeds them.
    """

    def __init__(self) -> None:
        self._task = ray.remote(_run).options(num_cpus=0, scheduling_strategy="SPREAD", max_retries=-1)
        self._lock, self._ended = threading.Lock(), False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Raises:
        RuntimeError: it was shut down. Ray itself would start anew.
        """
        with self._lock:
            if self._ended:
                raise RuntimeError("this run has left Ray")
            answer: Future[tuple[T, Counter[str]]] = self._task.remote(fn, args, kwargs).future()
        result: Future[T] = Future()
        result.set_running_or_notify_cancel()
        answer.add_done_callback(lambda done: _pass_on(done, result))
        return result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._ended = True


def _run(function: Callable[..., T], arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[T, Counter[str]]:
    """What a function returns, and what was tried again meanwhile. Ray gives a process one task at a time."""
    before = Counter(retry_counts())
    return function(*arguments, **named), Counter(retry_counts()) - before


def _pass_on(done: Future[tuple[T, Counter[str]]], result: Future[T]) -> None:
    error = done.exception()
    if error is not None:
        result.set_exception(raised_by_task(error))
        return
    value, retries = done.result()
    count_retries(retries)
    result.set_result(value)


def spread_over_cluster() -> Spread:
    """Where to list and ask, once Ray is there."""
    return Spread(RayTasks(), TASKS)
