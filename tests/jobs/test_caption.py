"""The main job as people run it on a cluster: `ray job submit` from a clean clone, images and table in S3."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
from tests.support.archive import jpeg
from tests.support.ray_head import BIN, Head, ray_head
from tests.support.servers import S3Server

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would give a stranger: the files it tracks or would track, nothing built, nothing ignored."""
    folder = tmp_path_factory.mktemp("clone")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in listing.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def cluster(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """`ray start --head` beside whatever else runs here; the dashboard's address and the environment to use."""
    env = {
        **os.environ,
        **s3.env(),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path_factory.mktemp("home")),  # Ray leaves a token there
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    env.pop("RAY_ADDRESS", None)
    temp = Path("/tmp") / f"ck{os.getpid()}"  # a socket's path must be short
    with ray_head(temp, env, dashboard_answers, store=300 * 2**20, seconds=60) as head:
        yield head.dashboard, env


def dashboard_answers(head: Head) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{head.dashboard}/api/version", timeout=2)
        return True
    return False


def submit(clone: Path, cluster: tuple[str, dict[str, str]], *args: str) -> subprocess.CompletedProcess[str]:
    address, env = cluster
    return subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", address, "--working-dir", str(clone), "--",
         "python", "jobs/caption.py", *args],
        cwd=clone, env=env, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def driver_exit_code(cluster: tuple[str, dict[str, str]], log: str) -> int | None:
    """The job's own exit code: `ray job submit` itself always ends with 1 when a job failed."""
    match = re.search(r"raysubmit_\w+", log)
    assert match, log
    script = (
        "import sys; from ray.job_submission import JobSubmissionClient as C\n"
        f"print(C({cluster[0]!r}).get_job_info({match.group()!r}).driver_exit_code)"
    )
    shown = subprocess.run([sys.executable, "-c", script], env=cluster[1], capture_output=True, text=True, check=True)
    return int(shown.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def files(s3: S3Server) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(key=s3.key, secret=s3.secret, endpoint_url=s3.endpoint, skip_instance_cache=True)


@pytest.fixture(scope="module")
def submitted(
    clone: Path, cluster: tuple[str, dict[str, str]], s3: S3Server, files: s3fs.S3FileSystem
) -> tuple[str, subprocess.CompletedProcess[str]]:
    """A bucket of six images, and what came of the job on it."""
    bucket = s3.make_bucket()
    for seed in range(6):
        files.pipe_file(f"{bucket}/in/{seed}.jpg", jpeg(seed))
    return bucket, submit(clone, cluster, *places(bucket))


def places(bucket: str) -> tuple[str, ...]:
    return "--input", f"s3://{bucket}/in/", "--output", f"s3://{bucket}/out"


def test_submitted_from_a_clone_it_captions_from_s3(submitted: tuple[str, subprocess.CompletedProcess[str]]) -> None:
    bucket, done = submitted
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    assert "captioned 6, failed 0" in log
    rows = list(CaptionTable(f"s3://{bucket}/out", Storage()).rows())
    assert sorted(row["uri"] for row in rows) == [f"s3://{bucket}/in/{seed}.jpg" for seed in range(6)]
    assert all(row["caption"] for row in rows)


@pytest.mark.slow
def test_submitted_again_it_says_what_it_would_do_and_how_it_failed(
    clone: Path,
    cluster: tuple[str, dict[str, str]],
    files: s3fs.S3FileSystem,
    submitted: tuple[str, subprocess.CompletedProcess[str]],
) -> None:
    bucket, _ = submitted
    dry = submit(clone, cluster, *places(bucket), "--dry-run")
    log = dry.stdout + dry.stderr
    assert dry.returncode == 0, log[-4000:]
    assert "6 images (6 × .jpg)" in log
    assert "holds 6 rows" in log
    assert "--gpus-per-actor" in log

    for number in range(3):
        files.pipe_file(f"{bucket}/in/bad-{number}.jpg", b"no picture")
    again = submit(clone, cluster, *places(bucket))
    log = again.stdout + again.stderr
    assert again.returncode == 1
    assert "captioned 0, failed 3" in log
    assert "3 × not_an_image" in log
    assert driver_exit_code(cluster, log) == 3
    assert len(list(CaptionTable(f"s3://{bucket}/out", Storage()).rows())) == 9
