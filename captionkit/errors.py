"""The error that means: the command, or an address in it, cannot work as it is written."""

from __future__ import annotations


class UsageError(ValueError):
    """An option or address that cannot work as it is written, with what to write instead."""
