"""Validation during training: CIDEr-D of the dev images' captions by beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from captionkit.metrics.cider import CiderD
from captionkit.model.decoders import Decoder
from captionkit.model.search.options import SearchOptions
from captionkit.model.search.search import search
from captionkit.training.batches import Examples, worker_share
from captionkit.vocabulary import BOS, EOS, PAD, UNK

CHUNK = 64
"""Dev images captioned at a time."""


def references(examples: Examples) -> list[list[list[int]]]:
    """The captions of each image, as token ids."""
    captions: list[list[list[int]]] = [[] for _ in examples.images]
    for row, image in enumerate(examples.image.tolist()):
        captions[image].append(examples.caption(row))
    return captions


class Validator:
    """Scores a decoder on the dev images; each worker captions a share of them.

    CIDEr-D is computed on the vocabulary's words here, which is enough to choose checkpoints. Figures to compare with
    papers come from `captionkit.evaluation`.

    Args:
        dev: the dev images and their reference captions.
        rank: of this worker, of `world` workers.
    """

    def __init__(self, dev: Examples, options: SearchOptions, rank: int, world: int) -> None:
        self._cider = CiderD(references(dev))
        self._images = worker_share(np.arange(len(dev.images)), rank, world)
        self._total, self._options, self._world = len(dev.images), options, world

    @torch.no_grad()
    def score(self, decoder: Decoder, features: Callable[[NDArray[np.int64]], Tensor]) -> tuple[float, list[list[int]]]:
        """CIDEr-D × 100 and the captions of all dev images, as token ids; the same on every worker.

        Args:
            decoder: in eval mode.
            features: returns the features (n, …) of dev images, by their indices (n,).
        """
        own: list[tuple[int, list[int]]] = []
        for start in range(0, len(self._images), CHUNK):
            images = self._images[start : start + CHUNK]
            result = search(decoder, features(images), self._options, bos=BOS, eos=EOS, pad=PAD, banned=[UNK])
            tokens = zip(result.tokens[:, 0].tolist(), result.lengths[:, 0].tolist(), strict=True)
            own += [(image, ids[:n]) for image, (ids, n) in zip(images.tolist(), tokens, strict=True)]
        parts: list[Sequence[tuple[int, list[int]]]] = [own]
        if self._world > 1:
            parts = [[]] * self._world
            torch.distributed.all_gather_object(parts, own)
        captions: list[list[int]] = [[]] * self._total
        for part in parts:
            for image, ids in part:
                captions[image] = ids
        return 100 * float(self._cider.score(captions).mean()), captions
