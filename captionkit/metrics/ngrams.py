"""N-grams of many captions as integer ids in arrays, so that NumPy counts them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[Hashable]
"""A caption as words, or as token ids."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Lexicon:
    """The different n-grams of some captions, with ids from 0 for each length n.

    An n-gram consists of its first n − 1 words, which have an id among the shorter n-grams, and its last word. Its key,
    `id of the first n − 1 words × number of words + id of the last word`, is unique among n-grams of its length. Its id
    is the position of its key among all sorted keys.
    """

    tokens: dict[Hashable, int]
    """Ids of the words."""
    keys: tuple[Ids, ...]
    """[n − 1]: the keys of the n-grams, sorted."""

    def numbers_in(self, other: Lexicon) -> list[Ids]:
        """[n − 1]: the id of each n-gram of this lexicon in another one; −1 if the other lacks it."""
        if other is self:
            return [np.arange(len(keys)) for keys in self.keys]
        words = np.array([other.tokens.get(token, -1) for token in self.tokens], dtype=np.int64)
        numbers: list[Ids] = []
        for keys, other_keys in zip(self.keys, other.keys, strict=True):
            first, last = np.divmod(keys, max(1, len(words)))
            prefix = numbers[-1][first] if numbers else first  # single words have no prefix: id 0 in both
            last = words[last]
            key = prefix * len(other.tokens) + last
            place = np.searchsorted(other_keys, key)
            place[place == len(other_keys)] = 0
            known = (prefix >= 0) & (last >= 0) & (other_keys[place] == key if len(other_keys) else False)
            numbers.append(np.where(known, place, -1))
        return numbers


class Occurrences(NamedTuple):
    """The n-grams of one length, sorted by caption: `counts[k]` times n-gram `grams[k]` in caption `captions[k]`."""

    captions: Ids
    grams: Ids
    counts: Ids


@dataclass(frozen=True)
class Counts:
    """The n-grams of a list of captions, counted."""

    lexicon: Lexicon
    occurrences: tuple[Occurrences, ...]
    """[n − 1]."""
    lengths: Ids
    """Number of words of each caption."""


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
    remaining = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the caption's end
    starts, numbers = np.arange(len(words)), np.zeros(len(words), dtype=np.int64)
    keys, occurrences = [], []
    for n in range(1, order + 1):
        inside = remaining[starts] >= n
        starts, numbers = starts[inside], numbers[inside]
        known, numbers = np.unique(numbers * len(tokens) + words[starts + n - 1], return_inverse=True)
        keys.append(known)
        pairs, counts = np.unique(owners[starts] * len(known) + numbers, return_counts=True)
        occurrences.append(Occurrences(*np.divmod(pairs, max(1, len(known))), counts))
    return Counts(Lexicon(tokens, tuple(keys)), tuple(occurrences), lengths)
