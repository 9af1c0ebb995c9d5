"""What exists in the drawn world: kinds of things, colours, sizes, places, backgrounds, times of day.

Tables only. Scenes are composed from them (`scene`), drawn (`figures`, `backdrops`) and described (`grammar`).
Lengths are fractions of the picture's side; y grows downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RGB = tuple[int, int, int]

COLOURS: Final[dict[str, RGB]] = {
    "red": (222, 48, 52),
    "orange": (246, 138, 30),
    "yellow": (252, 212, 56),
    "green": (52, 164, 84),
    "blue": (44, 104, 216),
    "purple": (130, 70, 190),
    "pink": (246, 140, 184),
    "white": (248, 246, 240),
    "black": (50, 48, 60),
}

SIZES: Final[dict[str, float]] = {"small": 0.64, "medium": 1.0, "large": 1.6}
"""Scale of each size word; "medium" is the unmarked size and is never named in a caption."""

PLACES: Final[dict[str, tuple[float, float]]] = {
    "left": (0.0, 0.29),
    "middle": (0.45, 0.55),
    "right": (0.71, 1.0),
}
"""Where the middle of a group lies, as a range of x; the gaps between the ranges keep places unmistakable."""

TIMES: Final[tuple[str, ...]] = ("day", "sunset", "night")

MOST: Final[int] = 4
"""The largest number of things in a group."""


@dataclass(frozen=True)
class Kind:
    """A kind of thing. `width` and `height` are its medium size; `zone` is the part of a picture it lives in."""

    name: str
    plural: str
    zone: str
    width: float
    height: float
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Background:
    """A place for scenes: the kinds that live there and the colours that would be lost against its ground."""

    name: str
    kinds: tuple[str, ...]
    lost: tuple[str, ...]
    times: tuple[str, ...] = TIMES


_BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
_PAINTED = (*_BRIGHT, "white", "black")

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("balloon", "balloons", "sky", 0.150, 0.200, _BRIGHT),
        Kind("kite", "kites", "sky", 0.140, 0.215, _BRIGHT),
        Kind("bird", "birds", "sky", 0.180, 0.125, ("red", "yellow", "blue", "white", "black", "pink")),
        Kind("plane", "planes", "sky", 0.215, 0.125, ("red", "orange", "yellow", "blue", "white", "purple")),
        Kind("tree", "trees", "ground", 0.170, 0.235, ("green", "orange", "red", "yellow", "pink")),
        Kind("house", "houses", "ground", 0.195, 0.200, (*_BRIGHT, "white")),
        Kind("car", "cars", "ground", 0.230, 0.120, _PAINTED),
        Kind("cat", "cats", "ground", 0.140, 0.185, ("orange", "white", "black")),
        Kind(
            "flower", "flowers", "ground", 0.120, 0.195, ("red", "orange", "yellow", "blue", "purple", "pink", "white")
        ),
        Kind("ball", "balls", "ground", 0.130, 0.130, _BRIGHT),
        Kind("umbrella", "umbrellas", "ground", 0.200, 0.200, _BRIGHT),
        Kind("mushroom", "mushrooms", "ground", 0.150, 0.150, ("red", "orange", "yellow", "purple", "blue")),
        Kind("boat", "boats", "water", 0.195, 0.205, ("red", "orange", "yellow", "green", "purple", "white", "black")),
        Kind("duck", "ducks", "water", 0.165, 0.140, ("yellow", "white", "black", "pink")),
        Kind("fish", "fish", "deep", 0.190, 0.120, ("red", "orange", "yellow", "green", "pink", "purple", "white")),
        Kind("crab", "crabs", "ground", 0.190, 0.125, ("red", "orange", "purple", "pink")),
    )
}

_FLYING = ("balloon", "kite", "bird", "plane")

BACKGROUNDS: Final[dict[str, Background]] = {
    background.name: background
    for background in (
        Background(
            "meadow",
            (*_FLYING, "tree", "house", "car", "cat", "flower", "ball", "umbrella", "mushroom"),
            lost=("green",),
        ),
        Background("snow", (*_FLYING, "tree", "house", "car", "cat", "ball", "umbrella"), lost=("white",)),
        Background("beach", (*_FLYING, "umbrella", "ball", "crab", "cat", "car"), lost=("yellow",)),
        Background("sea", (*_FLYING, "boat", "duck"), lost=("blue",)),
        Background("desert", (*_FLYING, "house", "car", "cat", "ball", "flower"), lost=("orange", "yellow")),
        Background("town", (*_FLYING, "tree", "car", "cat", "ball", "umbrella", "flower"), lost=()),
        Background("underwater", ("fish", "crab"), lost=("blue",), times=("day",)),
    )
}

LOST_IN_SKY: Final[dict[str, tuple[str, ...]]] = {
    "day": (),
    "sunset": ("orange", "pink", "red"),
    "night": ("black", "blue", "purple"),
}
"""Colours that would be hard to see against the sky at a time of day."""


def colours_of(kind: Kind, background: Background, time: str) -> tuple[str, ...]:
    """The colours in which `kind` stands out from `background` at `time`; never empty."""
    lost = LOST_IN_SKY[time] if kind.zone == "sky" else background.lost
    if time == "night" and kind.zone != "sky":
        lost = (*lost, "black")
    if kind.name == "tree":
        lost = ()  # a crown stands against the sky and the hills behind, never on its own colour alone
    return tuple(colour for colour in kind.colours if colour not in lost)
