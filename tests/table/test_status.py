"""How far a job is, from its record alone."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from captionkit.cli import OK, main
from captionkit.errors import UsageError
from captionkit.schema import SCHEMA
from captionkit.storage import Storage
from captionkit.storage.documents import to_document
from captionkit.table.status import read_status


def record(run_id: str, **more: Any) -> dict[str, Any]:
    ago = timedelta(seconds=more.pop("seconds_ago", 5))
    then = (datetime.now(timezone.utc) - ago).isoformat()
    return {
        "run_id": run_id,
        "options": {},
        "status": "running",
        "started_at": then,
        "renewed_at": then,
        "ended_at": None,
        "total": 1000,
        "counts": {"captioned": 240, "failed": 10, "done_before": 7},
        "failures": {"truncated": 10},
        "images_per_second": 12.5,
        "error": None,
        **more,
    }


def put(folder: Path, *records: dict[str, Any]) -> str:
    (folder / "_runs").mkdir(parents=True, exist_ok=True)
    for known in records:
        (folder / "_runs" / f"{known['run_id']}.parquet").write_bytes(to_document(known, SCHEMA))
    return str(folder)


def test_a_living_run_says_how_far_and_how_fast_it_is(tmp_path: Path) -> None:
    (status,) = read_status(put(tmp_path, record("a")), Storage())
    assert status.state == "running"
    assert "250 of 1,000 (25.0%) images, 10 failed; 7 were done before" in str(status)
    assert "12.5 images/s, about 1 min left" in str(status)
    assert "10 × truncated" in str(status)


def test_one_that_has_not_been_heard_of_is_silent(tmp_path: Path) -> None:
    (status,) = read_status(put(tmp_path, record("a", seconds_ago=600)), Storage())
    assert status.state == "silent"
    assert "the same command goes on" in str(status)


def test_the_latest_run_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = record("old", seconds_ago=900, status="broken", ended_at="2026-01-01T00:00:00+00:00", error="no bucket")
    output = put(tmp_path, old, record("new"))
    (tmp_path / "_runs" / "notes.parquet").write_text("[]x")
    assert [status.record["run_id"] for status in read_status(output, Storage())] == ["new", "old"]
    assert main(["status", output, "--all", "--json"]) == OK
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["run_id"], line["state"]) for line in printed] == [("new", "running"), ("old", "broken")]


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no caption job has written there"):
        read_status(str(tmp_path), Storage())
