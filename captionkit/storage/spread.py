"""Work on many addresses side by side: on threads of this process, or wherever an executor takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Spread:
    """Where listing and asking are spread to."""

    executor: Executor
    """Takes functions and arguments that can be pickled."""
    tasks: int
    """How many it is given at a time."""

    def map(self, function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[B]:
        """What the function returns for each argument, in order; the arguments are a stream, and so are the answers.

        Raises:
            Whatever the function does, where its answer would come.
        """
        waiting: deque[Future[B]] = deque()
        try:
            for argument in arguments:
                waiting.append(self.executor.submit(function, argument))
                if len(waiting) >= self.tasks:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
