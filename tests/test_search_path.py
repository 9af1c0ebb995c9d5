"""What lies in the current folder is data, and nobody's code."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from captionkit.images import Decoded, Limits, Preprocessing, Sandbox, decoder_process
from captionkit.search_path import safe_environment, safe_search_path
from tests.support.archive import jpeg

ROOT = Path(__file__).resolve().parent.parent
TRAP = "open({marker!r}, 'a').write('run')\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed))
    return folder


def trap(folder: Path, *modules: str) -> Path:
    """Put files into a folder that leave a mark when they are run; the mark."""
    marker = folder.parent / "was-run"
    for module in modules:
        (folder / f"{module}.py").write_text(TRAP.format(marker=str(marker)))
    return marker


def test_the_current_folder_and_relative_entries_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", "sub", str(tmp_path), "/elsewhere", *sys.path])
    found = safe_search_path()
    assert "/elsewhere" in found
    assert sysconfig.get_path("stdlib") in found
    assert str(ROOT) in found
    assert all(os.path.isabs(path) for path in found)
    assert not any(Path(path).resolve() == tmp_path.resolve() for path in found)


def test_libraries_are_found_from_within_their_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sysconfig.get_path("purelib"))
    assert sysconfig.get_path("purelib") in safe_search_path()


@pytest.mark.parametrize("safe", [True, False], ids=["by variable", "Python 3.10"])
def test_the_decoding_child_runs_no_file_of_the_current_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    marker = trap(photos, "queue", "json", "numpy", "PIL", "captionkit", "sitecustomize")
    monkeypatch.chdir(photos)
    monkeypatch.setattr(sys, "path", ["", str(photos), *sys.path])
    if not safe:
        environment = {"PYTHONPATH": safe_environment()["PYTHONPATH"], "PYTHONSAFEPATH": ""}
        monkeypatch.setattr(decoder_process, "safe_environment", lambda: environment)
    sandbox = Sandbox(Preprocessing(64, 72), Limits(), threads=1)
    try:
        assert isinstance(sandbox.decode_many([jpeg(1)])[0], Decoded)
    finally:
        sandbox.close()
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [str(Path(sys.executable).parent / "captionkit"), "caption"],
        [sys.executable, "-m", "captionkit", "caption"],
        [sys.executable, str(ROOT / "jobs" / "caption.py")],
    ],
    ids=["captionkit", "python -m captionkit", "jobs/caption.py"],
)
def test_no_process_of_a_run_runs_a_file_of_the_current_folder(
    photos: Path, tmp_path: Path, command: list[str]
) -> None:
    marker = trap(photos, "queue", "numpy", "torch", "stat", "emoji")
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    done = subprocess.run(
        [*command, "--input", ".", "--output", str(tmp_path / "out")],
        cwd=photos,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "captioned 3, failed 0" in done.stderr
    assert not marker.exists()
    # What Ray says at every run is of no use to anyone.
    assert "object store" not in done.stderr
    assert "RAY_BACKEND_LOG_LEVEL" not in done.stderr
