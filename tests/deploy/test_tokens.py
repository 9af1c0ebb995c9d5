"""A Ray cluster that wants a token, as all will from Ray 2.61 on: a job is sent to it and captions."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder
from tests.support.ray_head import BIN, Head, ray_head

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "0123456789abcdef0123456789abcdef"


def answer(head: Head, token: str = "") -> int:
    """The status with which the dashboard answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{head.dashboard}/api/jobs/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as err:
        return err.code
    except OSError:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_captions_where_a_token_is_wanted_and_none_is_taken_without(folder: Folder, tmp_path: Path) -> None:
    for number in range(3):
        folder.add(f"{number}.jpg", number)
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    known = {**env, "HOME": str(home), "RAY_AUTH_MODE": "token", "PATH": f"{BIN}:{env['PATH']}"}
    stranger = {**known, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    place = Path(tempfile.mkdtemp(prefix="ck"))

    def submit(env: dict[str, str], dashboard: str, output: str) -> subprocess.CompletedProcess[str]:
        args = ["--input", str(folder.path), "--output", output, "--actors", "1", "--beam", "1"]
        command = [sys.executable, "examples/submit_job.py", "--address", dashboard, "--", *args]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)

    with ray_head(place, known, lambda head: answer(head, TOKEN) == 200, store=200 * 2**20, seconds=90) as head:
        assert answer(head) in (401, 403)
        refused = submit(stranger, head.dashboard, str(tmp_path / "refused"))
        assert refused.returncode != 0
        assert not (tmp_path / "refused").exists()
        done = submit(known, head.dashboard, str(tmp_path / "out"))
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(CaptionTable(str(tmp_path / "out"), Storage())) == 3
