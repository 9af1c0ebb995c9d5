"""Options from the command line, over those of a config file, over the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from captionkit.pipeline.config import read_config
from captionkit.storage import UsageError

T = TypeVar("T")


def parse(kind: type[T], command: str, args: Sequence[str]) -> T:
    """Options from the command line, over those of `--config` where the command knows it, over the defaults.

    Raises:
        UsageError: an option out of range, or a config file that cannot be used. What is wrong in form ends the
            program with exit code 2, as command lines do.
    """
    default: dict[str, Any] = {}
    config = _config_argument(args)
    if config is not None and "config" in getattr(kind, "__dataclass_fields__", {}):
        default["default"] = read_config(kind, config)
    try:
        parsed: T = tyro.cli(
            kind,
            prog=f"captionkit {command}",
            args=list(args),
            config=(tyro.conf.OmitSubcommandPrefixes,),
            **default,
        )
        return parsed
    except ValueError as err:  # raised by an options class that checks itself
        raise UsageError(str(err)) from err


def _config_argument(args: Sequence[str]) -> str | None:
    for index, arg in enumerate(args):
        if arg == "--config" and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith("--config="):
            return arg.partition("=")[2]
    return None
