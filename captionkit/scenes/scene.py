"""Scenes: complete descriptions of pictures, made from a seed.

A `Scene` says everything that a caption may claim (what, how many, which colour and size, where, before what, when)
and everything that the drawing needs (a box for each thing). The same seed gives the same scene on every machine and
Python version: only `random.Random.random` is used, whose sequence Python guarantees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import fsum
from random import Random
from typing import Final, TypeVar

from captionkit.scenes.world import BACKGROUNDS, KINDS, MOST, PLACES, SIZES, Background, Kind, colours_of

T = TypeVar("T")

EDGE: Final[float] = 0.025
"""Things keep at least this distance from the picture's edge."""
GAP: Final[float] = 0.02
"""Things keep at least this distance from one another, across."""
SKYLINE: Final[float] = 0.45
"""Things in the sky end above this height; where a scene has both, things on the ground end below it."""
MIRRORED: Final[dict[str, str]] = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Box:
    """Where one thing is drawn, in fractions of the picture's side."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.top + self.height

    def overlaps(self, other: Box) -> bool:
        """Whether the two boxes share any area."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True)
class Group:
    """One to four things of the same kind, colour and size. `place` is None for a group as wide as the picture."""

    kind: str
    colour: str
    size: str
    place: str | None
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        """How many things there are."""
        return len(self.boxes)

    @property
    def zone(self) -> str:
        """The part of the picture in which the group lives: "sky", "ground", "water" or "deep"."""
        return KINDS[self.kind].zone


@dataclass(frozen=True)
class Scene:
    """A picture's full description. `seed` also decides what no caption speaks of: clouds, hills, stars."""

    seed: int
    background: str
    time: str
    groups: tuple[Group, ...]

    def find(self, kind: str) -> Group | None:
        """The group of that kind; no two groups of a scene are of the same kind."""
        return next((group for group in self.groups if group.kind == kind), None)

    def mirrored(self) -> Scene:
        """What a mirror shows: the same things, left and right exchanged."""
        groups = []
        for group in self.groups:
            boxes = tuple(replace(box, left=1 - box.right) for box in reversed(group.boxes))
            groups.append(replace(group, place=MIRRORED.get(group.place or "", group.place), boxes=boxes))
        return replace(self, groups=tuple(groups))


def relation(first: Group, second: Group) -> str | None:
    """How `first` lies to `second`: "above", "below", "left of", "right of", or None if none is clear."""
    order = tuple(PLACES)
    upper = ("sky", "deep")
    if (first.zone in upper) != (second.zone in upper):
        if first.place is None or second.place is None or first.place == second.place:
            return "above" if first.zone in upper else "below"
        return None
    if first.place is None or second.place is None or first.place == second.place:
        return None
    return "left of" if order.index(first.place) < order.index(second.place) else "right of"


def pick(random: Random, choices: Sequence[T]) -> T:
    """One of `choices`, all equally likely. (`Random.choice` may change between Python versions; `random` may not.)"""
    return choices[int(random.random() * len(choices))]


def between(random: Random, low: float, high: float) -> float:
    """A number from low to high."""
    return low + (high - low) * random.random()


def random_scene(seed: int) -> Scene:
    """The scene of that seed: a background, a time of day and one or two groups that fit beside each other."""
    random = Random(seed)
    while True:
        scene = _try_scene(seed, random)
        if scene is not None:
            return scene


def scenes(first_seed: int) -> Iterator[Scene]:
    """Scenes without end: those of first_seed, first_seed + 1, …"""
    seed = first_seed
    while True:
        yield random_scene(seed)
        seed += 1


def _try_scene(seed: int, random: Random) -> Scene | None:
    background = BACKGROUNDS[pick(random, tuple(BACKGROUNDS))]
    time = pick(random, background.times)
    names = [pick(random, background.kinds)]
    if random.random() < 0.55:
        names.append(pick(random, background.kinds))
    if len(set(names)) != len(names):
        return None
    shares_height = len({KINDS[name].zone in ("sky", "deep") for name in names}) == 2
    groups: list[Group] = []
    for name in names:
        group = _try_group(KINDS[name], background, time, shares_height, random)
        if group is None:
            return None
        groups.append(group)
    if len(groups) == 2 and not shares_height:
        first, second = groups
        apart = {first.place, second.place}
        # Two groups at one height must be told apart by their places, and neither may stand in the other.
        if None in apart or len(apart) == 1 or any(a.overlaps(b) for a in first.boxes for b in second.boxes):
            return None
        left, right = sorted(groups, key=lambda group: group.boxes[0].left)
        if max(box.right for box in left.boxes) + GAP > min(box.left for box in right.boxes):
            return None
    return Scene(seed, background.name, time, tuple(groups))


def _try_group(kind: Kind, background: Background, time: str, shares_height: bool, random: Random) -> Group | None:
    colour = pick(random, colours_of(kind, background, time))
    size = pick(random, tuple(SIZES))
    count = 1 + int(random.random() * MOST)
    sizes = [SIZES[size] * between(random, 0.95, 1.05) for _ in range(count)]
    widths = [kind.width * scale for scale in sizes]
    heights = [kind.height * scale for scale in sizes]
    gap = GAP + between(random, 0.0, 0.25) * widths[0]
    span = fsum(widths) + gap * (count - 1)
    if span > 1 - 2 * EDGE:
        return None
    place, centre = _place(span, random)
    if centre is None:
        return None
    low, high = _feet(kind, max(heights), shares_height)
    if low > high:
        return None
    level = between(random, low, high)
    wobble = {"sky": 0.5, "deep": 0.5, "ground": 0.12, "water": 0.2}[kind.zone] * max(heights)
    boxes: list[Box] = []
    left = centre - span / 2
    for width, height in zip(widths, heights, strict=True):
        foot = min(max(level + wobble * between(random, -1, 1), low), high)
        boxes.append(Box(left, foot - height, width, height))
        left += width + gap
    assert all(a.right < b.left for a, b in pairwise(boxes))
    return Group(kind.name, colour, size, place, tuple(boxes))


def _place(span: float, random: Random) -> tuple[str | None, float | None]:
    """A place for a row `span` wide and the x of its middle; no place for a wide row, no middle where it can't fit."""
    if span > 0.52:
        return None, between(random, EDGE + span / 2, 1 - EDGE - span / 2)
    place = pick(random, tuple(PLACES))
    low = max(PLACES[place][0], EDGE + span / 2)
    high = min(PLACES[place][1], 1 - EDGE - span / 2)
    return place, between(random, low, high) if low <= high else None


def _feet(kind: Kind, height: float, shares_height: bool) -> tuple[float, float]:
    """The range of heights at which things `height` tall may end below."""
    if kind.zone == "sky":
        return EDGE + 0.02 + height, SKYLINE if shares_height else SKYLINE + 0.05
    if kind.zone == "deep":
        return EDGE + 0.06 + height, 0.62 if shares_height else 0.86
    highest = SKYLINE + 0.02 + height if shares_height else 0.0
    nearest = 0.94 if kind.zone == "ground" else 0.90
    start = 0.84 if kind.name == "crab" else 0.70
    return max(highest, start), nearest
