"""Consensus: of the captions that a search found, the one most like what people would say, judging by similar pictures.

The k training images whose features are most like a picture's are looked up, and the candidates ranked by their CIDEr
against those images' captions (Devlin et al. 2015, "Exploring Nearest Neighbor Approaches for Image Captioning",
arXiv:1505.04467; Mao et al. 2015 rank an m-RNN's beam so, arXiv:1412.6632v5, section 8). There every neighbour has the
same say. Here they are what a kernel ridge regression learns from (Saunders et al. 1998, "Ridge Regression Learning
Algorithm in Dual Variables"; one for each picture, from its neighbours: Bottou and Vapnik 1992, "Local Learning
Algorithms"): it foretells the tf-idf vectors of the picture's captions, and their length, and a candidate is scored
against these by CIDEr's cosine and CIDEr-D's penalty for another length (arXiv:1411.5726).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captionkit.metrics.cider import ORDER, SIGMA, DocumentFrequencies
from captionkit.metrics.grams import Counts, Ids, count_grams

Floats = NDArray[np.float64]

FARTHEST = 4.0
"""Standard deviations at which features are cut off, so that no few of them decide which pictures are alike."""
_SPARE = 16
"""Images looked at beyond k, whose similarity is then computed exactly: the last bits in fp32 depend on the batch that
the picture comes in, and shall decide nothing."""
SHARPNESS, RIDGE = 3.0, 0.3
"""The regression's kernel, exp(SHARPNESS × (cosine − 1)), and what is added to its diagonal. By the dev images of
Flickr8k 2 to 4 and 0.15 to 0.6 come out within one point of CIDEr-D."""


class _Said(NamedTuple):
    """What was said of the training images: for each, the mean of its captions' tf-idf vectors, each of length 1.

    Image i's are the values from starts[i] to starts[i + 1]; its n-grams are numbered over all lengths, from 1 word to
    ORDER, those of n words from offsets[n − 1].
    """

    frequencies: DocumentFrequencies
    offsets: Ids
    starts: Ids
    grams: NDArray[np.int32]
    values: NDArray[np.float32]
    words: Floats
    """(M,) the mean number of words of each image's captions."""


class Consensus:
    """The training images' features and captions.

    Args:
        features: (M, D), what the encoder makes of each image, the mean over all places of a grid. Kept as fp16.
        captions: (C, T) int32, word ids of all captions, image by image, padded with `pad`.
        counts: (M,) int32, captions of each image, at least 1.
        pad: the id of padding.

    Raises:
        ValueError: they are not of these shapes and kinds, or do not fit each other.
    """

    def __init__(self, features: Tensor, captions: Tensor, counts: Tensor, pad: int) -> None:
        if features.ndim != 2 or not features.is_floating_point() or not len(features):
            raise ValueError(f"features of training images are (M, D) floats, not {tuple(features.shape)}")
        if captions.ndim != 2 or captions.dtype != torch.int32 or counts.dtype != torch.int32:
            raise ValueError("captions of training images are (C, T) int32, their counts (M,) int32")
        if counts.shape != features.shape[:1] or int(counts.min()) < 1 or int(counts.sum()) != len(captions):
            raise ValueError(f"{len(captions)} captions are not those of {len(features)} training images")
        self.features, self.captions, self.counts = features.half(), captions, counts
        self._pad = pad

    @classmethod
    def of(cls, features: Tensor, captions: Sequence[Sequence[Sequence[int]]], pad: int) -> Consensus:
        """From features (M, D) and, for each image, its captions as word ids."""
        flat = [torch.tensor(ids, dtype=torch.int32) for several in captions for ids in several]
        padded = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True, padding_value=pad)
        return cls(features, padded, torch.tensor([len(several) for several in captions], dtype=torch.int32), pad)

    def agreement(
        self, features: Tensor, candidates: Sequence[Sequence[Sequence[int]]], neighbours: int
    ) -> list[list[float]]:
        """The CIDEr-D that each candidate may expect, 0 to 10 but for the regression's errors.

        Args:
            features: (N, D) or (N, P, D), of the pictures.
            candidates: for each picture, captions as word ids.
            neighbours: k, how many images are asked; all, where there are fewer.
        """
        said, flat = self._said, [caption for several in candidates for caption in several]
        counted = count_grams(flat, ORDER)
        owners, grams, values = _vectors(counted, said.frequencies, said.offsets)
        lengths = np.array([len(caption) for caption in flat])
        ordinary = said.words.mean()
        found, row = [], 0
        for several, places, weights in zip(candidates, *self.weighted(features, neighbours), strict=True):
            mine = slice(*np.searchsorted(owners, [row, row + len(several)]))
            wanted, at = np.unique(grams[mine], return_inverse=True)
            expected = self._expected(places, weights, wanted)[at]
            cosines = np.bincount(owners[mine] - row, values[mine] * expected, len(several)) / ORDER
            # Regressed about the mean, so that a picture like no other is foretold a caption of ordinary length.
            words = ordinary + weights @ (said.words[places] - ordinary)
            apart = lengths[row : row + len(several)] - words
            found.append((10 * cosines * np.exp(-(apart**2) / (2 * SIGMA**2))).tolist())
            row += len(several)
        return found

    def weighted(self, features: Tensor, neighbours: int) -> tuple[NDArray[np.int64], Floats]:
        """(N, k) and (N, k): the training images most like each picture, and what each counts for by the regression."""
        nearest = self.nearest(features, neighbours)
        pictures, known = self._pictures(features).astype(np.float64), self._scaled[2]
        weights = np.empty(nearest.shape)
        for row, (picture, places) in enumerate(zip(pictures, nearest, strict=True)):
            some = known[places].astype(np.float64)
            kernel = np.exp(SHARPNESS * (some @ some.T - 1))
            weights[row] = np.linalg.solve(kernel + RIDGE * np.eye(len(some)), np.exp(SHARPNESS * (some @ picture - 1)))
        return nearest, weights

    def _expected(self, places: NDArray[np.int64], weights: Floats, wanted: Ids) -> Floats:
        """The expected tf-idf of some n-grams, sorted, by what was said of some images and what each counts for."""
        said = self._said
        begin, many = said.starts[places], said.starts[places + 1] - said.starts[places]
        entries = np.arange(many.sum()) + np.repeat(begin - np.cumsum(many) + many, many)
        met = said.grams[entries]
        at = np.minimum(np.searchsorted(wanted, met), max(0, len(wanted) - 1))
        hit = wanted[at] == met if len(wanted) else np.zeros(len(met), bool)
        counts_for = np.repeat(weights, many)[hit] * said.values[entries[hit]]
        return np.bincount(at[hit], counts_for, len(wanted)).astype(np.float64)

    def nearest(self, features: Tensor, neighbours: int) -> NDArray[np.int64]:
        """(N, k): the training images most like each picture by the cosine of their features, the most alike first."""
        pictures, known = self._pictures(features), self._scaled[2]
        k = min(neighbours, len(known))
        rough = pictures @ known.T
        some = np.argpartition(-rough, min(k + _SPARE, len(known)) - 1, axis=1)[:, : k + _SPARE]
        some.sort(axis=1)
        found = np.empty((len(pictures), k), np.int64)
        for row, (picture, places) in enumerate(zip(pictures.astype(np.float64), some, strict=True)):
            exact = (known[places].astype(np.float64) * picture).sum(axis=1)
            found[row] = places[np.argsort(-exact, kind="stable")[:k]]
        return found

    def _pictures(self, features: Tensor) -> NDArray[np.float32]:
        """(N, D): features (N, D) or (N, P, D) as those of the training images are compared."""
        pooled = (features.mean(dim=1) if features.ndim == 3 else features).float().cpu().numpy()
        mean, deviation, _ = self._scaled
        return _unit((pooled - mean) / deviation)

    @cached_property
    def _scaled(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation (D,) of the training images' features, and these at length 1 (M, D)."""
        values = self.features.float().numpy()
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1).astype(np.float32)
        return mean, deviation, _unit((values - mean) / deviation)

    @cached_property
    def _said(self) -> _Said:
        counts = self.counts.numpy().astype(np.int64)
        owner = np.repeat(np.arange(len(counts)), counts)
        captions = [[i for i in ids if i != self._pad] for ids in self.captions.tolist()]
        counted = count_grams(captions, ORDER)
        frequencies = DocumentFrequencies.from_counts(counted, owner, len(counts))
        sizes = [len(keys) for keys in counted.lexicon.keys]
        offsets = np.cumsum([0, *sizes])
        captions_of, grams, values = _vectors(counted, frequencies, offsets)
        images = owner[captions_of]
        pairs, at = np.unique(images * offsets[-1] + grams, return_inverse=True)
        means = np.bincount(at, values / counts[images], len(pairs))
        images, grams = np.divmod(pairs, max(1, offsets[-1]))
        starts = np.searchsorted(images, np.arange(len(counts) + 1))
        words = np.bincount(owner, counted.lengths, len(counts)) / counts
        return _Said(frequencies, offsets, starts, grams.astype(np.int32), means.astype(np.float32), words)


def _vectors(counted: Counts, frequencies: DocumentFrequencies, offsets: Ids) -> tuple[Ids, Ids, Floats]:
    """The tf-idf vectors of captions, those of each length of n-gram at length 1: caption, n-gram and value, sorted by
    caption. N-grams that are not in `frequencies` lengthen a vector, and are left out of it."""
    size, parts = len(counted.lengths), []
    numbers = counted.lexicon.numbers_in(frequencies.lexicon)
    all_weights = frequencies.weights(numbers)
    for (rows, grams, counts), offset, known, weights in zip(
        counted.occurrences, offsets, numbers, all_weights, strict=False
    ):
        values = counts * np.sqrt(weights[grams])
        norms = np.sqrt(np.bincount(rows, values**2, size))[rows]
        values = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
        kept = known[grams] >= 0
        parts.append((rows[kept], known[grams[kept]] + offset, values[kept]))
    owners, numbered, lengths_one = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(owners, kind="stable")
    return owners[order], numbered[order], lengths_one[order]


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows cut off at `FARTHEST`, at length 1."""
    values = np.clip(values, -FARTHEST, FARTHEST)
    unit: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return unit
