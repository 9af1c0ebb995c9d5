"""What captions are like, whatever they are worth: their length, their words, how many are new or told apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from captionkit.vocabulary import tokenize


@dataclass(frozen=True)
class Usage:
    """How a set of captions uses words, as `captionkit.vocabulary.tokenize` cuts them."""

    captions: int
    mean_length: float
    """Words a caption."""
    shortest: int
    longest: int
    vocabulary: int
    """Different words in all captions together."""
    distinct: float
    """Different captions, as a share of all."""
    novel: float | None
    """Share of captions that are none of the training captions; None where these are not known."""


def known_captions(captions: Iterable[str]) -> frozenset[str]:
    """Training captions, ready for `measure_usage`: each as its words."""
    return frozenset(" ".join(tokenize(caption)) for caption in captions)


def measure_usage(captions: Iterable[str], known: frozenset[str] | None = None) -> Usage:
    """Measure captions, against the training captions where these are `known`.

    Raises:
        ValueError: no captions.
    """
    cut = [tokenize(caption) for caption in captions]
    if not cut:
        raise ValueError("there are no captions to measure")
    lines = [" ".join(words) for words in cut]
    lengths = [len(words) for words in cut]
    return Usage(
        captions=len(cut),
        mean_length=sum(lengths) / len(cut),
        shortest=min(lengths),
        longest=max(lengths),
        vocabulary=len({word for words in cut for word in words}),
        distinct=len(set(lines)) / len(cut),
        novel=None if known is None else sum(line not in known for line in lines) / len(cut),
    )
