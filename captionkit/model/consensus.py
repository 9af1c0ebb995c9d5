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
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captionkit.metrics.cider import ORDER, SIGMA, DocumentFrequencies
from captionkit.metrics.ngrams import Counts, Ids, count_grams

Floats = NDArray[np.float64]

FARTHEST = 4.0
"""Standard deviations at which features are cut off, so that no few of them decide which pictures are alike."""
_SPARE = 16
"""Images looked at beyond k, whose similarity is then computed exactly: the last bits in fp32 depend on the batch that
the picture comes in, and shall decide nothing."""
SHARPNESS, RIDGE = 3.0, 0.3
"""The regression's kernel, exp(SHARPNESS × (cosine − 1)), and what is added to its diagonal. By the dev images of
Flickr8k 2 to 4 and 0.15 to 0.6 come out within one point of CIDEr-D."""
LIKELIHOOD = 0.3
"""CIDEr-D that a caption is given for each nat by which its words are likelier, on average. Chosen by those images too:
half a point, and from 0.2 to 0.5 it makes no difference."""
MOST_NEAREST, MOST = 1_000, 10_000
"""Most images asked, where they are some of the training images, and a regression is solved for each picture; and where
they are all, and one is solved for all pictures, which holds as many numbers as that squared: 400 MB."""


class _Said(NamedTuple):
    """What was said of the training images: for each, the mean of its captions' tf-idf vectors, each of length 1.

    By n-grams, which are numbered over all lengths: those of n words from offsets[n − 1]. N-gram g was said of the
    images from starts[g] to starts[g + 1], and has these values in their means.
    """

    frequencies: DocumentFrequencies
    offsets: Ids
    starts: Ids
    images: NDArray[np.int32]
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
        if not features.isfinite().all():
            raise ValueError("features of training images are not all finite")
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

    @property
    def most(self) -> int:
        """The most neighbours that can be asked, and the best number where time allows: all, or `MOST_NEAREST`."""
        return len(self.features) if len(self.features) <= MOST else MOST_NEAREST

    def check(self, neighbours: int) -> None:
        """Raise ValueError for more neighbours than can be asked."""
        known = len(self.features)
        if neighbours > MOST_NEAREST and not neighbours >= known <= MOST:
            every = f", or all: at least {known:,}" if known <= MOST else ""
            raise ValueError(f"of this bundle's {known:,} training images it can ask up to {MOST_NEAREST:,}{every}")

    def agreement(
        self, features: Tensor, candidates: Sequence[Sequence[Sequence[int]]], neighbours: int
    ) -> list[list[float]]:
        """The CIDEr-D that each candidate may expect, 0 to 10 but for the regression's errors.

        Args:
            features: (N, D) or (N, P, D), of the pictures.
            candidates: for each picture, captions as word ids.
            neighbours: k, how many images are asked; all, where there are fewer.

        Raises:
            ValueError: more than can be asked.
        """
        self.check(neighbours)
        said, flat = self._said, [caption for several in candidates for caption in several]
        counted = count_grams(flat, ORDER)
        owners, grams, values = _vectors(counted, said.frequencies, said.offsets)
        weights = self.weights(features, neighbours)
        # Regressed about the mean, so that a picture like no other is foretold a caption of ordinary length.
        ordinary = said.words.mean()
        foretold = ordinary + weights @ (said.words - ordinary)
        found, row = [], 0
        for several, mine, length in zip(candidates, weights, foretold, strict=True):
            part = slice(*np.searchsorted(owners, [row, row + len(several)]))
            wanted, at = np.unique(grams[part], return_inverse=True)
            products = values[part] * self._expected(mine, wanted)[at]
            cosines = np.bincount(owners[part] - row, products, len(several)) / ORDER
            apart = counted.lengths[row : row + len(several)] - length
            found.append((10 * cosines * np.exp(-(apart**2) / (2 * SIGMA**2))).tolist())
            row += len(several)
        return found

    def weights(self, features: Tensor, neighbours: int) -> Floats:
        """(N, M): what each training image counts for by the regression; 0 for all but the k most alike.

        Where all are asked, a picture's batch can change the last bits (fp32).
        """
        pictures, known = self._pictures(features), self._scaled[2]
        if neighbours >= len(known):  # one regression for all pictures
            kernel = torch.from_numpy(_kernel(known @ pictures.T))
            return torch.cholesky_solve(kernel, self._factor).T.numpy().astype(np.float64)
        weights = np.zeros((len(pictures), len(known)))
        for row, (picture, places) in enumerate(zip(pictures, self.nearest(features, neighbours), strict=True)):
            some = known[places].astype(np.float64)
            own = _kernel(some @ some.T) + RIDGE * np.eye(len(some))
            weights[row, places] = np.linalg.solve(own, _kernel(some @ picture.astype(np.float64)))
        return weights

    @cached_property
    def _factor(self) -> Tensor:
        """(M, M): the lower Cholesky factor of the kernel of all training images."""
        known = self._scaled[2]
        kernel = torch.from_numpy(_kernel(known @ known.T))
        kernel.diagonal().add_(RIDGE)
        factor: Tensor = torch.linalg.cholesky(kernel)
        return factor

    def _expected(self, weights: Floats, wanted: Ids) -> Floats:
        """The expected tf-idf of some n-grams, by what each training image counts for, (M,)."""
        said = self._said
        begin, many = said.starts[wanted], said.starts[wanted + 1] - said.starts[wanted]
        first = np.cumsum(many) - many
        entries = np.arange(many.sum()) + np.repeat(begin - first, many)
        sums: Floats = np.add.reduceat(weights[said.images[entries]] * said.values[entries], first)
        return sums

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
        pairs, at = np.unique(grams * len(counts) + images, return_inverse=True)
        means = np.bincount(at, values / counts[images], len(pairs)).astype(np.float32)
        grams, images = np.divmod(pairs, len(counts))
        starts = np.searchsorted(grams, np.arange(offsets[-1] + 1))
        words = np.bincount(owner, counted.lengths, len(counts)) / counts
        return _Said(frequencies, offsets, starts, images.astype(np.int32), means, words)


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


def _kernel(cosines: NDArray[Any]) -> NDArray[Any]:
    kernel: NDArray[Any] = np.exp(SHARPNESS * (cosines - 1))
    return kernel


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows cut off at `FARTHEST`, at length 1."""
    values = np.clip(values, -FARTHEST, FARTHEST)
    unit: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return unit
