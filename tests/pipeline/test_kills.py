"""Whatever dies, and whenever: one row per input after the same command again, and the captions of a quiet run."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from captionkit.cli import STOPPED
from captionkit.model.captioner import Captioner
from captionkit.storage import Storage
from captionkit.storage.documents import from_document
from captionkit.table.check import check
from tests.support.archive import Folder, tar_bytes

pytestmark = pytest.mark.usefixtures("ray_cluster")

VICTIMS = {
    "driver": None,
    "actor": "ray::MapWorker(MapBatches(CaptionActor)",
    "fetch": "ray::ReadFetchAndDecode",
    "decoder": "captionkit.images.decoder_worker",
}
"""What is killed, by what its processes are called."""


@pytest.fixture
def archive(folder: Folder, pictures: list[bytes]) -> tuple[Path, int]:
    """Loose pictures, broken ones and a shard; and how many rows that makes."""
    for number in range(280):
        folder.add(f"loose/{number:03d}.jpg", pictures[number % len(pictures)])
    for number in range(10):
        folder.add(f"loose/broken-{number}.jpg", b"no picture")
    folder.add("shard.tar", tar_bytes([(f"{number}.jpg", pictures[number % 12]) for number in range(60)]))
    return folder.path, 350


def command(archive: Path, output: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "captionkit", "caption", "--input", str(archive), "--output", str(output)),
        *(
            "--actors",
            "1",
            "--max-failed",
            "0.1",
            "--beam",
            "1",
            "--batch-size",
            "16",
            "--flush-rows",
            "40",
            "--fetch-threads",
            "2",
        ),
    ]


def start(archive: Path, output: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.Popen(command(archive, output), env=environment, stderr=subprocess.PIPE)


def victims(name: str) -> Iterator[psutil.Process]:
    for process in psutil.Process().children(recursive=True):  # and nobody else's Ray
        with suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            if line.startswith(name) or f"-m {name}" in line:
                yield process


def kill(victim: str, driver: subprocess.Popen[bytes], dice: random.Random) -> None:
    name = VICTIMS[victim]
    if name is None:
        driver.send_signal(signal.SIGKILL)
        return
    found = list(victims(name))
    if found:
        dice.choice(found).kill()


def captions(output: Path) -> dict[str, tuple[str, str | None]]:
    rows = pq.read_table(output, columns=["uri", "status", "caption"]).to_pylist()
    assert len({row["uri"] for row in rows}) == len(rows)
    return {row["uri"]: (row["status"], row["caption"]) for row in rows}


def run_through_deaths(archive: Path, output: Path, kills: list[tuple[str, float]], dice: random.Random) -> int:
    """Run the command, killing something at each of the moments, until it comes to its end. The runs it took."""
    runs = 0
    kills = list(kills)
    while True:
        runs += 1
        process = start(archive, output)
        while kills and process.poll() is None:
            victim, delay = kills.pop(0)
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                kill(victim, process, dice)
        code, said = process.wait(300), (process.stderr.read() if process.stderr else b"").decode()
        if code == 0 and not kills:
            return runs
        assert code in (0, -signal.SIGKILL), said[-3000:]
        if code == 0:
            # It was too quick for the rest: they get a table of their own to fall upon.
            for file in output.glob("*.parquet"):
                file.unlink()
        assert runs < 100


def test_a_run_is_stopped_and_whatever_goes_on_is_killed(
    archive: tuple[Path, int], pictures: list[bytes], tmp_path: Path
) -> None:
    folder, rows = archive
    output = tmp_path / "out"
    process = start(folder, output)
    deadline = time.monotonic() + 200
    while not list(output.glob("*.parquet")):
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline, "no table file in 200 s"
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == STOPPED
    (record,) = [from_document(file.read_bytes()) for file in (output / "_runs").glob("*.parquet")]
    assert record["status"] == "stopped"
    assert rows > len(captions(output)) == record["counts"]["captioned"] + record["counts"]["failed"] > 0
    assert not list((output / "_runs").glob("*.arrow"))

    run_through_deaths(folder, output, [("actor", 7.0), ("fetch", 1.0), ("driver", 1.0)], random.Random(0))
    found = captions(output)
    assert len(found) == rows
    texts = [caption.text for caption in Captioner.load().caption(pictures, beam=1)]
    for uri, said in found.items():
        number = re.search(r"(\d+)\.jpg$", uri)
        assert said == (
            ("failed", None) if "broken" in uri or not number else ("captioned", texts[int(number[1]) % 12])
        )
    report = check(str(output), Storage())
    assert report.ok, report.text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_five_deaths_at_random(archive: tuple[Path, int], tmp_path: Path) -> None:
    seed = int(os.environ.get("CAPTIONKIT_SEED", time.time_ns() % 10**6))
    print(f"seed {seed}: CAPTIONKIT_SEED={seed} repeats it")
    dice = random.Random(seed)
    kills = [(dice.choice(list(VICTIMS)), dice.uniform(0.5, 14.0)) for _ in range(25)]
    run_through_deaths(archive[0], tmp_path / "out", kills, dice)
    assert start(archive[0], tmp_path / "quiet").wait(300) == 0
    found = captions(tmp_path / "out")
    assert len(found) == archive[1]
    assert found == captions(tmp_path / "quiet")
    report = check(str(tmp_path / "out"), Storage())
    assert report.ok, report.text()
