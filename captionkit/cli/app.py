"""The `captionkit` command: from a name to its module, from an error to its exit code.

Nothing is imported before it is needed: `captionkit --help` costs what Python's start costs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import captionkit
from captionkit.cli.commands import COMMANDS
from captionkit.cli.exit_codes import BROKEN, EXIT_CODES, OK, STOPPED, USAGE
from captionkit.errors import OutsideError, UsageError
from captionkit.pipeline.signals import JobStopped


def main(args: Sequence[str] | None = None) -> int:
    """The `captionkit` command; returns its exit code (see `EXIT_CODES`)."""
    try:
        code = _run([*(sys.argv[1:] if args is None else args)] or ["--help"])
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `captionkit check captions/ | head`: the reader has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it ends
        return BROKEN


def _run(args: Sequence[str]) -> int:
    name, *rest = args
    if name in ("--version", "-V"):
        print(f"captionkit {captionkit.__version__}")
        return OK
    if name not in COMMANDS:
        print(_overview(), file=sys.stdout if name in ("--help", "-h") else sys.stderr)
        return OK if name in ("--help", "-h") else USAGE
    try:
        run: Callable[[Sequence[str]], int] = getattr(import_module(f"captionkit.cli.{COMMANDS[name].module}"), name)
        return run(rest)
    except UsageError as err:
        return _complain(USAGE, str(err))
    except OutsideError as err:
        return _complain(BROKEN, str(err))
    except JobStopped as err:
        return _complain(STOPPED, f"stopped by {err}; the same command goes on from here")
    except Exception as err:
        if "ray" not in sys.modules:
            raise
        from captionkit.pipeline.cluster import raised_by_task

        cause = raised_by_task(err)
        if cause is err or not isinstance(cause, OutsideError):
            raise
        return _complain(BROKEN, str(cause))


def _overview() -> str:
    lines = [f"  {name:<10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: captionkit COMMAND [OPTIONS]     (captionkit COMMAND --help says more)",
            "",
            *lines,
            "",
            EXIT_CODES,
        ]
    )


def _complain(code: int, message: str) -> int:
    from captionkit.progress import log_line

    log_line(f"captionkit: {message}")
    return code
