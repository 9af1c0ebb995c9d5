"""Machines that come late or never, and machines on which no captioner can be built; on clusters of several nodes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ray.data.exceptions import SystemException
from ray.exceptions import ActorDiedError

from captionkit.cli import BROKEN, OK
from captionkit.pipeline import machines as machines_module
from captionkit.pipeline.cluster import Pool
from captionkit.pipeline.machines import CaptionerNotBuilt, Machines, Waiting
from captionkit.storage import Storage
from captionkit.storage.documents import from_document
from captionkit.table.check import check
from tests.deploy import nodes
from tests.support.archive import Folder

POOL = Pool(low=1, high=2, gpus=0, cpus=1.0, fetch_cpus=0.9, threads=1)


def night(
    folder: Folder, tmp_path: Path, what: str, *args: str, count: int = 200
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a night went that `tests.pipeline.nights` knows, and its run record."""
    for seed in range(10):
        folder.add(f"{seed}.jpg", seed)
    for number in range(10, count):
        (folder.path / f"{number}.jpg").symlink_to(folder.path / f"{number % 10}.jpg")
    out = tmp_path / "out"
    told = nodes.run("tests.pipeline.nights", what, str(folder.path), str(out), str(tmp_path), *args, timeout=350)
    (record,) = (from_document(file.read_bytes()) for file in (out / "_runs").glob("*.parquet"))
    report = json.loads(told.splitlines()[-1])
    errors = [line for line in report["written"].splitlines() if line.startswith("captionkit: ")]
    report["errors"] = errors
    assert "Traceback" not in report["written"], report["written"]
    if report["code"] == OK:
        found = check(str(out), Storage(), coverage=what != "lose")  # whose server has gone
        assert found.ok, found.text()
        assert found.rows == count
    return report, record


@pytest.mark.slow
def test_a_machine_that_comes_after_rays_own_timeout_is_waited_for(folder: Folder, tmp_path: Path) -> None:
    report, record = night(folder, tmp_path, "late")
    assert report["code"] == OK, report["written"]
    assert record["status"] == "succeeded"


@pytest.mark.slow
def test_a_machine_that_never_comes_is_one_error_after_as_long_as_one_said(folder: Folder, tmp_path: Path) -> None:
    report, record = night(folder, tmp_path, "never", "--wait-for-machines", "0.005")
    assert report["code"] == BROKEN
    (error,) = report["errors"]
    assert "no progress for 0.005 h (--wait-for-machines): waiting for a machine with room for a captioner" in error
    assert "`ray status`" in error
    assert record["status"] == "broken"
    assert record["error"] == "NoMachine: " + error.removeprefix("captionkit: ")


@pytest.mark.slow
def test_one_machine_that_cannot_build_the_captioner_is_passed_over(folder: Folder, tmp_path: Path) -> None:
    report, record = night(folder, tmp_path, "one")
    assert report["code"] == OK, report["written"]
    (failed,) = record["failed_machines"]
    assert failed["node"] == (tmp_path / "bad").read_text()
    assert failed["error"] == "RuntimeError: CUDA error: an uncorrectable ECC error"
    # Every actor after the first was started elsewhere, where there was room.
    assert failed["failures"] == 1
    assert f"{failed['host']} (Ray node {failed['node']}): {failed['error']}. It is started again" in report["written"]


@pytest.mark.slow
def test_a_captioner_that_can_be_built_nowhere_is_one_error(folder: Folder, tmp_path: Path) -> None:
    report, record = night(folder, tmp_path, "all")
    assert report["code"] == BROKEN
    (error,) = report["errors"]
    assert "the captioner can be built on no machine of the cluster: " in error
    assert error.count("an uncorrectable ECC error") == len(record["failed_machines"]) == 2
    assert record["status"] == "broken"
    assert sum(machine["failures"] for machine in record["failed_machines"]) >= machines_module.TRIES


@pytest.mark.slow
def test_a_lost_machine_loses_and_doubles_no_row_though_other_images_fail_the_second_time(
    folder: Folder, tmp_path: Path
) -> None:
    report, record = night(folder, tmp_path, "lose", "--max-failed", "1", count=2000)
    assert report["code"] == OK, report["written"]
    asked = (tmp_path / "flaky").read_text().splitlines()
    assert len(asked) > len(set(asked)) == 2000  # tasks ran again
    assert record["counts"]["captioned"] + record["counts"]["failed"] == 2000
    # Each third failed where its task ran once.
    assert 0 < record["counts"]["failed"] < 667
    assert "came_again" not in record["counts"]


def cluster_of(monkeypatch: pytest.MonkeyPatch, **cpus: float) -> None:
    found = [{"NodeID": name, "Alive": True, "Resources": {"CPU": count}} for name, count in cpus.items()]
    monkeypatch.setattr(machines_module.ray, "nodes", lambda: found)


def failure(node: str) -> Exception:
    return RuntimeError(f"ray::MapWorker\ncaptioner cannot be built on host-{node} (Ray node {node}): OSError: full")


def test_new_actors_keep_away_from_machines_that_failed_until_some_time_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster_of(monkeypatch, aa=4, bb=4, head=0)
    machines = Machines(POOL)
    assert machines.place() == {}
    machines.failed_start(failure("aa"))
    assert machines.place() == {"label_selector": {"ray.io/node-id": "!in(aa)"}}
    machines.failed_start(failure("bb"))  # the head has no room: nowhere is left, and two tries are not enough
    assert machines.place() == {}
    machines.failed_start(failure("bb"))
    with pytest.raises(CaptionerNotBuilt, match=r"host-aa .*1 time.*host-bb .*2 times"):
        machines.place()
    later = time.monotonic() + machines_module.AVOID_SECONDS
    monkeypatch.setattr(machines_module.time, "monotonic", lambda: later)
    assert machines.place() == {}
    assert [machine.failures for machine in machines.failed] == [1, 2]


def test_waiting_says_what_is_awaited_since_when_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster_of(monkeypatch, head=0)
    with Waiting(POOL, 12, quiet=0.05) as waiting:
        time.sleep(0.6)
        lines = capsys.readouterr().err.splitlines()
        assert 1 <= len(lines) < 6  # each pause is twice the one before
        for part in ("no captions since ", "a captioner (1 CPUs); 1 machine, 0 CPUs", "`ray status`", "machines 12)"):
            assert part in lines[0]
        cluster_of(monkeypatch, head=0, worker=4)
        assert "enough for this run" in waiting.awaited()


def test_an_error_of_ray_about_actors_that_cannot_be_built_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(POOL)
    other = OSError("storage")
    assert machines.explain(other) is other
    died = ActorDiedError()
    died.error_msg = str(failure("aa"))
    assert str(machines.explain(died)).startswith("captioner actors died: ")
    machines.failed_start(died)
    told = str(machines.explain(died))
    assert "on no machine of the cluster: host-aa (Ray node aa, 1 time): OSError: full. Mend" in told
    assert "\n" not in told
    # Ray Data hangs an error of its own behind what `place` raises.
    with pytest.raises(CaptionerNotBuilt) as caught:
        raise CaptionerNotBuilt("nowhere") from SystemException()
    assert machines.explain(caught.value) is caught.value
