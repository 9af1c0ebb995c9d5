"""What a benchmark prints and leaves: a table in Markdown, and the same with the machine's facts as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

Row = Mapping[str, str | int | float | None]


def report(rows: Sequence[Row], path: str | None, device: str | None = None) -> None:
    """Print the rows, whose columns are those of the first; write them to `path` if there is one.

    Args:
        device: name of the accelerator, where one took part.
    """
    names = list(rows[0])
    lines = [names, ["---" for _ in names], *([_text(row.get(name)) for name in names] for row in rows)]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines), flush=True)
    if path is None:
        return
    facts = {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu(), "cpus": os.cpu_count(), "device": device, "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("captionkit", "ray", "torch")},
        },
    }
    Path(path).write_text(json.dumps({**facts, "rows": rows}, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _text(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else value


def _cpu() -> str:
    """The processor's name: Linux tells it in /proc alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
