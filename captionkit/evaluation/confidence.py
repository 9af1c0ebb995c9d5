"""Is a caption right? Which captions people would accept, and how well scores tell.

A caption is acceptable whose CIDEr-D against people's captions of its image is at least as high as that of most
people's captions, each measured against the others of its image. Where people have judged captions (Flickr8k's
ExpertAnnotations.txt and CrowdFlowerAnnotations.txt; Hodosh, Young and Hockenmaier 2013), the CIDEr-D that agrees with
them best takes the place of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from captionkit.corpus.files import lines, opened
from captionkit.corpus.record import Report
from captionkit.errors import UsageError
from captionkit.metrics.cider import CiderD, DocumentFrequencies
from captionkit.model.calibration import Calibration
from captionkit.storage import Storage, redact

GROUPS, LEAST = 20, 25
"""A calibration is fitted on up to so many groups of images alike in score, each of at least so many."""
MIN_CAPTIONS = 2 * LEAST
"""Captions that a calibration needs."""
BINS = 10
"""Groups of images in a reliability diagram."""
FOLDS = 5
"""Parts of the images, each of which is judged by what was fitted on the others."""
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
EXPERT_ACCEPTS = 3
"""Of Flickr8k's experts' scores from 1 to 4, the lowest that accepts: "almost describes the image, minor mistakes"."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Bound(NamedTuple):
    """What makes a caption acceptable."""

    cider: float
    """Lowest CIDEr-D of an acceptable caption, from 0 to 10."""
    meaning: str
    """The same for people."""


class Bin(NamedTuple):
    """A dot of a reliability diagram."""

    expected: float
    """Mean chance of the captions in it."""
    observed: float
    """Share of them that are acceptable."""
    captions: int


class Coverage(NamedTuple):
    """What keeping the captions with the highest scores gives."""

    share: float
    """Share of the captions that are kept."""
    score: float
    """Lowest score that is kept."""
    confidence: float | None
    """Its chance; None without a calibration."""
    risk: float
    """Share of the kept ones that are not acceptable."""


@dataclass(frozen=True)
class Reliability:
    """How well the scores of captions tell which are acceptable."""

    bound: Bound
    acceptable: float
    """Share of all captions that are acceptable."""
    ranking: float
    """Probability that of an acceptable caption and another one the first has the higher score (the area under the ROC
    curve): 0.5 is chance."""
    coverage: tuple[Coverage, ...]
    bins: tuple[Bin, ...] = ()
    """Empty without a calibration."""
    error: float | None = None
    """Mean difference of chance and share over the bins, weighted (expected calibration error)."""
    fitted: str = ""
    """What the calibration was fitted on."""

    def to_json(self) -> dict[str, Any]:
        return {
            "acceptable_from_cider": 100 * self.bound.cider,
            "meaning": self.bound.meaning,
            "acceptable": self.acceptable,
            "ranking": self.ranking,
            "calibration_error": self.error,
            "fitted": self.fitted or None,
            "bins": [one._asdict() for one in self.bins],
            "coverage": [one._asdict() for one in self.coverage],
        }


def measure(
    scores: Floats, acceptable: Bools, bound: Bound, chances: Floats | None = None, fitted: str = ""
) -> Reliability:
    """Reliability, ranking and coverage of captions.

    Args:
        scores: (n,) of the captions.
        acceptable: (n,) which are.
        chances: (n,) by a calibration, where there is one.
        fitted: what that was fitted on.
    """
    order = np.argsort(-scores, kind="stable")
    coverage = []
    for share in COVERAGES:
        kept = order[: max(1, round(share * len(order)))]
        last = kept[-1]
        confidence = None if chances is None else float(chances[last])
        coverage.append(Coverage(share, float(scores[last]), confidence, float(1 - acceptable[kept].mean())))
    bins: list[Bin] = []
    if chances is not None:
        by_chance = np.argsort(chances, kind="stable")
        for part in np.array_split(by_chance, min(BINS, len(by_chance))):
            bins.append(Bin(float(chances[part].mean()), float(acceptable[part].mean()), len(part)))
    error = sum(one.captions * abs(one.expected - one.observed) for one in bins) / len(scores) if bins else None
    share = float(acceptable.mean())
    return Reliability(bound, share, _ranking(scores, acceptable), tuple(coverage), tuple(bins), error, fitted)


def fit(scores: Floats, acceptable: Bools) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scores and chances of a `Calibration`: means over groups alike in score, made to rise (pool adjacent violators).

    Each group counts one acceptable and one other caption more than it has (Laplace), so that none is certain.
    """
    order = np.argsort(scores, kind="stable")
    groups = np.array_split(order, max(1, min(GROUPS, len(order) // LEAST)))
    pools: list[tuple[float, float, float, list[float]]] = []  # captions, acceptable ones, chance, scores of its groups
    for group in groups:
        count, good = float(len(group)), float(acceptable[group].sum())
        pool = (count, good, (good + 1) / (count + 2), [round(float(scores[group].mean()), 6)])
        while pools and (pools[-1][2] >= pool[2] or pools[-1][3][-1] >= pool[3][0]):
            count, good, _, before = pools.pop()
            count, good = count + pool[0], good + pool[1]
            pool = (count, good, (good + 1) / (count + 2), before + pool[3])
        pools.append(pool)
    points: dict[float, float] = {}
    for _, _, chance, of_groups in pools:
        points |= dict.fromkeys(
            (of_groups[0], of_groups[-1]), round(chance, 6)
        )  # flat from its first group to its last
    return tuple(points), tuple(points.values())


def crossed_chances(scores: Floats, acceptable: Bools) -> Floats:
    """The chance of each caption by a table that was fitted without it, (n,): what a calibration is worth elsewhere."""
    chances = np.zeros(len(scores))
    folds = np.arange(len(scores)) % FOLDS
    for fold in range(FOLDS):
        inside = folds == fold
        if inside.any():
            rest = ~inside if not inside.all() else inside
            chances[inside] = np.interp(scores[inside], *fit(scores[rest], acceptable[rest]))
    return chances


def _ranking(scores: Floats, acceptable: Bools) -> float:
    good, bad = int(acceptable.sum()), int((~acceptable).sum())
    if not good or not bad:
        return 0.5
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # equal scores share their mean rank
    return float((ranks[acceptable].sum() - good * (good + 1) / 2) / (good * bad))


def people_bound(references: Sequence[Sequence[str]], below: float) -> Bound:
    """The CIDEr-D that all but a share of people's captions reach, each measured against the others of its image.

    Args:
        references: tokenized captions of each image, words joined by blanks.
        below: the share of people's captions that is worse.

    Raises:
        UsageError: no image has two captions.
    """
    several = [[tuple(text.split()) for text in texts] for texts in references if len(texts) > 1]
    if not several:
        raise UsageError("no image has two captions, by which people's captions could be measured against each other")
    frequencies = DocumentFrequencies.of([[tuple(text.split()) for text in texts] for texts in references])
    scores: list[float] = []
    for turn in range(max(map(len, several))):
        having = [texts for texts in several if len(texts) > turn]
        others = [[*texts[:turn], *texts[turn + 1 :]] for texts in having]
        scores += CiderD(others, frequencies).score([texts[turn] for texts in having]).tolist()
    bound = float(np.quantile(scores, below))
    return Bound(
        bound,
        f"CIDEr-D of at least {100 * bound:.1f}, which {1 - below:.0%} of people's captions reach against the others "
        "of their image",
    )


class Judgement(NamedTuple):
    """People's judgement of a caption for an image."""

    image: str
    caption_of: str
    """The image that the caption was written for."""
    number: int
    """Which of its captions, from 0."""
    accepted: bool


def read_judgements(uri: str, storage: Storage) -> list[Judgement]:
    """Flickr8k's ExpertAnnotations.txt or CrowdFlowerAnnotations.txt.

    Lines of image, tab, `IMAGE#NUMBER`, tab, and three figures: experts' scores from 1 to 4; or the share of people who
    said that the caption describes the image, how many said yes, and how many no.

    Raises:
        UsageError: another format, with the line.
        StorageError: it cannot be read.
    """
    rows: list[tuple[str, str, int, tuple[float, float, float]]] = []
    report = Report()
    with opened(storage, storage.normalize(uri), report) as stream:
        for at, line in enumerate(lines(stream, uri, report), 1):
            if not line.strip():
                continue
            try:
                image, caption, *figures = line.rstrip("\r\n").split("\t")
                owner, _, number = caption.rpartition("#")
                one, two, three = map(float, figures)
                rows.append((image, owner, int(number), (one, two, three)))
            except ValueError as err:
                raise UsageError(
                    f"--judgements {redact(uri)}, line {at}: expected an image, a caption's id and three figures, "
                    f"with tabs between: {line.strip()[:80]!r}"
                ) from err
    # Experts give whole numbers from 1 to 4; of a crowd's file some line has a 0 or a share.
    experts = all(figure in (1, 2, 3, 4) for *_, figures in rows for figure in figures)
    return [
        Judgement(
            image,
            owner,
            number,
            sorted(figures)[1] >= EXPERT_ACCEPTS if experts else figures[1] > figures[2],
        )
        for image, owner, number, figures in rows
    ]


def judged_bound(judgements: Sequence[Judgement], references: Mapping[str, Sequence[str]], source: str) -> Bound:
    """The CIDEr-D that agrees best with people's judgements: the highest sum of the shares that it gets right among the
    accepted and among the others (Youden's index). A caption is not measured against itself.

    Args:
        references: tokenized captions by the corpus' own name of the image.
        source: where the judgements are from, for people.

    Raises:
        UsageError: too few judged captions are of these images.
    """
    names = {name: at for at, name in enumerate(references)}
    all_tokens = [[tuple(text.split()) for text in texts] for texts in references.values()]
    known = [
        one
        for one in judgements
        if one.image in names and one.caption_of in names and 0 <= one.number < len(references[one.caption_of])
    ]
    accepted = np.array([one.accepted for one in known], np.bool_)
    if not accepted.any() or accepted.all():
        raise UsageError(
            f"{source}: of {len(judgements):,} judgements {len(known):,} are of these images and captions, and all of "
            "them alike: evaluate the split that was judged, or leave --judgements out"
        )
    own = []
    for one in known:
        texts = list(all_tokens[names[one.image]])
        if one.image == one.caption_of:
            del texts[one.number]
        own.append(texts)
    hypotheses = [all_tokens[names[one.caption_of]][one.number] for one in known]
    usable = np.array([bool(texts) for texts in own], np.bool_)
    scorer = CiderD([texts or [("",)] for texts in own], DocumentFrequencies.of(all_tokens))
    ciders = scorer.score(hypotheses)[usable]
    accepted = accepted[usable]
    bounds = np.unique(ciders)
    good, bad = np.sort(ciders[accepted]), np.sort(ciders[~accepted])
    reached = 1 - np.searchsorted(good, bounds, "left") / max(1, len(good))
    refused = np.searchsorted(bad, bounds, "left") / max(1, len(bad))
    best = int(np.argmax(reached + refused))
    return Bound(
        float(bounds[best]),
        f"CIDEr-D of at least {100 * bounds[best]:.1f}, which {reached[best]:.0%} of the captions reach that people "
        f"accepted, and {1 - refused[best]:.0%} of the others ({len(ciders):,} judgements of {source})",
    )


def calibrate(scores: Floats, acceptable: Bools, bound: Bound, search: str) -> Calibration:
    """The table of these captions, at least `MIN_CAPTIONS`."""
    return Calibration(*fit(scores, acceptable), bound.meaning, len(scores), search)
