"""Consensus: ranks the captions found for an image by the captions of similar training images.

The k training images with the most similar features are looked up, and the candidates ranked by their CIDEr against the
captions of these neighbours (Devlin et al. 2015, "Exploring Nearest Neighbor Approaches for Image Captioning",
arXiv:1505.04467; Mao et al. 2015 rank an m-RNN's beam so, arXiv:1412.6632v5, section 8). There all neighbours have
equal weight. Here a kernel ridge regression learns from them (Saunders et al. 1998, "Ridge Regression Learning
Algorithm in Dual Variables"; one for each image, from its neighbours: Bottou and Vapnik 1992, "Local Learning
Algorithms"). It predicts the tf-idf vectors of the image's captions, and their length; a candidate's score against
these is CIDEr's cosine times CIDEr-D's penalty for another length (arXiv:1411.5726).

Letters of shapes: N images to be captioned, M training images, C captions of these, T tokens, D feature values.
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
from captionkit.model.tuning import (
    CLIP_DEVIATIONS,
    MAX_ALL,
    MAX_NEIGHBOURS,
    RIDGE,
    SHARPNESS,
    SPARE_NEIGHBOURS,
)

Floats = NDArray[np.float64]


class _TrainingCaptions(NamedTuple):
    """For each training image, the mean of its captions' tf-idf vectors, each scaled to length 1: a sparse matrix of
    n-grams and images, by n-grams. These are numbered over all lengths."""

    frequencies: DocumentFrequencies
    offsets: Ids
    """offsets[n − 1] is the number of the first n-gram of n words."""
    starts: Ids
    """The entries of n-gram g are those from starts[g] to starts[g + 1]."""
    images: NDArray[np.int32]
    """The image of each entry."""
    values: NDArray[np.float32]
    """The value of each entry."""
    lengths_M: Floats
    """Mean number of words of each image's captions."""


class _Statistics(NamedTuple):
    """Mean and standard deviation of the training images' features, and these by both, at length 1."""

    mean_D: NDArray[np.float32]
    deviation_D: NDArray[np.float32]
    unit_MD: NDArray[np.float32]


class Consensus:
    """The training images' features and captions.

    Args:
        features: (M, D), the encoder's, the mean over all places of a grid. Kept as fp16.
        captions: (C, T) int32, word ids of all captions, image by image, padded with `pad`.
        counts: (M,) int32, captions of each image, at least 1.
        pad: the id of padding.

    Raises:
        ValueError: other shapes or dtypes, or parts that do not fit each other.
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
        flat = [torch.tensor(ids, dtype=torch.int32) for of_image in captions for ids in of_image]
        padded = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True, padding_value=pad)
        return cls(features, padded, torch.tensor([len(of_image) for of_image in captions], dtype=torch.int32), pad)

    @property
    def max_neighbours(self) -> int:
        """The most neighbours that can be asked for, and the best number if time allows: all, or `MAX_NEIGHBOURS`."""
        return len(self.features) if len(self.features) <= MAX_ALL else MAX_NEIGHBOURS

    def check(self, neighbours: int) -> None:
        """Raise ValueError for more neighbours than can be asked for: one regression an image is limited in size, and
        one for all images too."""
        known = len(self.features)
        may_use_all = known <= MAX_ALL
        uses_all = neighbours >= known
        if neighbours > MAX_NEIGHBOURS and not (uses_all and may_use_all):
            or_all = f", or all: at least {known:,}" if may_use_all else ""
            raise ValueError(f"of this bundle's {known:,} training images it can ask up to {MAX_NEIGHBOURS:,}{or_all}")

    def expected_cider(
        self, features: Tensor, candidates: Sequence[Sequence[Sequence[int]]], neighbours: int
    ) -> list[list[float]]:
        """The CIDEr-D that each candidate can be expected to get, 0 to 10 apart from the regression's errors.

        Args:
            features: (N, D) or (N, P, D), of the images.
            candidates: for each image, captions as word ids.
            neighbours: k, how many training images are used; all, where there are fewer.

        Raises:
            ValueError: more than can be asked for.
        """
        self.check(neighbours)
        known, captions = self._training_captions, [caption for row in candidates for caption in row]
        counted = count_grams(captions, ORDER)
        owners, grams, values = _tf_idf(counted, known.frequencies, known.offsets)
        weights_NM = self.weights(features, neighbours)
        # Regressed about the mean: for an image unlike all others the regression predicts the mean caption length.
        mean_length = known.lengths_M.mean()
        lengths_N = mean_length + weights_NM @ (known.lengths_M - mean_length)
        ciders, start = [], 0
        for row, weights_M, length in zip(candidates, weights_NM, lengths_N, strict=True):
            end = start + len(row)
            entries = slice(*np.searchsorted(owners, [start, end]))
            needed, inverse = np.unique(grams[entries], return_inverse=True)
            products = values[entries] * self._expected_tf_idf(weights_M, needed)[inverse]
            cosines = np.bincount(owners[entries] - start, products, len(row)) / ORDER
            difference = counted.lengths[start:end] - length
            ciders.append((10 * cosines * np.exp(-(difference**2) / (2 * SIGMA**2))).tolist())
            start = end
        return ciders

    def weights(self, features: Tensor, neighbours: int) -> Floats:
        """The weights (N, M) of the training images in the regression, 0 for all but the k nearest.

        Where all are used, an image's batch can change the last bits (fp32).
        """
        queries_ND, known_MD = self._normalize(features), self._statistics.unit_MD
        if neighbours >= len(known_MD):  # one regression for all images
            kernel_MN = torch.from_numpy(_kernel(known_MD @ queries_ND.T))
            return torch.cholesky_solve(kernel_MN, self._cholesky_factor).T.numpy().astype(np.float64)
        weights_NM = np.zeros((len(queries_ND), len(known_MD)))
        for n, (query_D, nearest) in enumerate(zip(queries_ND, self.nearest(features, neighbours), strict=True)):
            neighbours_KD = known_MD[nearest].astype(np.float64)
            kernel_KK = _kernel(neighbours_KD @ neighbours_KD.T) + RIDGE * np.eye(len(neighbours_KD))
            weights_NM[n, nearest] = np.linalg.solve(kernel_KK, _kernel(neighbours_KD @ query_D.astype(np.float64)))
        return weights_NM

    @cached_property
    def _cholesky_factor(self) -> Tensor:
        """(M, M), lower, of the kernel of all training images."""
        known_MD = self._statistics.unit_MD
        kernel_MM = torch.from_numpy(_kernel(known_MD @ known_MD.T))
        kernel_MM.diagonal().add_(RIDGE)
        factor_MM: Tensor = torch.linalg.cholesky(kernel_MM)
        return factor_MM

    def _expected_tf_idf(self, weights_M: Floats, grams: Ids) -> Floats:
        """The expected tf-idf of some n-grams, by the weights of the training images."""
        known = self._training_captions
        starts, counts = known.starts[grams], known.starts[grams + 1] - known.starts[grams]
        offsets = np.cumsum(counts) - counts
        entries = np.arange(counts.sum()) + np.repeat(starts - offsets, counts)
        sums: Floats = np.add.reduceat(weights_M[known.images[entries]] * known.values[entries], offsets)
        return sums

    def nearest(self, features: Tensor, neighbours: int) -> NDArray[np.int64]:
        """The k training images nearest to each image by the cosine of their features, (N, k), nearest first."""
        queries_ND, known_MD = self._normalize(features), self._statistics.unit_MD
        k = min(neighbours, len(known_MD))
        cosines_NM = queries_ND @ known_MD.T
        last = min(k + SPARE_NEIGHBOURS, len(known_MD)) - 1
        candidates = np.argpartition(-cosines_NM, last, axis=1)[:, : k + SPARE_NEIGHBOURS]
        candidates.sort(axis=1)
        nearest_NK = np.empty((len(queries_ND), k), np.int64)
        for n, (query_D, indices) in enumerate(zip(queries_ND.astype(np.float64), candidates, strict=True)):
            exact = (known_MD[indices].astype(np.float64) * query_D).sum(axis=1)
            nearest_NK[n] = indices[np.argsort(-exact, kind="stable")[:k]]
        return nearest_NK

    def _normalize(self, features: Tensor) -> NDArray[np.float32]:
        """Features (N, D) or (N, P, D) by the training images' statistics, at length 1: (N, D)."""
        pooled_ND = (features.mean(dim=1) if features.ndim == 3 else features).float().cpu().numpy()
        return _unit((pooled_ND - self._statistics.mean_D) / self._statistics.deviation_D)

    @cached_property
    def _statistics(self) -> _Statistics:
        values_MD = self.features.float().numpy()
        mean_D, deviation_D = values_MD.mean(axis=0), values_MD.std(axis=0)
        deviation_D = np.where(deviation_D > 0, deviation_D, 1).astype(np.float32)
        return _Statistics(mean_D, deviation_D, _unit((values_MD - mean_D) / deviation_D))

    @cached_property
    def _training_captions(self) -> _TrainingCaptions:
        counts = self.counts.numpy().astype(np.int64)
        owner = np.repeat(np.arange(len(counts)), counts)
        captions = [[i for i in ids if i != self._pad] for ids in self.captions.tolist()]
        counted = count_grams(captions, ORDER)
        frequencies = DocumentFrequencies.from_counts(counted, owner, len(counts))
        sizes = [len(keys) for keys in counted.lexicon.keys]
        offsets = np.cumsum([0, *sizes])
        captions_of, grams, values = _tf_idf(counted, frequencies, offsets)
        images = owner[captions_of]
        pairs, inverse = np.unique(grams * len(counts) + images, return_inverse=True)
        means = np.bincount(inverse, values / counts[images], len(pairs)).astype(np.float32)
        grams, images = np.divmod(pairs, len(counts))
        starts = np.searchsorted(grams, np.arange(offsets[-1] + 1))
        lengths_M = np.bincount(owner, counted.lengths, len(counts)) / counts
        return _TrainingCaptions(frequencies, offsets, starts, images.astype(np.int32), means, lengths_M)


def _tf_idf(counted: Counts, frequencies: DocumentFrequencies, offsets: Ids) -> tuple[Ids, Ids, Floats]:
    """The tf-idf vectors of captions, scaled to length 1 for each n: caption, n-gram and value, sorted by caption.

    N-grams that are not in `frequencies` count for the length of a vector, but get no entry.
    """
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
    owners, ids, scaled = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(owners, kind="stable")
    return owners[order], ids[order], scaled[order]


def _kernel(cosines: NDArray[Any]) -> NDArray[Any]:
    kernel: NDArray[Any] = np.exp(SHARPNESS * (cosines - 1))
    return kernel


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows clipped at `CLIP_DEVIATIONS`, at length 1."""
    values = np.clip(values, -CLIP_DEVIATIONS, CLIP_DEVIATIONS)
    unit: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return unit
