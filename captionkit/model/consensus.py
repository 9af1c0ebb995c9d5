"""Consensus: of the captions that a search found, the one most like what people said of similar pictures.

The k training images whose features are most like a picture's are looked up, and the candidates ranked by their CIDEr-D
against those images' captions (Devlin et al. 2015, "Exploring Nearest Neighbor Approaches for Image Captioning",
arXiv:1505.04467; Mao et al. 2015 rank an m-RNN's beam so, arXiv:1412.6632v5, section 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captionkit.metrics import CiderD, DocumentFrequencies

FARTHEST = 4.0
"""Standard deviations at which features are cut off, so that no few of them decide which pictures are alike."""
_SPARE = 16
"""Images looked at beyond k, whose similarity is then computed exactly: the last bits in fp32 depend on the batch that
the picture comes in, and shall decide nothing."""


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
        """How far each candidate agrees with what was said of similar images: its CIDEr-D, from 0 to 10.

        Args:
            features: (N, D) or (N, P, D), of the pictures.
            candidates: for each picture, captions as word ids.
            neighbours: k, how many images are asked; all, where there are fewer.
        """
        said = [[self._said[place] for place in row] for row in self.nearest(features, neighbours).tolist()]
        references = [[caption for several in row for caption in several] for row in said]
        owners = [image for image, several in enumerate(candidates) for _ in several]
        flat = [caption for several in candidates for caption in several]
        scores = iter(CiderD(references, self._frequencies).score(flat, images=owners).tolist())
        return [[next(scores) for _ in several] for several in candidates]

    def nearest(self, features: Tensor, neighbours: int) -> NDArray[np.int64]:
        """(N, k): the training images most like each picture by the cosine of their features, the most alike first."""
        pooled = (features.mean(dim=1) if features.ndim == 3 else features).float().cpu().numpy()
        mean, deviation, known = self._scaled
        pictures = _unit((pooled - mean) / deviation)
        k = min(neighbours, len(known))
        rough = pictures @ known.T
        some = np.argpartition(-rough, min(k + _SPARE, len(known)) - 1, axis=1)[:, : k + _SPARE]
        some.sort(axis=1)
        found = np.empty((len(pictures), k), np.int64)
        for row, (picture, places) in enumerate(zip(pictures.astype(np.float64), some, strict=True)):
            exact = (known[places].astype(np.float64) * picture).sum(axis=1)
            found[row] = places[np.argsort(-exact, kind="stable")[:k]]
        return found

    @cached_property
    def _scaled(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation (D,) of the training images' features, and these at length 1 (M, D)."""
        values = self.features.float().numpy()
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1).astype(np.float32)
        return mean, deviation, _unit((values - mean) / deviation)

    @cached_property
    def _said(self) -> list[list[list[int]]]:
        """For each training image its captions, as word ids."""
        rows = iter(self.captions.tolist())
        return [[[i for i in next(rows) if i != self._pad] for _ in range(count)] for count in self.counts.tolist()]

    @cached_property
    def _frequencies(self) -> DocumentFrequencies:
        return DocumentFrequencies.of(self._said)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows cut off at `FARTHEST`, at length 1."""
    values = np.clip(values, -FARTHEST, FARTHEST)
    unit: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return unit
