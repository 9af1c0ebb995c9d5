"""A clean end when somebody asks for one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType


class JobStopped(BaseException):
    """The run was asked to stop: SIGTERM, as `ray job stop` sends it, or Ctrl-C."""


class TimeIsUp(JobStopped):
    """The time has come until which the run was to go on."""


@contextmanager
def stop_at(moment: datetime | None) -> Iterator[None]:
    """Raise `TimeIsUp` once a moment has come, whatever is awaited; in the main thread alone, as with signals."""
    if moment is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp(f"{moment:%Y-%m-%d %H:%M}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, (moment - datetime.now().astimezone()).total_seconds()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `JobStopped`, in the main thread (elsewhere signals cannot be caught)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise JobStopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_behind(error: BaseException) -> JobStopped | None:
    """The stop in whose clean-up an error was raised, if any: Ray's own clean-up may raise in its place."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, JobStopped):
            return current
        seen.add(id(current))
        current = current.__context__
    return None
