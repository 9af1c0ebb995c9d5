"""Statistics of captions: length, vocabulary, diversity and novelty."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from captionkit.vocabulary import tokenize


@dataclass(frozen=True)
class Usage:
    """Statistics of a set of captions, tokenized by `captionkit.vocabulary.tokenize`."""

    captions: int
    mean_length: float
    """Words per caption."""
    shortest: int
    longest: int
    vocabulary: int
    """Number of different words in all captions."""
    distinct: float
    """Number of different captions, as a share of all."""
    novel: float | None
    """Share of captions that are not among the training captions; None if these are unknown."""


def caption_set(captions: Iterable[str]) -> frozenset[str]:
    """Training captions in the form that `measure_usage` takes: tokenized and joined by blanks."""
    return frozenset(" ".join(tokenize(caption)) for caption in captions)


def measure_usage(captions: Iterable[str], training_captions: frozenset[str] | None = None) -> Usage:
    """Compute the statistics of captions.

    Args:
        training_captions: as `caption_set` returns them; None if unknown.

    Raises:
        ValueError: no captions.
    """
    tokenized = [tokenize(caption) for caption in captions]
    if not tokenized:
        raise ValueError("there are no captions to measure")
    lines = [" ".join(words) for words in tokenized]
    lengths = [len(words) for words in tokenized]
    return Usage(
        captions=len(tokenized),
        mean_length=sum(lengths) / len(tokenized),
        shortest=min(lengths),
        longest=max(lengths),
        vocabulary=len({word for words in tokenized for word in words}),
        distinct=len(set(lines)) / len(tokenized),
        novel=None if training_captions is None else _share_novel(lines, training_captions),
    )


def _share_novel(lines: list[str], training_captions: frozenset[str]) -> float:
    return sum(line not in training_captions for line in lines) / len(lines)
