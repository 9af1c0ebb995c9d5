"""Leases, by real processes on a real disk and a real S3 server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from captionkit.errors import UsageError
from captionkit.schema import SCHEMA
from captionkit.storage import Storage, StorageError
from captionkit.storage.documents import from_document, to_document
from captionkit.table import lease_files
from captionkit.table.lease import Lease, LeaseError, LeaseLost, holder

STORAGE = Storage()
HOLD = """
import sys, time
from captionkit.table import lease_files
from captionkit.table.lease import Lease
from captionkit.storage import Storage
table, place, ttl, renew = sys.argv[1:]
if place == "elsewhere":
    lease_files._place = lambda: ""
with Lease(table, Storage(), "first", ttl=float(ttl), renew=float(renew)):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(
    table: str | Path, place: str = "here", ttl: float = 60, renew: float = 20
) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the table's lease until its standard input ends."""
    command = [sys.executable, "-c", HOLD, str(table), place, str(ttl), str(renew)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def eventually(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def take(table: str | Path, run: str = "second", **options: Any) -> Lease:
    lease = Lease(str(table), STORAGE, run, **options)
    lease.acquire()
    return lease


def can_take(table: str | Path) -> bool:
    try:
        take(table).release()
    except LeaseError:
        return False
    return True


def test_the_second_is_refused_in_words_and_let_in_after_the_first(tmp_path: Path) -> None:
    with Lease(str(tmp_path), STORAGE, "run-1") as first:
        first.check()
        with pytest.raises(LeaseError) as caught:
            take(tmp_path)
        for part in ("run-1", f"process {os.getpid()}", os.uname().nodename, str(tmp_path), "its lease ends by itself"):
            assert part in str(caught.value)
        assert isinstance(caught.value, UsageError)
        found = holder(str(tmp_path), STORAGE)
        assert found is not None
        assert found.run_id == "run-1"
        first.check()
    assert holder(str(tmp_path), STORAGE) is None
    take(tmp_path).release()
    take(tmp_path).release()
    assert sorted(file.name for file in (tmp_path / "_lease").iterdir()) == ["000002.parquet", "000003.parquet"]


def test_a_lease_with_nobody_in_it_is_nothing(tmp_path: Path) -> None:
    assert holder(str(tmp_path / "nowhere"), STORAGE) is None
    lease = Lease(str(tmp_path), STORAGE, "r")
    lease.release()
    assert not (tmp_path / "_lease").exists()


def _contend(table: str, number: int, start: Barrier, end: Barrier, answers: Any) -> None:
    lease = Lease(table, STORAGE, f"run-{number}")
    start.wait()
    try:
        lease.acquire()
        answers.put((number, "won"))
    except LeaseError as err:
        answers.put((number, str(err)))
    end.wait()  # nobody lets go before everybody has tried
    lease.release()


@pytest.mark.parametrize("before", ["nobody", "released", "dead"])
def test_of_sixteen_processes_one_wins(tmp_path: Path, before: str) -> None:
    if before == "released":
        take(tmp_path).release()
    if before == "dead":
        with other_process(tmp_path) as process:
            process.kill()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.table.test_lease"])
    start, end, answers = context.Barrier(16), context.Barrier(16), context.Queue()
    processes = [context.Process(target=_contend, args=(str(tmp_path), n, start, end, answers)) for n in range(16)]
    for contender in processes:
        contender.start()
    found = dict(answers.get(timeout=60) for _ in processes)
    for contender in processes:
        contender.join()
    winners = [number for number, answer in found.items() if answer == "won"]
    assert len(winners) == 1
    assert all(f"run-{winners[0]} on host" in answer for answer in found.values() if answer != "won")
    left = sorted(file.name for file in (tmp_path / "_lease").iterdir())
    assert left == ["000001.parquet", "000002.parquet"][: 1 if before == "nobody" else 2]  # and nothing half made


def test_a_killed_process_of_this_machine_locks_nobody_out(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        assert not can_take(tmp_path)
        process.send_signal(signal.SIGKILL)
        eventually(lambda: can_take(tmp_path))  # a zombie until it is waited for
        assert process.returncode is None


def test_a_process_number_used_again_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    lease = take(tmp_path, "gone")
    file = next((tmp_path / "_lease").iterdir())
    written = from_document(file.read_bytes())
    file.write_bytes(to_document(written | {"born": written["born"] - 1}, SCHEMA))
    take(tmp_path).release()
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_killed_process_elsewhere_locks_out_for_its_lease_only(tmp_path: Path) -> None:
    with other_process(tmp_path, "elsewhere", ttl=3, renew=0.5) as process:
        process.kill()
        process.wait()
        assert not can_take(tmp_path)
        eventually(lambda: can_take(tmp_path))


def test_a_living_process_keeps_its_lease_past_the_expiry(tmp_path: Path) -> None:
    # Seconds enough for a busy machine to let it renew in between.
    with other_process(tmp_path, "elsewhere", ttl=5, renew=0.1):
        first = from_document((tmp_path / "_lease/000001.parquet").read_bytes())
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert not can_take(tmp_path)
            time.sleep(0.05)
        renewals = from_document((tmp_path / "_lease/000001.parquet").read_bytes())["renewals"]
        assert renewals > first["renewals"] + 1


@pytest.mark.parametrize("released", [False, True])
def test_a_job_that_slept_finds_its_lease_lost_and_stops(tmp_path: Path, released: bool) -> None:
    sleeper = take(tmp_path, "sleeper", ttl=0.2, renew=60)  # its thread says nothing for a minute
    sleeper.check()
    time.sleep(0.3)
    second = take(tmp_path)
    if released:
        second.release()
    with pytest.raises(LeaseLost, match=r"run second on host .* took it over"):
        sleeper.check()
    with pytest.raises(LeaseLost):
        sleeper.check()
    sleeper.release()
    if not released:
        second.check()
        assert not can_take(tmp_path)
        second.release()


def test_a_job_that_slept_goes_on_if_nobody_took_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_files, "SETTLE", 0.05)
    lease = take(tmp_path, ttl=0.2, renew=60)
    time.sleep(0.3)
    lease.check()
    assert not can_take(tmp_path)
    lease.release()


def test_a_taker_in_the_pause_of_one_that_overslept_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = take(tmp_path, "sleeper", ttl=0.1, renew=60)
    time.sleep(0.2)
    taker = Lease(str(tmp_path), STORAGE, "taker")
    seen = taker._files.latest()  # it looked before the sleeper woke, and creates after
    monkeypatch.setattr(taker._files, "latest", lambda: seen)
    monkeypatch.setattr(lease_files, "SETTLE", 0.5)
    timer = threading.Timer(0.1, taker.acquire)
    timer.start()
    with pytest.raises(LeaseLost):
        sleeper.check()
    timer.join()
    taker.check()
    taker.release()


def test_a_deleted_lease_is_lost(tmp_path: Path) -> None:
    lease = take(tmp_path)
    (tmp_path / "_lease/000001.parquet").unlink()
    with pytest.raises(LeaseLost, match="deleted"):
        lease.check()
    lease.release()
    assert list((tmp_path / "_lease").iterdir()) == []


def test_storage_that_is_away_for_a_moment_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = take(tmp_path, ttl=30, renew=0.01)

    def away(*_: object) -> None:
        raise StorageError("timeout", "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(lease._files, "write", away)
        time.sleep(0.1)
        lease.check()
        lease._confirmed -= 20  # for so long that it may have expired
        with pytest.raises(StorageError, match="no answer"):
            lease.check()
    lease.check()
    lease.release()


def test_a_lease_file_that_cannot_be_read_is_somebodys(tmp_path: Path) -> None:
    (tmp_path / "_lease").mkdir()
    file = tmp_path / "_lease/000007.parquet"
    file.write_text("")
    assert not can_take(tmp_path)
    old = time.time() - 2 * lease_files.TTL
    os.utime(file, (old, old))
    assert can_take(tmp_path)


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Lease(str(tmp_path), STORAGE, "first"):
        assert not can_take(tmp_path)
        assert [file.name for file in (tmp_path / "_lease").iterdir()] == ["000001.parquet"]
    assert can_take(tmp_path)


def test_on_s3_one_of_sixteen_wins(bucket: str) -> None:
    table = f"s3://{bucket}/tables/a"
    for _ in range(3):  # no lease, a released one, another
        leases = [Lease(table, STORAGE, f"run-{n}") for n in range(16)]
        barrier = threading.Barrier(16)

        def contend(lease: Lease, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                lease.acquire()
            except LeaseError:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(contend, leases))
        assert won.count(True) == 1
        leases[won.index(True)].check()
        for lease in leases:
            lease.release()
    assert len(list(STORAGE.list(f"{table}/_lease"))) == 2


def test_on_s3_a_lease_is_renewed_expires_and_is_lost(bucket: str) -> None:
    table = f"s3://{bucket}/t"
    sleeper = take(table, "sleeper", ttl=4, renew=60)
    sleeper.check()
    found = holder(table, STORAGE)
    assert found is not None
    assert (found.run_id, found.renewals) == ("sleeper", 1)
    assert not can_take(table)
    eventually(lambda: can_take(table))
    with pytest.raises(LeaseLost):
        sleeper.check()


def test_on_s3_a_killed_process_of_this_machine_locks_nobody_out(bucket: str) -> None:
    with other_process(f"s3://{bucket}/t") as process:
        assert not can_take(f"s3://{bucket}/t")
        process.kill()
        process.wait()
        assert can_take(f"s3://{bucket}/t")


def test_storage_without_conditions_reads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_files, "SETTLE", 0.05)
    table = f"memory://lease-{os.getpid()}/t"
    with Lease(table, STORAGE, "first", ttl=60):
        assert not can_take(table)
    assert can_take(table)


def test_of_two_without_conditions_that_both_saw_none_the_later_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_files, "SETTLE", 0.05)
    table = f"memory://lease-{os.getpid()}/u"
    first, second = Lease(table, STORAGE, "first"), Lease(table, STORAGE, "second")
    create = first._files.create

    def overwritten(number: int, data: bytes) -> bool:
        made = create(number, data)
        second._files.write(number, second._me.to_bytes(SCHEMA))
        return made

    monkeypatch.setattr(first._files, "create", overwritten)
    with pytest.raises(LeaseError, match="second on host"):
        first.acquire()


def test_without_a_storage_clock_a_living_holder_is_watched_before_it_is_robbed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease_files, "SETTLE", 0.01)
    monkeypatch.setattr(lease_files, "_place", lambda: "")
    table = f"memory://lease-{os.getpid()}/v"
    now = time.time()
    with Lease(table, STORAGE, "alive", ttl=60, renew=0.5), monkeypatch.context() as patch:
        patch.setattr(lease_files.time, "time", lambda: now + 3600)  # this machine's clock is an hour ahead
        assert not can_take(table)


def test_without_a_storage_clock_a_dead_holder_is_robbed_once_it_was_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_files, "SETTLE", 0.01)
    monkeypatch.setattr(lease_files, "_place", lambda: "")
    table = f"memory://lease-{os.getpid()}/w"
    dead = take(table, ttl=1, renew=0.1)
    dead._stop.set()
    assert not can_take(table)
    eventually(lambda: can_take(table))
    with pytest.raises(LeaseLost):
        dead.check()
