"""Submit a caption job from Python: send this folder, follow its log, end with the job's own exit code.

    python examples/submit_job.py --address http://HEAD:8265 -- --input s3://archive/2014/ --output s3://captions/2014/

What follows `--` are options of `captionkit caption`. Unlike `ray job submit`, which ends with 1 whatever went wrong,
this ends with the job's own code (3: too many failed images), and Ctrl-C stops the job, which keeps its captions.
Where machines have Ray but not what else captionkit needs, `--install` has Ray install it for this job, once a machine.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).resolve().parent.parent
EXCLUDES = [
    "/tests", "/docs", "/mkdocs.yml", "/benchmarks", "/deploy", "/findings", "/.ci", "/.github", "/CITATION.cff",
]  # fmt: skip
"""What no job needs, beside what `.gitignore` names."""


@dataclass(frozen=True)
class Options:
    """Submit a caption job to a Ray cluster; options of `captionkit caption` follow `--`."""

    address: str = "http://127.0.0.1:8265"
    """The cluster's dashboard. `ray dashboard cluster.yaml` brings it here."""
    submission_id: str | None = None
    """A name for the job, so that other programs can find it. Default: Ray makes one up."""
    install: bool = False
    """Install what `deploy/requirements.txt` lists, for this job, on machines that lack it. Ray must be there."""
    wait: bool = True
    """Follow the log to the end. Otherwise say the job's name and leave it running."""
    stop_seconds: int = 120
    """Seconds that the job has to write its captions when it is stopped, before it is killed. Ray's own 3 are few."""


def runtime_env(options: Options) -> dict[str, Any]:
    """What Ray is to give the job: the code, and how long it may take to stop."""
    env: dict[str, Any] = {
        "working_dir": str(ROOT),
        "excludes": EXCLUDES,
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(options.stop_seconds)},
    }
    if options.install:
        lines = (ROOT / "deploy" / "requirements.txt").read_text().splitlines()
        needed = [line.partition("#")[0].strip() for line in lines]
        # A second Ray beside the one that runs the cluster would not talk to it.
        env["pip"] = [line for line in needed if line and not line.startswith("ray[")]
    return env


def submit(options: Options, arguments: list[str]) -> int:
    """Returns the exit code to end with."""
    client = JobSubmissionClient(options.address)
    job = client.submit_job(
        entrypoint=shlex.join(["python", "jobs/caption.py", *arguments]),
        submission_id=options.submission_id,
        runtime_env=runtime_env(options),
    )
    print(job, file=sys.stderr)
    if not options.wait:
        print(f"ray job logs --follow --address {options.address} {job}", file=sys.stderr)
        print(f"ray job stop --address {options.address} {job}", file=sys.stderr)
        return 0
    try:
        asyncio.run(follow(client, job))
    except KeyboardInterrupt:
        print("stopping; captions are kept", file=sys.stderr)
        client.stop_job(job)
    while not (status := client.get_job_status(job)).is_terminal():
        time.sleep(1)
    if status == JobStatus.SUCCEEDED:
        return 0
    info = client.get_job_info(job)
    print(f"{status}: {info.message}", file=sys.stderr)
    return 130 if status == JobStatus.STOPPED else info.driver_exit_code or 1


async def follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def main() -> int:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    return submit(tyro.cli(Options, args=words[:cut], description=__doc__), words[cut + 1 :])


if __name__ == "__main__":
    sys.exit(main())
