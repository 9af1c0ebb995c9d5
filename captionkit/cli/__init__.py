"""The `captionkit` command: a module for each family of commands."""

from captionkit.cli.app import main
from captionkit.cli.commands import COMMANDS
from captionkit.cli.exit_codes import BROKEN, OK, STOPPED, TOO_MANY_FAILED, USAGE

__all__ = ["BROKEN", "COMMANDS", "OK", "STOPPED", "TOO_MANY_FAILED", "USAGE", "main"]
