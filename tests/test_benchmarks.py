"""Benchmarks: what they print and leave, on small numbers. What they measure is for people to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py"))


def run(script: str, *options: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_benchmark_prints_a_table_and_writes_it_with_command_date_and_machine(tmp_path: Path) -> None:
    path = tmp_path / "cider.json"
    printed = run("cider.py", "--hypotheses", "20", "--images", "20", "--batch", "5", "--json", str(path))
    left = json.loads(path.read_text("utf-8"))
    assert left["rows"][0]["what"] == "pycocoevalcap"
    assert "| pycocoevalcap |" in printed
    assert all(set(row) == set(left["rows"][0]) for row in left["rows"])
    assert f"--json {path}" in left["command"]
    assert left["at"]
    assert left["machine"]["cpus"]
    assert left["versions"]["captionkit"]


def test_the_structure_names_every_package() -> None:
    printed = run("structure.py")
    folders = {file.parent for file in (ROOT / "captionkit").glob("*/__init__.py")}
    assert {folder.name for folder in folders} <= {line.split(" ")[0] for line in printed.splitlines()}
    assert "import circles: " in printed


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_stands_on_its_page_and_says_its_options(script: str) -> None:
    assert f"benchmarks/{script}" in (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    printed = run(script, "--help")
    assert script == "structure.py" or "--json" in printed
