"""The n-grams of many captions at once, as numbers in arrays: what makes counting them fast."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[Hashable]
"""A caption as its words, or as their ids."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Lexicon:
    """Every n-gram of some captions, numbered: by length, from 0.

    An n-gram is its first n − 1 words, an n-gram itself, and its last: the key `number of the first × words + number
    of the last`, which holds no n-gram of any length twice. Its own number is its key's place among all keys.
    """

    tokens: dict[Hashable, int]
    keys: tuple[Ids, ...]
    """[n − 1]: the keys of the n-grams, sorted."""

    def numbers_in(self, other: Lexicon) -> list[Ids]:
        """[n − 1]: what each n-gram of this lexicon is in another, −1 where the other lacks it."""
        if other is self:
            return [np.arange(len(keys)) for keys in self.keys]
        words = np.array([other.tokens.get(token, -1) for token in self.tokens], dtype=np.int64)
        found: list[Ids] = []
        for mine, theirs in zip(self.keys, other.keys, strict=True):
            first, last = np.divmod(mine, max(1, len(words)))
            prefix = found[-1][first] if found else first  # one word has no words before it: number 0 on both sides
            last = words[last]
            key = prefix * len(other.tokens) + last
            place = np.searchsorted(theirs, key)
            place[place == len(theirs)] = 0
            known = (prefix >= 0) & (last >= 0) & (theirs[place] == key if len(theirs) else False)
            found.append(np.where(known, place, -1))
        return found


class Occurrences(NamedTuple):
    """The n-grams of one length, sorted by caption: which caption holds which n-gram how often."""

    captions: Ids
    grams: Ids
    counts: Ids


@dataclass(frozen=True)
class Counts:
    """All n-grams of a list of captions."""

    lexicon: Lexicon
    occurrences: tuple[Occurrences, ...]
    """[n − 1]."""
    lengths: Ids
    """Words of each caption."""


def count_grams(captions: Sequence[Tokens], order: int) -> Counts:
    """Count the n-grams of up to `order` words in each caption."""
    lengths = np.fromiter(map(len, captions), dtype=np.int64, count=len(captions))
    tokens: dict[Hashable, int] = {}
    words = np.fromiter(
        (tokens.setdefault(token, len(tokens)) for token in chain.from_iterable(captions)),
        dtype=np.int64,
        count=int(lengths.sum()),
    )
    owners = np.repeat(np.arange(len(captions)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the caption's end
    starts, numbers = np.arange(len(words)), np.zeros(len(words), dtype=np.int64)
    keys, occurrences = [], []
    for n in range(1, order + 1):
        inside = left[starts] >= n
        starts, numbers = starts[inside], numbers[inside]
        known, numbers = np.unique(numbers * len(tokens) + words[starts + n - 1], return_inverse=True)
        keys.append(known)
        pairs, counts = np.unique(owners[starts] * len(known) + numbers, return_counts=True)
        occurrences.append(Occurrences(*np.divmod(pairs, max(1, len(known))), counts))
    return Counts(Lexicon(tokens, tuple(keys)), tuple(occurrences), lengths)
