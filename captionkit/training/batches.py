"""Captions as token ids, and which of them a worker reads at which step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captionkit.vocabulary import BOS, EOS, PAD


def pad_tokens(captions: Iterable[list[int]]) -> Tensor:
    """Token ids between start and end markers, padded: (N, T) int64, T = longest + 2."""
    return nn.utils.rnn.pad_sequence(
        [torch.tensor([BOS, *caption, EOS]) for caption in captions], batch_first=True, padding_value=PAD
    )


@dataclass(frozen=True)
class Examples:
    """Images and the token ids of their C captions, without markers. Flat arrays, since every worker gets a copy."""

    images: tuple[str, ...]
    """Addresses."""
    tokens: NDArray[np.int32]
    """(sum of lengths,), the captions one after another."""
    ends: NDArray[np.int64]
    """(C,), where each caption ends in `tokens`."""
    image: NDArray[np.int64]
    """(C,), the index in `images` of each caption's image, in ascending order."""

    @classmethod
    def make(cls, captions: Sequence[tuple[str, Sequence[Sequence[int]]]]) -> Examples:
        """From pairs of an image's address and the token ids of its captions."""
        ids = [caption for _, of_image in captions for caption in of_image]
        return cls(
            images=tuple(image for image, _ in captions),
            tokens=np.array([token for caption in ids for token in caption], np.int32),
            ends=np.cumsum([len(caption) for caption in ids], dtype=np.int64),
            image=np.repeat(np.arange(len(captions)), [len(of_image) for _, of_image in captions]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of tokens of captions, including the end marker: (n,) int64."""
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        lengths: NDArray[np.int64] = self.ends[rows] - starts + 1
        return lengths

    def of_images(self, images: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All captions of some images: their rows, and for each the place of its image in `images`; both (n,) int64."""
        first, last = (np.searchsorted(self.image, images, side) for side in ("left", "right"))
        image_of = np.repeat(np.arange(len(images)), last - first)
        rows = np.arange(len(image_of)) - np.repeat(np.cumsum(last - first) - last, last - first)
        return rows, image_of

    def padded(self, rows: NDArray[np.int64]) -> Tensor:
        """Captions between start and end markers, padded: (n, T) int64."""
        return pad_tokens(self.caption(row) for row in rows.tolist())

    def caption(self, row: int) -> list[int]:
        """The token ids of one caption."""
        start = int(self.ends[row - 1]) if row else 0
        ids: list[int] = self.tokens[start : self.ends[row]].tolist()
        return ids


POOL = 32
"""Batches that are sorted by length together. `tests/training/test_batches.py` counts the padding with and without, and
checks that an epoch does not go from short to long captions."""


@dataclass(frozen=True)
class BatchOrder:
    """The order in which rows are read: shuffled anew each epoch, the same for the same seed on every worker.

    The batches do not depend on the number of workers; each worker reads its `worker_share` of a batch.

    Args:
        lengths: (rows,), tokens of the captions. If given, the captions of a batch have similar lengths: each group of
            `POOL` batches is sorted by length, then the batches are shuffled. Without it, two fifths of the tokens of
            Flickr8k's batches are padding.
    """

    rows: int
    batch_size: int
    seed: int
    lengths: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    _epoch: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch. Their sizes differ by at most one, and no row is left out."""
        return max(1, round(self.rows / self.batch_size))

    def batch(self, step: int) -> NDArray[np.int64]:
        """The rows of the batch at a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epoch:  # one epoch is cached, since its steps follow one another
            self._epoch.clear()
            self._epoch[epoch] = self._shuffled(epoch)
        rows, batches = self._epoch[epoch]
        return rows[slice(*self._bounds(int(batches[place])))]

    def _bounds(self, place: int) -> tuple[int, int]:
        # The bounds of np.array_split, without making the other batches.
        size, longer = divmod(self.rows, self.steps_per_epoch)
        start = place * size + min(place, longer)
        return start, start + size + (place < longer)

    def _shuffled(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of an epoch, batch after batch, and the order of the batches."""
        chance = np.random.default_rng((self.seed, epoch))
        rows, batches = chance.permutation(self.rows), np.arange(self.steps_per_epoch)
        if self.lengths is None:
            return rows, batches
        for first in range(0, len(batches), POOL):
            pool = slice(self._bounds(first)[0], self._bounds(min(first + POOL, len(batches)) - 1)[1])
            rows[pool] = rows[pool][np.argsort(self.lengths[rows[pool]], kind="stable")]
        return rows, chance.permutation(batches)


def worker_share(rows: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """A worker's share of a batch."""
    return rows[rank::world]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one worker.

    Dropout and sampling are then the same after a restart, without a generator's state in the checkpoint.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))
