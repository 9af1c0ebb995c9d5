"""What travels with `ray job submit --working-dir .`: small, and known by name. Packed by Ray's own packer."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from ray._private import ray_constants
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = {"captionkit", "jobs"}
KNOWN = {
    *NEEDED, ".ci", ".github", ".gitattributes", ".gitignore", ".pre-commit-config.yaml", ".rayignore", "CHANGELOG.md",
    "CITATION.cff", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "NOTICE", "README.md",
    "SECURITY.md",
    "benchmarks", "cluster.yaml", "deploy", "docs", "examples", "mkdocs.yml", "pyproject.toml", "tests",
}  # fmt: skip
"""All that a clone may hold at its top. Add what is not here yet, or keep it from travelling."""

LIMIT = 12 * 2**20
"""Bytes of the packed folder. Ray warns from 10 MiB a file on and refuses from 100 MiB in all."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would give a stranger, and what working in it leaves behind."""
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
    for litter in (
        ".git/objects/pack/huge.pack", ".venv/lib/python3.12/site-packages/torch/big.so", "demo/captions.html",
        "captionkit/__pycache__/cli.cpython-312.pyc", ".mypy_cache/x", ".pytest_cache/x", ".ruff_cache/x",
        "captionkit.egg-info/PKG-INFO", "build/lib/captionkit/cli.py", "dist/captionkit.whl",
    ):  # fmt: skip
        (folder / litter).parent.mkdir(parents=True, exist_ok=True)
        (folder / litter).write_bytes(os.urandom(2**20))
    return folder


def pack(folder: Path, excludes: list[str], tmp_path: Path) -> zipfile.ZipFile:
    """As `ray job submit --working-dir` does it."""
    package = tmp_path / "package.zip"
    excludes = [*ray_constants.get_runtime_env_default_excludes(), *excludes]
    create_package(str(folder), package, include_gitignore=True, excludes=excludes, logger=logging.getLogger())
    return zipfile.ZipFile(package)


def test_what_travels_is_small_and_known(clone: Path, tmp_path: Path) -> None:
    packed = pack(clone, [], tmp_path)
    tops = {name.partition("/")[0] for name in packed.namelist()}
    assert tops >= NEEDED
    assert tops <= KNOWN
    assert Path(str(packed.filename)).stat().st_size < LIMIT
    assert max(info.file_size for info in packed.infolist()) < 10 * 2**20
    litter = [name for name in packed.namelist() if ".egg-info" in name or "_cache/" in name or "pycache" in name]
    assert litter == []
    assert "captionkit/assets/default/weights.safetensors" in packed.namelist()


def submit_job() -> ModuleType:
    spec = spec_from_file_location("submit_job", ROOT / "examples" / "submit_job.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["submit_job"] = module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def test_the_python_example_sends_less(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = submit_job()
    monkeypatch.setattr(module, "ROOT", clone)
    env = module.runtime_env(module.Options())
    packed = pack(Path(env["working_dir"]), env["excludes"], tmp_path)
    tops = {name.partition("/")[0] for name in packed.namelist()}
    assert tops >= NEEDED
    assert not tops & {"tests", "docs", "benchmarks", "deploy", ".ci"}
    assert any(name.startswith("captionkit/model/") for name in packed.namelist())


def test_it_can_bring_what_the_machines_lack() -> None:
    module = submit_job()
    pip = module.runtime_env(module.Options(install=True))["pip"]
    assert any(line.startswith("torch==") for line in pip)
    assert not any(line.startswith("ray") for line in pip)
    assert not any("#" in line for line in pip)


def test_what_travels_is_enough_to_run(clone: Path, tmp_path: Path) -> None:
    """Without the package installed, from the unpacked folder alone."""
    folder = tmp_path / "unpacked"
    pack(clone, [], tmp_path).extractall(folder)
    code = (
        "import sys, runpy; sys.argv = ['jobs/caption.py', '--help']\n"
        f"sys.path[:] = [p for p in sys.path if p not in ('', {str(ROOT)!r})]\n"
        "try: runpy.run_path('jobs/caption.py', run_name='__main__')\n"
        "finally: import captionkit; print(captionkit.__file__)"
    )
    done = subprocess.run(
        ["env", "-u", "PYTHONPATH", sys.executable, "-c", code],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "--input" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == str(folder / "captionkit" / "__init__.py")
