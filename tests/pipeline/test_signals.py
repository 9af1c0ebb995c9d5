"""A clean end when somebody asks for one."""

from __future__ import annotations

import os
import signal

import pytest

from captionkit.pipeline.signals import JobStopped, stop_behind, stop_on_signals


def test_a_signal_is_a_stop() -> None:
    with pytest.raises(JobStopped, match="SIGTERM"), stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)


def clean_up_that_fails() -> None:
    try:
        raise JobStopped("SIGTERM")
    finally:
        raise RuntimeError("the executor is gone")


def test_an_error_of_the_clean_up_hides_no_stop() -> None:
    with pytest.raises(RuntimeError) as raised:
        clean_up_that_fails()
    assert isinstance(stop_behind(raised.value), JobStopped)
    assert stop_behind(ValueError("another")) is None
