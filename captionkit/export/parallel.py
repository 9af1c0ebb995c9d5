"""Many small requests at a time, in order, with a bounded number on their way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(items: Iterable[Item], act: Callable[[Item], Result], threads: int) -> Iterator[Result]:
    """`act` of each item, `threads` at a time; results in the items' order. Items are taken as they are needed."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="export") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(act, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
