"""Java, in which the PTB tokenizer, METEOR and SPICE are written: whether it works, and its options."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# Java's decimal separator and lower case depend on the locale: with an Italian one METEOR cannot parse its own numbers,
# with a Turkish one the tokenizer turns I into ı.
LOCALE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
"""Options that make the results of Java programs independent of the locale."""

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def java_problem() -> str | None:
    """Why Java programs cannot run on this machine; None if they can."""
    if shutil.which("java") is None:
        return "Java is missing (no `java` on the PATH; install any JRE from version 8 on)"
    try:
        done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Java does not start: {error}"
    if done.returncode:  # the `java` of a fresh macOS only prints where to get one
        return f"Java does not start: {last_line(done.stderr) or f'exit code {done.returncode}'}"
    return None


def memory() -> int:
    """Bytes of memory that this process can use: the machine's, or the container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total


def last_line(text: str) -> str:
    """The last line of a program's output, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
