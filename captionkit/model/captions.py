"""Captions as values: from a search's hypotheses to what users get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from captionkit.images import ImageError
from captionkit.model.calibration import Calibration
from captionkit.model.search.ranking import SearchResult
from captionkit.model.tuning import LIKELIHOOD
from captionkit.storage import StorageError


class Hypothesis(NamedTuple):
    """A caption found by a search."""

    text: str
    score: float
    """Mean log-probability of its tokens, in nats; the end marker counts where the model ended it."""


@dataclass(frozen=True)
class Caption:
    """The result for one image: a caption, or the reason why there is none."""

    text: str | None
    score: float | None = None
    alternatives: tuple[Hypothesis, ...] = ()
    """The rest of the `n_best`, best first."""
    error_kind: str | None = None
    """One of `captionkit.images.ERROR_KINDS` or `captionkit.storage.STORAGE_ERROR_KINDS`, or "model_error"."""
    error: str | None = None
    confidence: float | None = None
    """The chance that people would accept it, from 0 to 1; None where the captioner has no calibration."""


class Candidate(NamedTuple):
    """A caption as a search gives it."""

    ids: list[int]
    logprob: float
    ended: bool


def read_candidates(result: SearchResult) -> list[list[Candidate]]:
    """The captions of each image. Without any of finite probability, the first one stands for it, which is empty."""
    columns = (result.tokens, result.lengths, result.logprobs, result.ended)
    return [
        [
            Candidate(ids[:length], logprob, ended)
            for rank, (ids, length, logprob, ended) in enumerate(zip(*row, strict=True))
            if logprob > -np.inf or rank == 0
        ]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def rerank(candidates: Sequence[Candidate], ciders: Sequence[float]) -> list[Candidate]:
    """By expected CIDEr-D and likelihood. Those that ended come first, and equal ones stay in their order.

    Args:
        ciders: the expected CIDEr-D of each candidate, as `Consensus.expected_cider` gives it.
    """
    scores = [cider + LIKELIHOOD * candidate.logprob for candidate, cider in zip(candidates, ciders, strict=True)]
    order = sorted(range(len(candidates)), key=lambda rank: (not candidates[rank].ended, -scores[rank], rank))
    return [candidates[rank] for rank in order]


def to_caption(
    result: Sequence[Hypothesis] | ImageError | StorageError, calibration: Calibration | None = None
) -> Caption:
    """An image's hypotheses, best first, or its error."""
    if isinstance(result, (ImageError, StorageError)):
        return Caption(None, error_kind=result.kind, error=str(result))
    best, *others = result
    if not best.text:
        return Caption(None, error_kind="model_error", error="the captioner gave an empty caption")
    confidence = float(calibration.chance([best.score])[0]) if calibration else None
    return Caption(best.text, best.score, tuple(other for other in others if other.text), confidence=confidence)
