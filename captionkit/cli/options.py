"""Options from the command line, over those of a config file, over the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from captionkit.cli.commands import COMMANDS
from captionkit.config import read_config
from captionkit.errors import UsageError

T = TypeVar("T")
(_APPENDED,) = get_args(tyro.conf.UseAppendAction[int])[1:]


def parse(kind: type[T], command: str, args: Sequence[str], base: T | None = None) -> T:
    """Options from the command line, over those of `--config` where the command knows it, over the defaults.

    Args:
        base: options in place of the defaults and of `--config`, which must not be given then.

    Raises:
        UsageError: an option out of range, or a config file that cannot be used. What is wrong in form ends the
            program with exit code 2, as command lines do.
    """
    default: dict[str, Any] = {}
    config = argument(args, "config")
    if base is not None:
        default["default"] = base
        if config is not None:
            raise UsageError("--config and --recipe exclude each other: a recipe is a config file itself; copy it")
    elif config is not None and "config" in getattr(kind, "__dataclass_fields__", {}):
        default["default"] = read_config(kind, config)
    try:
        parsed: T = tyro.cli(
            kind,
            prog=f"captionkit {command}",
            description=COMMANDS[command].help,
            args=_gathered(args, _options_of_several_values(kind)),
            config=(tyro.conf.OmitSubcommandPrefixes,),
            **default,
        )
        return parsed
    except ValueError as err:  # raised by an options class that checks itself
        raise UsageError(str(err)) from err


def _options_of_several_values(kind: type) -> set[str]:
    """Options that take several values, as they are typed: `--input`."""
    names: set[str] = set()
    marked = get_type_hints(kind, include_extras=True)
    for name, hint in get_type_hints(kind).items():
        if _APPENDED in getattr(marked[name], "__metadata__", ()):
            continue  # each mention has one value, and the parser gathers them itself
        hints = [hint, *get_args(hint)]
        if any(get_origin(one) is tuple for one in hints):
            names |= {f"--{name.replace('_', '-')}", f"--{name}"}
        for one in hints:
            if isinstance(one, type) and is_dataclass(one):
                names |= _options_of_several_values(one)
    return names


def _gathered(args: Sequence[str], several: set[str]) -> list[str]:
    """The arguments with all values of an option that is given more than once behind its first mention.

    The parser would take the last mention alone: `--input one/ --input two/` would lose a folder without a word.
    """
    values: dict[str, list[str]] = {}
    order: list[str | list[str]] = []
    current: list[str] | None = None
    for arg in args:
        flag, equals, value = arg.partition("=")
        if flag in several:
            name = flag.replace("_", "-")
            if name not in values:
                values[name] = []
                order += [flag, values[name]]
            current = values[name]
            if equals:
                current.append(value)
        elif arg.startswith("--") or current is None:
            current = None
            order.append(arg)
        else:
            current.append(arg)
    return [one for part in order for one in ([part] if isinstance(part, str) else part)]


def argument(args: Sequence[str], name: str) -> str | None:
    """The value of an option that must be known before the others are read; None where it is not given."""
    for index, arg in enumerate(args):
        if arg == f"--{name}" and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith(f"--{name}="):
            return arg.partition("=")[2]
    return None
