"""What can be said of a scene: a small grammar of true captions, with many phrasings of each."""

from __future__ import annotations

from random import Random
from typing import Final

from captionkit.scenes.scene import Group, Scene, pick, relation
from captionkit.scenes.world import KINDS

NUMBERS: Final[dict[str, int]] = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
SIZE_WORDS: Final[dict[str, str]] = {"small": "small", "little": "small", "large": "large", "big": "large"}
PLACE_PHRASES: Final[dict[str, str]] = {"on the left": "left", "in the middle": "middle", "on the right": "right"}
BACKGROUND_PHRASES: Final[dict[str, str]] = {
    "in a meadow": "meadow",
    "in the snow": "snow",
    "on the beach": "beach",
    "at sea": "sea",
    "in the desert": "desert",
    "in the city": "town",
    "in town": "town",
    "under water": "underwater",
    "under the sea": "underwater",
}
TIME_PHRASES: Final[dict[str, str]] = {
    "at night": "night",
    "at sunset": "sunset",
    "by day": "day",
    "on a sunny day": "day",
}
RELATION_PHRASES: Final[dict[str, str]] = {
    "above": "above",
    "below": "below",
    "to the left of": "left of",
    "to the right of": "right of",
}


def captions(scene: Scene, seed: int, count: int = 5) -> list[str]:
    """`count` true captions, the same for the same seed; lower case, words and blanks only.

    Each names every kind of thing with number and colour; size, place, surroundings and time of day come and go.
    """
    random = Random(seed)
    return [_caption(scene, random) for _ in range(count)]


def _caption(scene: Scene, random: Random) -> str:
    groups = list(scene.groups)
    if random.random() < 0.5:
        groups.reverse()
    surroundings = [_say(BACKGROUND_PHRASES, scene.background, random)] if random.random() < 0.9 else []
    if scene.background != "underwater" and random.random() < 0.6:
        surroundings.append(_say(TIME_PHRASES, scene.time, random))
    between = relation(*groups) if len(groups) == 2 and random.random() < 0.3 else None
    if between is not None:
        words = [_things(groups[0], random), _say(RELATION_PHRASES, between, random), _things(groups[1], random)]
    else:
        placed = random.random() < 0.7
        phrases = [_things(group, random) + (_place(group, random) if placed else "") for group in groups]
        words = [f" {pick(random, ('and', 'with'))} ".join(phrases)]
    return " ".join([*surroundings, *words] if random.random() < 0.25 else [*words, *surroundings])


def _things(group: Group, random: Random) -> str:
    kind = KINDS[group.kind]
    words = [group.colour, kind.name if group.count == 1 else kind.plural]
    if group.size != "medium" and random.random() < 0.75:
        words.insert(0, _say(SIZE_WORDS, group.size, random))
    number = next(word for word, value in NUMBERS.items() if value == group.count)
    if number == "a" and words[0][0] in "aeiou":
        number = "an"
    return " ".join([number, *words])


def _place(group: Group, random: Random) -> str:
    return "" if group.place is None else f" {_say(PLACE_PHRASES, group.place, random)}"


def _say(phrases: dict[str, str], meaning: str, random: Random) -> str:
    return pick(random, [phrase for phrase, means in phrases.items() if means == meaning])
