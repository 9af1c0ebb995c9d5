"""Trying again: the one place that does. Which faults, how often, how long, and when to let it be.

The libraries below (botocore, s3fs, aiohttp) are told not to retry. Theirs cannot be counted, know no budget of time,
would multiply with one another (s3fs's five tries of botocore's five) and stop long before a minute's outage is over;
and botocore's quota (500 tokens for a process, each retry takes 5 or 10) is used up by the first seconds of such an
outage, when sixteen threads wait for it to end. What is kept of theirs: exponential backoff with full jitter
(https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/) and a budget that all threads share.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from captionkit.storage.errors import StorageError

T = TypeVar("T")
_log = logging.getLogger("captionkit.storage")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
ALWAYS = 3
"""Retries that everything gets, however the budget stands; and all that a host gets which has never answered."""
CAPACITY = 200
PROGRESS = 1 << 16
"""Bytes after which a read that broke counts as going on, and is given all its patience anew."""
_WORDS_EVERY_S = 30.0

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def retry_counts() -> dict[str, int]:
    """How often this process has tried something again, by the fault that made it (see `FAULTS`)."""
    with _lock:
        return dict(_counts)


def count_retries(counts: Mapping[str, int]) -> None:
    """Take as this process's what another has tried again for it."""
    with _lock:
        _counts.update(counts)


class Retries:
    """How patiently one server is asked again; shared by all threads of a process that talk to it.

    What fails is tried again, after a pause chosen at random from 0 to 0.5, 1, 2 … 10 seconds, until it has been tried
    `retries` times more or `seconds` have gone by since it began or last got on.

    The budget: an operation that fails in the end is charged its retries, one that succeeds brings one back. While the
    budget is overdrawn everything gets `ALWAYS` retries only. So a thousand objects that can never be read do not each
    take the time of an outage, while in an outage, however many threads wait it out, nobody is charged before its end.

    wary: give a server that has never answered `ALWAYS` retries only, unless it asks to slow down: lists of web
    addresses name thousands of hosts that are gone.
    """

    def __init__(self, retries: int, seconds: float, wary: bool = False) -> None:
        self.retries = retries
        self.seconds = seconds
        self.wary = wary
        self._budget = float(CAPACITY)
        self._answered: float | None = None
        self._logged = -_WORDS_EVERY_S
        self._lock = threading.Lock()

    def call(
        self,
        action: Callable[[], T],
        progress: Callable[[], int] = lambda: 0,
        answers: Callable[[], bool] = lambda: True,
    ) -> T:
        """What `action` returns, tried again while it raises a StorageError with a fault.

        progress: bytes received so far, for actions that go on where the last try broke off.
        answers: asked once before a fault is raised, if nothing else succeeded meanwhile: whether the server answers
        anything at all. If not, the error is fatal.
        """
        asked = begun = time.monotonic()
        failed, received = 0, progress()
        while True:
            try:
                result = action()
            except StorageError as error:
                if progress() - received >= PROGRESS:
                    begun, failed, received = time.monotonic(), 0, progress()
                pause = self._pause(error, failed, begun)
                if pause is None:
                    raise self._given_up(error, failed, asked, answers) from error.__cause__
                failed += 1
                _count(error.fault)
                self._log_retry(error)
            else:
                with self._lock:
                    self._answered = time.monotonic()
                    self._budget = min(CAPACITY, self._budget + 1)
                return result
            time.sleep(pause)

    def _pause(self, error: StorageError, failed: int, begun: float) -> float | None:
        """Seconds to wait before the next try, None for no other try."""
        if not error.fault:
            return None
        stranger = self.wary and self._answered is None and error.fault != "slow_down"
        most = min(self.retries, ALWAYS) if stranger or self._budget < 0 else self.retries
        pause = error.after + random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**failed))
        if failed >= most or time.monotonic() - begun + pause > self.seconds:
            return None
        return pause

    def _given_up(self, error: StorageError, failed: int, asked: float, answers: Callable[[], bool]) -> StorageError:
        if not error.fault:
            if error.kind in ("not_found", "permission") and not error.fatal:  # an answer, too
                self._answered = time.monotonic()
            return error
        with self._lock:
            overdrawn = self._budget < 0
            self._budget -= failed
            answered = self._answered or 0.0
        now = time.monotonic()
        # Few tries that all fell into one bad moment say nothing about the server.
        silent = answered < asked and (not overdrawn or now - answered > self.seconds)
        fatal = error.fatal or (silent and not answers())
        tried = f"; gave up after {failed + 1} tries in {now - asked:.0f} s" if failed else ""
        return StorageError(error.kind, error.message + tried, fatal, error.fault, error.after)

    def _log_retry(self, error: StorageError) -> None:
        """A line in the log, now and then: whoever waits wants to know for what."""
        now = time.monotonic()
        with self._lock:
            if now - self._logged < _WORDS_EVERY_S:
                return
            self._logged = now
        _log.warning("%s; trying again for up to %.0f s", error, self.seconds)


def _count(fault: str) -> None:
    with _lock:
        _counts[fault] += 1
