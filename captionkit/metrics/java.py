"""Java, which the PTB tokenizer, METEOR and SPICE are written in: whether it is there, and how it is started."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# Java takes its decimal point and its lower case from the locale: in an Italian one METEOR cannot read its own
# figures, in a Turkish one the tokenizer makes I into ı.
LOCALE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
"""Options that make Java's programs give the same anywhere."""

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def java_problem() -> str | None:
    """Why Java's programs cannot run here; None where they can."""
    if shutil.which("java") is None:
        return "Java is missing (no `java` on the PATH; any JRE from 8 on will do)"
    try:
        done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Java does not start: {error}"
    if done.returncode:  # macOS has a `java` that only says where to get one
        return f"Java does not start: {last_line(done.stderr) or f'exit code {done.returncode}'}"
    return None


def memory() -> int:
    """Bytes of memory that this process may hope for: the machine's, or the container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total


def last_line(text: str) -> str:
    """What a program said last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
