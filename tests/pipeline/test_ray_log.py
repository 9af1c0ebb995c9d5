"""Ray Data's own detectors, by the messages of the installed Ray, in our words."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.data._internal.issue_detection.detectors.hanging_detector import (
    HangingExecutionIssueDetector,
    HangingExecutionState,
    TaskMetadata,
)
from ray.data._internal.issue_detection.detectors.high_memory_detector import (
    HIGH_MEMORY_FINAL_WARNING,
    HIGH_MEMORY_PERIODIC_WARNING,
    _format_message,
)

from captionkit.pipeline.ray_log import RayDataLog, in_our_words, listen


def hanging(operator: str, metadata: TaskMetadata | None) -> str:
    """What the installed Ray says of a task that has hung for five minutes."""
    detector = object.__new__(HangingExecutionIssueDetector)
    detector._dataset_id, detector._op_task_stats_std_factor_threshold = "d", 10
    state = HangingExecutionState("op", 1, "abc", metadata, 0, time.perf_counter() - 300)  # type: ignore[arg-type]
    stats = SimpleNamespace(mean=4.2, stddev=1.0)
    named: Any = SimpleNamespace(name=operator, metrics=SimpleNamespace(op_task_duration_stats=stats))
    message: str = detector._create_issue(named, state).message
    return message


@pytest.mark.parametrize("metadata", [TaskMetadata(0, "ab12", 77), None])
def test_a_task_that_hangs_is_named_with_its_machine(metadata: TaskMetadata | None) -> None:
    line = in_our_words(hanging("ReadFetchAndDecode", metadata))
    assert line is not None
    assert "a fetch task" in line
    assert "nothing for 300 s; on average one takes 4 s" in line
    assert ("(process 77 on Ray node ab12)" in line) == (metadata is not None)
    assert "DataContext" not in line


def test_memory_that_may_run_out_is_told_and_what_a_run_took_is_not() -> None:
    names = {
        "op_name": "MapBatches(CaptionActor)",
        "memory_per_task": "6.1GiB",
        "max_memory": "7.5GiB",
        "initial_memory_request": "0.0B",
        "recommended_memory": "9.4GiB",
        "recommended_memory_bytes": 1,
        "detection_time_interval_s": 30,
        "memory_configuration": "64.0MiB",
    }
    line = in_our_words(_format_message(HIGH_MEMORY_PERIODIC_WARNING.format(**names)))
    assert line is not None
    assert "a captioner actor (MapBatches(CaptionActor)) takes 6.1GiB of memory on average, and up to 7.5GiB" in line
    assert in_our_words(_format_message(HIGH_MEMORY_FINAL_WARNING.format(**names))) is None


def test_ray_datas_logger_reaches_us_once_a_warning_and_no_console(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("ray.data._internal.execution.streaming_executor")
    told: list[str] = []
    log = listen()
    before, log._write = log._write, told.append
    log._told.clear()
    try:
        for _ in range(2):
            logger.warning(hanging("ReadFetchAndDecode", None))
        logger.error("a page of stack")
        logger.warning("Progress bars disabled")
    finally:
        log._write = before
    assert len(told) == 1
    assert capfd.readouterr().err == ""
    assert listen() is log
    assert [type(each) for each in logging.getLogger("ray.data").handlers].count(RayDataLog) == 1
