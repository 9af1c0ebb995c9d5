"""What a spot machine's notice saves: the same job loses a machine with and without `deploy/spot_notice.py`, by turns.

    python benchmarks/spot_notice.py                 # three runs each; wants root and the lab of tests/deploy/lab.py
    python benchmarks/spot_notice.py --rounds 1

A head without CPUs and two workers, each with a network and processes of its own, on this machine. Some seconds after
the first captions one worker's metadata service says that the machine is taken away, and half a minute later (Google
Cloud's notice; EC2's is two minutes) its power is off. The captioners are stubs that sleep, so that it does not matter
what else runs here. Counted are the tasks that Ray ran again, as its state API tells them apart by their attempts: each
makes blocks that were made before.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from _report import report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.deploy.lab import STATE, Lab, missing, plain_lab
from tests.pipeline import growing
from tests.support.archive import jpeg

PORT = 8099
NOTICE = "computeMetadata/v1/instance/preempted"
RAY = "RAY_raylet_start_wait_time_s=200 ray start --disable-usage-stats --object-store-memory=200000000"
JOB = """
import ray, sys
from captionkit.cli.options import parse
from captionkit.pipeline.job import CaptionJob
from captionkit.pipeline.options import CaptionOptions
from tests.pipeline import growing

class Stub(growing.StubActor):  # a twentieth of a second an image, until the file `quick` is there
    def build(self, bundle, options):
        print("a captioner is up", flush=True)
        return super().build(bundle, options)

storage = "/mnt/cluster_storage"
words = "--address auto --actors 2:2 --batch-size 16 --progress-seconds 1".split()
words += ["--input", f"{storage}/in", "--output", f"{storage}/out"]
job = CaptionJob(parse(CaptionOptions, "caption", words), actor=Stub)
Stub.size, Stub.folder = job.preprocessing.size, storage
ray.cloudpickle.register_pickle_by_value(growing)
assert job.run().status == "succeeded"
"""
COUNT = """
import json, ray
from collections import Counter
from ray.util.state import list_tasks
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
ray.init("auto", logging_level="ERROR")
tasks = list_tasks(limit=10_000, raise_on_missing_output=False)
again = Counter(task.type for task in tasks if task.attempt_number > 0)
rows = [row["uri"] for row in CaptionTable("/mnt/cluster_storage/out", Storage()).rows(["uri", "status"])
        if row["status"] == "captioned"]
print(json.dumps({"fetch": again["NORMAL_TASK"], "captioner": again["ACTOR_TASK"],
                  "rows": len(rows), "different": len(set(rows))}))
"""


@dataclass(frozen=True)
class Options:
    """A job that loses a machine of two, with a notice and without."""

    rounds: int = 3
    images: int = 6000
    notice: float = 30.0
    """Seconds from the notice to the end of the machine."""
    after: float = 5.0
    """Seconds from the first captions to the notice."""
    json: str | None = None
    """Also write the table, with the machine's facts, to this file."""


def wait_until(done: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {seconds:g} s: {what}")
        time.sleep(0.5)


def draw(images: int) -> None:
    """Lay the images where all hosts see them."""
    folder = STATE / "shared" / "in"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pictures = [jpeg(number, 320) for number in range(10)]
    for number in range(images):
        (folder / f"{number:06}.jpg").write_bytes(pictures[number % 10])


def start_ray(lab: Lab, host: str, words: str) -> None:
    """Start Ray on a host; once more where it has not come up, as on a busy machine."""
    lab.run(host, f"{RAY} {words} || (ray stop --force; {RAY} {words})", timeout=600)


def started(log: Path) -> bool:
    """Whether both captioners are up, and captions have come."""
    text = log.read_text() if log.exists() else ""
    return text.count("a captioner is up") == 2 and "captioning: " in text


def captioned(log: Path) -> int:
    """Images that are captioned by now, as the log says."""
    return int(re.findall(r"captioning: ([\d,]+) of", log.read_text())[-1].replace(",", ""))


def run(lab: Lab, options: Options, watched: bool) -> dict[str, str | int | float | None]:
    """One job, and what Ray ran again. Whether the machine that goes is `watched` by deploy/spot_notice.py."""
    shutil.rmtree(STATE / "shared" / "out", ignore_errors=True)
    (STATE / "shared" / growing.QUICK).unlink(missing_ok=True)
    start_ray(lab, "h1", "--head --port=6379 --num-cpus=0")
    for host in ("h2", "h3"):
        start_ray(lab, host, "--address=10.77.0.1:6379 --num-cpus=2")
    notice = STATE / "hosts" / "h2" / "root" / NOTICE
    notice.parent.mkdir(parents=True, exist_ok=True)
    notice.write_text("FALSE")
    lab.start("h2", f"python -m http.server --bind 127.0.0.1 --directory ~ {PORT} > ~/metadata.log 2>&1")
    if watched:
        address = f"http://127.0.0.1:{PORT}"
        lab.start("h2", f"python deploy/spot_notice.py --cloud google --metadata {address} > ~/spot_notice.log 2>&1")
    log = STATE / "hosts" / "h1" / "root" / "job.log"
    log.unlink(missing_ok=True)
    (log.parent / "job.py").write_text(JOB)
    job = lab.start("h1", "RAY_DEDUP_LOGS=0 PYTHONPATH=$PWD python ~/job.py > ~/job.log 2>&1")
    wait_until(lambda: started(log), 300, "both captioners, and the first captions")
    time.sleep(options.after)
    notice.write_text("TRUE")
    time.sleep(options.notice)
    if job.poll() is not None or captioned(log) > 0.8 * options.images:
        raise RuntimeError(f"the job was nearly over before the machine was; more --images\n{log.read_text()[-3000:]}")
    before = captioned(log)
    lab.tool("poweroff", "h2")
    (STATE / "shared" / growing.QUICK).touch()
    code = job.wait(1200)
    if code:
        raise RuntimeError(f"exit code {code}\n{log.read_text()[-3000:]}")
    time.sleep(3)  # task events are sent once a second
    (STATE / "hosts" / "h1" / "root" / "count.py").write_text(COUNT)
    counted = json.loads(lab.run("h1", "python ~/count.py").splitlines()[-1])
    if (counted["rows"], counted["different"]) != (options.images, options.images):
        raise RuntimeError(f"not a row for each of {options.images} images: {counted}")
    return {
        "spot_notice.py": "runs" if watched else "does not run",
        "fetch tasks again": counted["fetch"],
        "captioner tasks again": counted["captioner"],
        "images before the machine's end": before,
    }


def main(options: Options) -> int:
    if why := missing():
        print(why, file=sys.stderr)
        return 2
    rows = []
    for _ in range(options.rounds):
        for watched in (True, False):
            with plain_lab(3, Lab()) as lab:
                draw(options.images)
                rows.append(run(lab, options, watched))
            print(rows[-1], file=sys.stderr, flush=True)
    report(rows, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
