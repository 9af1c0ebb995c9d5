"""Runs of shares beside each other, and nobody else beside them; with kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray

from captionkit.cli import OK, USAGE, main
from captionkit.errors import UsageError
from captionkit.inputs.ids import image_id
from captionkit.inputs.share import Share
from captionkit.storage import Storage
from captionkit.table.check import check
from captionkit.table.compact import compact
from captionkit.table.lease import Lease, LeaseError, LeaseLost, holders
from captionkit.table.status import newest, read_status
from captionkit.table.table import CaptionTable
from captionkit.table.writing import GATE, alone, open_for_writing
from tests.support.archive import Folder, tar_bytes

STORAGE = Storage()


def test_shares_are_all_and_none_twice_and_stay_what_they_are() -> None:
    names = np.array([image_id(f"s3://archive/{n}.jpg", "") for n in range(10_000)], np.int64)
    parts = np.stack([Share(number, 16).holds(names) for number in range(1, 17)])
    assert (parts.sum(axis=0) == 1).all()
    assert 500 < parts.sum(axis=1).min() < parts.sum(axis=1).max() < 750
    assert Share.parse("3/16").holds(names)[:60].nonzero()[0].tolist() == FIRST_OF_3_16


FIRST_OF_3_16 = [10, 41, 52, 53, 57]
"""Of s3://archive/0.jpg to 59.jpg: a share that changes from one version to the next would leave images out."""


@pytest.mark.parametrize("text", ["0/16", "17/16", "3", "3/0", "a/b", "-1/2", "1/2/3", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--share"):
        Share.parse(text)


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_who_may_write_beside_whom(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    table = str(tmp_path)
    if where == "s3":
        table = f"s3://{request.getfixturevalue('bucket')}/out"

    def refused(run: str, share: str = "") -> None:
        with pytest.raises(LeaseError), open_for_writing(CaptionTable(table, STORAGE), run, share):
            pass

    with ExitStack() as shares:
        for share in ("1/3", "2/3"):
            shares.enter_context(open_for_writing(CaptionTable(table, STORAGE), f"run {share}", share))
        assert {each.run_id for each in holders(table, STORAGE)} == {"run 1/3", "run 2/3"}
        refused("again", "2/3")
        refused("another count", "1/2")
        refused("the whole")
        shares.enter_context(open_for_writing(CaptionTable(table, STORAGE), "run 3/3", "3/3"))
    with open_for_writing(CaptionTable(table, STORAGE), "the whole"):
        refused("again", "2/3")
    with open_for_writing(CaptionTable(table, STORAGE), "another count", "1/2"):
        pass
    assert holders(table, STORAGE) == []


def test_many_shares_that_start_at_once_wait_for_each_other(tmp_path: Path) -> None:
    def run(number: int) -> bool:
        with open_for_writing(CaptionTable(str(tmp_path), STORAGE), f"run-{number}", f"{number}/6") as opened:
            with alone(opened, f"run-{number}", f"{number}/6"):
                others = [each.run_id for each in holders(str(tmp_path), STORAGE)]
            return sum(name.startswith(GATE) for name in others) == 1

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(1, 7)))


def test_a_run_taken_for_dead_finds_out_before_it_writes(tmp_path: Path) -> None:
    share = Lease(str(tmp_path), STORAGE, "slept", ttl=0.2, renew=60, share="1/2")
    share.acquire()
    time.sleep(0.3)
    with open_for_writing(CaptionTable(str(tmp_path), STORAGE), "the whole"), pytest.raises(LeaseLost):
        share.check()
    whole = Lease(str(tmp_path), STORAGE, "slept as well", ttl=0.2, renew=60)
    whole.acquire()
    time.sleep(0.3)
    with open_for_writing(CaptionTable(str(tmp_path), STORAGE), "a share", "1/2"), pytest.raises(LeaseLost):
        whole.check()


@contextmanager
def job(share: str, archive: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    command = ["caption", "--input", str(archive), "--output", str(output), "--share", share, "--actors", "1"]
    command += ["--beam", "1", "--batch-size", "16", "--flush-rows", "20", "--fetch-threads", "2"]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen(
        [sys.executable, "-m", "captionkit", *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_cluster")
def test_two_jobs_that_are_killed_fill_one_table_with_one_row_an_image(
    folder: Folder, tmp_path: Path, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(240):
        folder.add(f"{number:03d}.jpg", pictures[number % 12])
    for number in range(6):
        folder.add(f"{number}.tar", tar_bytes([(f"{n}.jpg", pictures[n]) for n in range(10)]))
    output, left, kills = tmp_path / "out", ["1/2", "2/2"], 0
    while left:
        with ExitStack() as running:
            jobs = {share: running.enter_context(job(share, folder.path, output)) for share in left}
            before = len(list(output.glob("*.parquet")))
            if kills < 3:
                deadline = time.monotonic() + 250
                while len(list(output.glob("*.parquet"))) <= before and time.monotonic() < deadline:
                    time.sleep(0.05)
                victim = jobs[left[kills % len(left)]]
                victim.send_signal(signal.SIGKILL)
                kills += 1
            ends = {share: (process.communicate(timeout=300)[1], process.returncode) for share, process in jobs.items()}
        for share, (told, code) in ends.items():
            assert code in (OK, -signal.SIGKILL), told
            if code == OK:
                left.remove(share)
    assert kills >= 2
    report = check(str(output), STORAGE)
    assert report.ok, report.text()
    assert (report.rows, report.captioned) == (300, 300)
    rows = len(CaptionTable(str(output), STORAGE))
    assert [run.share for run in newest(read_status(str(output), STORAGE))] == ["1/2", "2/2"]
    assert main(["status", str(output)]) == OK
    told = capsys.readouterr().out
    assert "(share 1/2): succeeded" in told
    assert "(share 2/2): succeeded" in told
    compact(str(output), STORAGE)
    assert len(CaptionTable(str(output), STORAGE)) == rows == 300
    assert check(str(output), STORAGE).ok


def test_failed_rows_are_taken_again_by_the_whole_table_alone(folder: Folder, tmp_path: Path) -> None:
    folder.add("a.jpg", 1)
    args = ["--input", str(folder.path), "--output", str(tmp_path / "out"), "--share", "1/2", "--retry-failed"]
    assert main(["caption", *args]) == USAGE
