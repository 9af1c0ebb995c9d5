"""Contestants of a benchmark: each runs in a process of its own, of the benchmark's own script with `--run NAME`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence


def seconds(script: str, name: str, **options: object) -> float:
    """What a contestant says it took. Options that are None are left out; the program ends where it fails."""
    command = [sys.executable, script, "--run", name]
    for option, value in options.items():
        command += [] if value is None else [f"--{option.replace('_', '-')}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def print_seconds(took: float) -> None:
    """How a contestant answers `seconds`."""
    print(json.dumps({"seconds": took}))


def ratio_row(name: str, ratios: Sequence[float]) -> dict[str, str | float]:
    """The ratios of all rounds as a row of a report."""
    return {"rates": name, "median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
