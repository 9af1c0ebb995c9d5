"""The command that lists and prints recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from captionkit.cli.exit_codes import OK
from captionkit.cli.options import parse


@dataclass(frozen=True)
class RecipeOptions:
    """List the recipes of `captionkit train --recipe`, or print one, to copy and edit."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Which one to print. Default: list them all."""


def recipe(args: Sequence[str]) -> int:
    """`captionkit recipe`; the exit code."""
    options = parse(RecipeOptions, "recipe", args)
    from captionkit.training.recipes import read_recipe, recipe_names, recipe_text

    if options.name is not None:
        print(recipe_text(options.name), end="")
        return OK
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        print(f"{name:<{width}}  {read_recipe(name).about}")
    return OK
