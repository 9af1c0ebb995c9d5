"""Trying again: how often, how long, and who pays."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.storage import StorageError, StorageOptions, retry_counts, retrying
from captionkit.storage.retrying import ALWAYS, CAPACITY, LONGEST_PAUSE_S, PROGRESS, Retries

OPTIONS = StorageOptions()


class Clock:
    """A clock that only sleeping and working move."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        patch.setattr(retrying.time, "monotonic", lambda: self.now)
        patch.setattr(retrying.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def failing(times: int | None, fault: str = "server_error", **more: Any) -> Callable[[], str]:
    """An action that fails so often (None: always) and then returns "done"."""
    left = [times]

    def action() -> str:
        if left[0] is None:
            raise StorageError("read_error", "s3://b/a: odd", fault=fault, **more)
        if left[0]:
            left[0] -= 1
            raise StorageError("read_error", "s3://b/a: odd", fault=fault, **more)
        return "done"

    return action


def caught(retries: Retries, action: Callable[[], Any], **more: Any) -> StorageError:
    with pytest.raises(StorageError) as found:
        retries.call(action, **more)
    return found.value


def test_what_passes_is_tried_again_and_counted(clock: Clock) -> None:
    before = retry_counts().get("slow_down", 0)
    assert Retries(5, 60).call(failing(3, "slow_down")) == "done"
    assert len(clock.slept) == 3
    assert retry_counts()["slow_down"] == before + 3


def test_what_does_not_pass_is_not(clock: Clock) -> None:
    error = caught(Retries(5, 60), failing(None, ""))
    assert str(error) == "s3://b/a: odd"
    assert clock.slept == []


def test_pauses_grow_and_are_spread_out(clock: Clock) -> None:
    for _ in range(200):
        caught(Retries(8, 1e9), failing(None))
    by_try = [clock.slept[number::8] for number in range(8)]
    for number, pauses in enumerate(by_try):
        most = min(LONGEST_PAUSE_S, 0.5 * 2**number)
        assert max(pauses) <= most
        assert min(pauses) < most / 4  # full jitter: from none …
        assert max(pauses) > most * 3 / 4  # … to all of it


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), length=st.floats(0, 60))
def test_an_outage_of_a_minute_is_always_survived(seed: int, length: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        patch.setattr(retrying, "random", random.Random(seed))
        end = clock.now + length

        def action() -> str:
            if clock.now < end:
                raise StorageError("unreachable", "nothing answers", fault="unreachable")
            return "done"

        assert Retries(OPTIONS.retries, OPTIONS.retry_seconds).call(action) == "done"


def test_patience_has_an_end(clock: Clock) -> None:
    error = caught(Retries(1000, 120), failing(None))
    assert sum(clock.slept) <= 120
    assert "gave up after" in str(error)
    assert (error.kind, error.fault) == ("read_error", "server_error")


def test_whoever_gets_on_has_all_patience_again(clock: Clock) -> None:
    received = 0

    def action() -> str:
        nonlocal received
        received += PROGRESS
        if received < 100 * PROGRESS:
            raise StorageError("read_error", "broke", fault="broken")
        return "done"

    assert Retries(2, 60).call(action, progress=lambda: received) == "done"
    assert len(clock.slept) == 99


def test_objects_that_never_work_use_up_the_budget_and_others_bring_it_back(clock: Clock) -> None:
    retries = Retries(20, 1e9)
    counts = []
    for _ in range(30):
        before = len(clock.slept)
        caught(retries, failing(None))
        counts.append(len(clock.slept) - before)
    assert counts[0] == 20
    assert counts[-1] == ALWAYS
    assert sum(counts) < CAPACITY + 20 + 30 * ALWAYS
    for _ in range(2 * CAPACITY):
        retries.call(lambda: "fine")
    before = len(clock.slept)
    caught(retries, failing(None))
    assert len(clock.slept) - before == 20


def test_a_long_outage_charges_nobody_before_its_end(clock: Clock) -> None:
    retries = Retries(30, 1e9)
    for _ in range(100):
        assert retries.call(failing(25)) == "done"


def test_hosts_that_never_answered_are_not_waited_for(clock: Clock) -> None:
    wary = Retries(20, 1e9, wary=True)
    caught(wary, failing(None, "unreachable"))
    assert len(clock.slept) == ALWAYS
    caught(wary, failing(None, "slow_down"))  # it is there, and wants to be left alone for a while
    assert len(clock.slept) == ALWAYS + 20
    wary.call(lambda: "fine")
    caught(wary, failing(None, "unreachable"))
    assert len(clock.slept) == ALWAYS + 20 + 20


def test_a_server_that_answers_nothing_is_hopeless_one_that_answers_something_is_not(clock: Clock) -> None:
    asked = []

    def answers(what: bool) -> Callable[[], bool]:
        def ask() -> bool:
            asked.append(what)
            return what

        return ask

    assert caught(Retries(3, 60), failing(None), answers=answers(False)).fatal
    assert not caught(Retries(3, 60), failing(None), answers=answers(True)).fatal
    assert asked == [False, True]
    busy = Retries(3, 60)

    def others_succeed() -> None:
        clock.now += 1
        busy.call(lambda: "fine")
        raise StorageError("read_error", "odd", fault="server_error")

    assert not caught(busy, others_succeed, answers=answers(False)).fatal
    assert len(asked) == 2  # no need to


def test_a_bad_moment_after_many_failures_is_not_taken_for_the_end(clock: Clock) -> None:
    retries = Retries(20, 120)
    for _ in range(30):
        retries.call(lambda: "fine")
        caught(retries, failing(None), answers=lambda: True)
    retries.call(lambda: "fine")
    clock.now += 1
    assert not caught(retries, failing(None), answers=lambda: False).fatal  # few tries, in a few seconds
    clock.now += 300
    assert caught(retries, failing(None), answers=lambda: False).fatal


def test_the_log_says_what_is_waited_for_now_and_then(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caught(Retries(30, 100), failing(None))
    lines = [record.getMessage() for record in caplog.records if record.name == "captionkit.storage"]
    assert lines[0] == "s3://b/a: odd; trying again for up to 100 s"
    assert 1 < len(lines) < 8
