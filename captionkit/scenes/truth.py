"""Whether a caption is true of a scene: read into claims, each held against the scene's description.

It reads phrases, wherever they stand, and knows nothing of how the grammar arranges them. Where it cannot read on, the
caption counts as false: nothing passes because it was not understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from captionkit.scenes.grammar import (
    BACKGROUND_PHRASES,
    NUMBERS,
    PLACE_PHRASES,
    RELATION_PHRASES,
    SIZE_WORDS,
    TIME_PHRASES,
)
from captionkit.scenes.scene import Group, Scene, relation
from captionkit.scenes.world import COLOURS, KINDS

T = TypeVar("T")

NOUNS: Final[dict[str, str]] = {word: kind.name for kind in KINDS.values() for word in (kind.name, kind.plural)}
JOINING: Final = ("and", "with")


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a caption."""

    true: bool
    claims: int
    """Claims read: each kind, number, colour, size, place, relation, surroundings and time of day that it states."""
    kinds_named: bool
    """Whether it names every kind of thing in the scene."""
    why: str = ""
    """Of a false caption, the first thing that does not hold."""


class _False(Exception):
    """The caption says what is not so, or what cannot be read."""


@dataclass
class _Reader:
    scene: Scene
    words: list[str]
    claims: int = 0
    named: list[str] = field(default_factory=list)
    last: Group | None = None

    def read(self) -> None:
        joined: str | None = None  # what stands between the last group and the next
        expecting = False
        while self.words:
            if (phrase := self._take(BACKGROUND_PHRASES)) is not None:
                self._hold(phrase == self.scene.background, f"it is not {phrase} but {self.scene.background}")
            elif (phrase := self._take(TIME_PHRASES)) is not None:
                self._hold(phrase == self.scene.time, f"it is not {phrase} but {self.scene.time}")
            elif (phrase := self._take(PLACE_PHRASES)) is not None:
                if self.last is None:
                    raise _False(f"nothing is said to be {phrase}")
                self._hold(self.last.place == phrase, f"the {self.last.kind} is not {phrase} but {self.last.place}")
            elif (phrase := self._take(RELATION_PHRASES)) is not None or self.words[0] in JOINING:
                if phrase is None:
                    self.words.pop(0)
                if self.last is None or expecting:
                    raise _False("it joins nothing")
                joined, expecting = phrase, True
                continue
            else:
                before, self.last = self.last, self._group()
                if joined is not None and before is not None:
                    self._hold(relation(before, self.last) == joined, f"{before.kind} is not {joined} {self.last.kind}")
                joined = None
            expecting = False
        if expecting:
            raise _False("it breaks off")
        if not self.claims:
            raise _False("it claims nothing")

    def _group(self) -> Group:
        number = self._word(NUMBERS, "a number")
        size = SIZE_WORDS[self.words.pop(0)] if self.words and self.words[0] in SIZE_WORDS else None
        colour = self.words.pop(0) if self.words and self.words[0] in COLOURS else None
        noun = self.words[0] if self.words else ""
        kind = self._word(NOUNS, "a kind of thing")
        if noun != (KINDS[kind].name if number == 1 else KINDS[kind].plural):
            raise _False(f"{number} {noun}")
        if kind in self.named:
            raise _False(f"{kind} is named twice")
        self.named.append(kind)
        group = self.scene.find(kind)
        if group is None:
            raise _False(f"there is no {kind}")
        self.claims += 1
        self._hold(group.count == number, f"{kind}: not {number} but {group.count}")
        if colour is not None:
            self._hold(group.colour == colour, f"{kind}: not {colour} but {group.colour}")
        if size is not None:
            self._hold(group.size == size, f"{kind}: not {size} but {group.size}")
        return group

    def _hold(self, holds: bool, why: str) -> None:
        if not holds:
            raise _False(why)
        self.claims += 1

    def _take(self, phrases: Mapping[str, str]) -> str | None:
        """The meaning of the phrase that comes next, if one of these does; it is then read."""
        for phrase, meaning in phrases.items():
            parts = phrase.split()
            if self.words[: len(parts)] == parts:
                del self.words[: len(parts)]
                return meaning
        return None

    def _word(self, meanings: Mapping[str, T], what: str) -> T:
        if not self.words or self.words[0] not in meanings:
            raise _False(f"expected {what}, found {self.words[0] if self.words else 'the end'}")
        return meanings[self.words.pop(0)]


def judge(caption: str, scene: Scene) -> Verdict:
    """Hold a caption against a scene. Each claim must be true, and all that is said of a thing of one and the same."""
    reader = _Reader(scene, caption.split())
    why = ""
    try:
        reader.read()
    except _False as err:
        why = str(err)
    kinds = {group.kind for group in scene.groups}
    return Verdict(not why, reader.claims, kinds <= set(reader.named), why)
