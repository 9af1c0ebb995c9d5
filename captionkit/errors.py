"""The two kinds of error that end a command with a line instead of a traceback."""

from __future__ import annotations


class UsageError(ValueError):
    """An option or address that cannot work as it is written, with what to write instead. Exit code 2."""


class OutsideError(Exception):
    """What the world outside refused: storage, a missing program, a broken download. Exit code 1."""
