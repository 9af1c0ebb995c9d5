"""CIDEr-D over words or token ids, fast enough for a reward in training.

It computes what pycocoevalcap's `CiderScorer` computes, except for rounding (its CIDEr is CIDEr-D: clipped counts, a
Gaussian of the difference in length with σ = 6, times 10). Vedantam, Zitnick and Parikh 2015, "CIDEr: Consensus-based
Image Description Evaluation", arXiv:1411.5726; as a reward: Rennie et al. 2017, "Self-Critical Sequence Training for
Image Captioning", arXiv:1612.00563.

Axes: N captions, I images, R the highest number of references of an image, K pairs of an image and an n-gram in its
references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from captionkit.metrics.ngrams import Counts, Ids, Lexicon, Tokens, count_grams

ORDER = 4
"""Length of the longest n-grams, in words."""

SIGMA = 6.0
"""Standard deviation of the penalty for a difference in length, in words."""

CHUNK = 4096
"""Captions scored at a time. It limits the memory, which is a few hundred bytes per word."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DocumentFrequencies:
    """Document frequencies: the number of images in whose references each n-gram occurs."""

    lexicon: Lexicon
    counts: tuple[Ids, ...]
    """By `[n − 1][id of the n-gram in lexicon]`."""
    images: int

    @classmethod
    def of(cls, references: Sequence[Sequence[Tokens]], order: int = ORDER) -> DocumentFrequencies:
        """Count over a corpus.

        Args:
            references: of each image.
        """
        captions, owners = _flatten(references)
        return cls.from_counts(count_grams(captions, order), owners, len(references))

    @classmethod
    def from_counts(cls, counts: Counts, owners: Ids, images: int) -> DocumentFrequencies:
        """From counted captions.

        Args:
            owners: (captions,) the image of each caption.
            images: number of images.
        """
        frequencies = []
        for (captions, grams, _), keys in zip(counts.occurrences, counts.lexicon.keys, strict=True):
            pairs = np.unique(owners[captions] * len(keys) + grams)
            frequencies.append(np.bincount(pairs % max(1, len(keys)), minlength=len(keys)))
        return cls(counts.lexicon, tuple(frequencies), images)

    def weights(self, numbers: Sequence[Ids]) -> list[Floats]:
        """[n − 1]: the squared inverse document frequencies of n-grams, by their ids in `lexicon`.

        An unknown n-gram (−1) has document frequency 1.
        """
        frequencies = [np.append(counts, 0)[wanted] for counts, wanted in zip(self.counts, numbers, strict=True)]
        return [(np.log(float(self.images)) - np.log(np.maximum(1.0, counts))) ** 2 for counts in frequencies]


class _Postings(NamedTuple):
    """Inverted index of all images' references, for n-grams of one length."""

    keys: Ids
    """(K,), image × size of the lexicon + id of the n-gram, sorted."""
    times: NDArray[Any]
    """(K, R), counts of the n-gram in each reference of the image; of the smallest sufficient unsigned type."""
    norms: Floats
    """(I, R), norms of the references' tf-idf vectors."""


class CiderD:
    """Scores captions against the references of a fixed set of images.

        scorer = CiderD(references)                       # document frequencies of these references: corpus CIDEr-D
        scorer = CiderD(references, frequencies)          # document frequencies of another corpus
        scorer.score(sampled, images=[0, 0, 1, 1])        # two captions of image 0, two of image 1

    Made once from a training corpus, it gives rewards for any batch of its images. References and captions must have
    the same tokenization. For rewards, append the end marker as a word on both sides: then unfinished captions lose
    reward.

    Args:
        references: of each image, at least one.
        frequencies: document frequencies. Default: those of `references`.

    Raises:
        ValueError: no images, an image without references, or frequencies of another `order`.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Tokens]],
        frequencies: DocumentFrequencies | None = None,
        *,
        order: int = ORDER,
        sigma: float = SIGMA,
    ) -> None:
        captions, owners = _flatten(references)
        self._counts = np.bincount(owners, minlength=len(references))
        if not len(self._counts) or not self._counts.all():
            where = "there are no images" if not len(self._counts) else f"image {int(self._counts.argmin())} has none"
            raise ValueError(f"CIDEr-D needs references for every image: {where}")
        counted = count_grams(captions, order)
        self.frequencies = frequencies or DocumentFrequencies.from_counts(counted, owners, len(references))
        if len(self.frequencies.counts) != order:
            raise ValueError(f"document frequencies up to order {len(self.frequencies.counts)}, asked for {order}")
        self._lexicon, self._order, self._sigma = counted.lexicon, order, sigma
        # Each reference's place among those of its image.
        places = np.arange(len(captions)) - np.repeat(np.cumsum(self._counts) - self._counts, self._counts)
        self._lengths = self._table(owners, places, _bigrams(counted.lengths, order))
        self._postings = []
        for (rows, grams, counts), keys, weights in zip(
            counted.occurrences, self._lexicon.keys, self._weights(self._lexicon), strict=True
        ):
            pairs, inverse = np.unique(owners[rows] * len(keys) + grams, return_inverse=True)
            times = np.zeros((len(pairs), self._counts.max()), np.min_scalar_type(int(counts.max(initial=0))))
            times[inverse, places[rows]] = counts
            squares = _sums(rows, counts**2 * weights[grams], len(captions))
            self._postings.append(_Postings(pairs, times, self._table(owners, places, np.sqrt(squares))))

    def _weights(self, lexicon: Lexicon, numbers: list[Ids] | None = None) -> list[Floats]:
        """Squared inverse document frequencies of a lexicon's n-grams.

        Args:
            numbers: their ids in the references' lexicon, if known already.
        """
        other = self.frequencies.lexicon
        if numbers is None or other is not self._lexicon:
            numbers = lexicon.numbers_in(other)
        return self.frequencies.weights(numbers)

    def _table(self, owners: Ids, places: Ids, values: NDArray[Any]) -> Floats:
        """One value per reference, (I, R); 0 where an image has fewer references."""
        table = np.zeros((len(self._counts), self._counts.max()))
        table[owners, places] = values
        return table

    def score(self, hypotheses: Sequence[Tokens], images: Sequence[int] | None = None) -> Floats:
        """CIDEr-D of each caption, (N,), from 0 to 10. The corpus' CIDEr-D is their mean, with one caption per image.

        Args:
            hypotheses: N captions.
            images: the image of each, as index into `references`. Default: 0, 1, 2 …

        Raises:
            ValueError: numbers of captions and images differ.
            IndexError: an index out of range.
        """
        owners = np.arange(len(self._counts)) if images is None else np.asarray(images, dtype=np.int64)
        if len(owners) != len(hypotheses):
            raise ValueError(f"{len(hypotheses)} captions for {len(owners)} images")
        if len(owners) and not 0 <= owners.min() <= owners.max() < len(self._counts):
            raise IndexError(f"images are numbered from 0 to {len(self._counts) - 1}")
        chunks = [slice(start, start + CHUNK) for start in range(0, len(owners), CHUNK)]
        return np.concatenate([np.empty(0), *(self._score(hypotheses[chunk], owners[chunk]) for chunk in chunks)])

    def _score(self, hypotheses: Sequence[Tokens], images: Ids) -> Floats:
        counted = count_grams(hypotheses, self._order)
        width = self._lengths.shape[1]
        similarity = np.zeros((len(hypotheses), width))
        numbers = counted.lexicon.numbers_in(self._lexicon)
        weights_by_length = self._weights(counted.lexicon, numbers)
        for n, ((rows, grams, counts), postings) in enumerate(zip(counted.occurrences, self._postings, strict=True)):
            weights = weights_by_length[n]
            norms = np.sqrt(_sums(rows, counts**2 * weights[grams], len(hypotheses)))
            known = numbers[n][grams] >= 0
            rows, grams, counts = rows[known], grams[known], counts[known]
            keys = images[rows] * len(self._lexicon.keys[n]) + numbers[n][grams]
            places = np.searchsorted(postings.keys, keys)
            places[places == len(postings.keys)] = 0
            hit = postings.keys[places] == keys
            rows, times = rows[hit], postings.times[places[hit]].astype(np.float64)
            # CIDEr-D clips counts to the reference's, so that repetition does not pay.
            products = np.minimum(counts[hit, None], times) * times * weights[grams[hit], None]
            cells = rows[:, None] * width + np.arange(width)
            dots = _sums(cells.ravel(), products.ravel(), similarity.size).reshape(similarity.shape)
            scale = norms[:, None] * postings.norms[images]
            similarity += np.divide(dots, scale, out=np.zeros_like(dots), where=scale > 0)
        difference = _bigrams(counted.lengths, self._order)[:, None] - self._lengths[images]
        similarity *= np.exp(-(difference**2) / (2 * self._sigma**2))
        scores: Floats = 10.0 * similarity.sum(1) / (self._order * self._counts[images])
        return scores


def _flatten(references: Sequence[Sequence[Tokens]]) -> tuple[list[Tokens], Ids]:
    """All references in one list, and the image of each."""
    counts = np.fromiter(map(len, references), dtype=np.int64, count=len(references))
    return [caption for captions in references for caption in captions], np.repeat(np.arange(len(references)), counts)


def _bigrams(lengths: Ids, order: int) -> Ids:
    """Captions' lengths as the reference implementation defines them: their numbers of bigrams."""
    return np.maximum(lengths - 1, 0) if order > 1 else np.zeros_like(lengths)


def _sums(places: Ids, values: Floats, size: int) -> Floats:
    """Sum of the values at each place, (size,)."""
    return np.bincount(places, values, size).astype(np.float64)  # bincount of an empty array is int64
