"""Progress for people: a bar with rate and remaining time on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from captionkit.storage import redact


class Meter:
    """Counts something long. Use as a context manager; messages and bars go to standard error.

    Args:
        what: What is counted, as in "captioning: 1,200 images".
        unit: The plural of one thing counted.
        total: How many there will be; None where that is not known.
        seconds: Least time between two lines in a log.
    """

    def __init__(self, what: str, unit: str, total: int | None = None, seconds: float = 30.0) -> None:
        self.what, self.unit, self.total, self.seconds = what, unit, total, seconds
        self.count = 0
        self.note = ""
        self._start = self._printed = time.monotonic()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Things a second since the start."""
        return self.count / max(1e-9, time.monotonic() - self._start)

    def update(self, count: int, note: str = "") -> None:
        """Say how many there are by now, and what else is worth a word."""
        self.count, self.note = count, note
        if self._bar:
            self._bar.update(self._task, completed=count, figures=self._figures())
        elif time.monotonic() - self._printed >= self.seconds:
            self._printed = time.monotonic()
            print(f"{self.what}: {self._figures()}{self._remaining()}", file=sys.stderr, flush=True)

    def _figures(self) -> str:
        of = f" of {self.total:,}" if self.total else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.count:,}{of} {self.unit}, {self.rate:,.0f}/s{note}"

    def _remaining(self) -> str:
        if not self.total or not self.count:
            return ""
        minutes, seconds = divmod(int((self.total - self.count) / self.rate), 60)
        return f", about {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"


def log_line(line: str) -> None:
    """One line for the person who runs this; what looks like a password or a key in it is not shown."""
    print(redact(line), file=sys.stderr, flush=True)
