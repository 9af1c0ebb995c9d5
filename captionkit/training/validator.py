"""How good a captioner is by now: captions of the dev images by beam search, judged by CIDEr-D."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from captionkit.metrics.cider import CiderD
from captionkit.model.decoders import Decoder
from captionkit.model.search.entry import search
from captionkit.model.search.options import SearchOptions
from captionkit.training.batches import Examples, share
from captionkit.vocabulary import BOS, EOS, PAD, UNK

CHUNK = 64


def references(examples: Examples) -> list[list[list[int]]]:
    """The captions of each image, as token ids."""
    found: list[list[list[int]]] = [[] for _ in examples.images]
    for row, image in enumerate(examples.image.tolist()):
        found[image].append(examples.caption(row))
    return found


class Validator:
    """Judges a decoder on the dev images, each worker captioning a share of them.

    CIDEr-D here is over the vocabulary's own words, for choosing checkpoints; `captionkit.evaluation` gives the figures
    to compare with papers.
    """

    def __init__(self, dev: Examples, options: SearchOptions, rank: int, world: int) -> None:
        self._cider = CiderD(references(dev))
        self._images = share(np.arange(len(dev.images)), rank, world)
        self._total, self._options, self._world = len(dev.images), options, world

    @torch.no_grad()
    def judge(self, decoder: Decoder, features: Callable[[NDArray[np.int64]], Tensor]) -> tuple[float, list[list[int]]]:
        """CIDEr-D × 100, as papers write it, and the captions of all dev images; the same on every worker.

        Args:
            decoder: in eval mode.
            features: gives those of dev images by their indices.
        """
        found: list[tuple[int, list[int]]] = []
        for start in range(0, len(self._images), CHUNK):
            images = self._images[start : start + CHUNK]
            result = search(decoder, features(images), self._options, bos=BOS, eos=EOS, pad=PAD, banned=[UNK])
            words = zip(result.tokens[:, 0].tolist(), result.lengths[:, 0].tolist(), strict=True)
            found += [(image, ids[:n]) for image, (ids, n) in zip(images.tolist(), words, strict=True)]
        parts: list[Sequence[tuple[int, list[int]]]] = [found]
        if self._world > 1:
            parts = [[]] * self._world
            torch.distributed.all_gather_object(parts, found)
        captions: list[list[int]] = [[]] * self._total
        for part in parts:
            for image, ids in part:
                captions[image] = ids
        return 100 * float(self._cider.score(captions).mean()), captions
