"""Warnings of Ray Data in the job's own words: its own are pages long, about Ray's programming interface.

The rest of its warnings lies in Ray's own files (`logs/ray-data/ray-data.log` of its session), which it writes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from captionkit.progress import log_line

_HANGS = re.compile(
    r"of operator (?P<operator>\S+) (?:\(pid=(?P<pid>\d+), node_id=(?P<node>\w+).*?\) )?has been running or stuck in "
    r"scheduling for (?P<seconds>[\d.]+)s.*?\((?P<mean>[\d.]+) \+",
    re.DOTALL,
)
_MEMORY = re.compile(
    # While the run goes on: the process, Python and libraries too, takes more than its share of a machine. What Ray
    # Data says at the end of a run, that it took more than was asked for, is true of every run.
    r"Operator\s+'(?P<operator>[^']+)'\s+uses\s+(?P<mean>[\d.]+\s*\w+)\s+of\s+memory\s+per\s+worker\s+on\s+average"
    r"\s+\(up\s+to\s+(?P<most>[\d.]+\s*\w+)\)"
)
_DIED = "an actor died during initialization"


class RayDataLog(logging.Handler):
    """Says what Ray Data warns of and somebody can act on: tasks that hang, and memory that may run out.

    Args:
        write: Takes each line.
    """

    def __init__(self, write: Callable[[str], None] = log_line) -> None:
        super().__init__(logging.WARNING)
        self._write = write
        self._told: set[str] = set()
        self.on_failed_start: Callable[[BaseException | None], None] = lambda _: None
        """Called with the error of each actor that could not be built and that Ray Data is about to replace."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if _DIED in message:
            self.on_failed_start(record.exc_info[1] if record.exc_info else None)
        elif line := in_our_words(message):
            key = re.sub(r"[\d.]+ (s|[KMGT]?i?B)\b", "", line)
            if key not in self._told:  # Ray Data repeats itself every half minute
                self._told.add(key)
                self._write(line)


def in_our_words(message: str) -> str | None:
    """A warning of Ray Data's detectors as one line; None for any other message."""
    if match := _HANGS.search(message):
        place = f" (process {match['pid']} on Ray node {match['node']})" if match["pid"] else ""
        return (
            f"warning: {_task(match['operator'])}{place} has given nothing for {float(match['seconds']):.0f} s; on "
            f"average one takes {float(match['mean']):.0f} s. The storage it reads from is slow, or its machine hangs: "
            "`ray stack` on that machine shows where it is; a machine that is taken away has its tasks run elsewhere"
        )
    if match := _MEMORY.search(message):
        mean, most = (" ".join(match[name].split()) for name in ("mean", "most"))
        return (
            f"warning: {_task(match['operator'])} takes {mean} of memory on average, and up to {most}: more than its "
            "share of a machine, which may run out. Fewer --actors or --fetch-threads, a smaller --batch-size, or "
            "machines with more memory"
        )
    return None


def _task(operator: str) -> str:
    return "a fetch task" if "FetchAndDecode" in operator else f"a captioner actor ({operator})"


_log = RayDataLog()


def listen() -> RayDataLog:
    """Take Ray Data's warnings over from now on; its console is silent. The handler, one for the whole process.

    Its errors it raises as well, so they are not logged twice.
    """
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.WARNING)
    for handler in list(logger.handlers):
        if isinstance(handler, logging.StreamHandler):
            logger.removeHandler(handler)
    if _log not in logger.handlers:
        logger.addHandler(_log)
    return _log
