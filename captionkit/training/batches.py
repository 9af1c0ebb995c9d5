"""Captions as numbers, and which of them a worker reads at which step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captionkit.vocabulary import BOS, EOS, PAD


def pad_tokens(captions: Iterable[list[int]]) -> Tensor:
    """Token ids between markers, padded to one length: (N, T) int64, T = longest + 2."""
    return nn.utils.rnn.pad_sequence(
        [torch.tensor([BOS, *caption, EOS]) for caption in captions], batch_first=True, padding_value=PAD
    )


@dataclass(frozen=True)
class Examples:
    """Images and their captions' token ids, without markers. Travels to every worker: flat arrays, no lists of lists.

    images: addresses.
    tokens: (sum of lengths,) int32, caption after caption.
    ends: (C,) int64, where each caption ends in `tokens`.
    image: (C,) int64, the index in `images` of each caption's image; captions of one image lie together.
    """

    images: tuple[str, ...]
    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    image: NDArray[np.int64]

    @classmethod
    def make(cls, captions: Sequence[tuple[str, Sequence[Sequence[int]]]]) -> Examples:
        """From pairs of an image's address and the token ids of its captions."""
        ids = [caption for _, those in captions for caption in those]
        return cls(
            images=tuple(image for image, _ in captions),
            tokens=np.array([token for caption in ids for token in caption], np.int32),
            ends=np.cumsum([len(caption) for caption in ids], dtype=np.int64),
            image=np.repeat(np.arange(len(captions)), [len(those) for _, those in captions]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tokens captions have, their end markers counted: (n,) int64."""
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        lengths: NDArray[np.int64] = self.ends[rows] - starts + 1
        return lengths

    def of_images(self, images: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All captions of some images, and of which of them each is: two arrays (n,) int64."""
        first, last = (np.searchsorted(self.image, images, side) for side in ("left", "right"))
        which = np.repeat(np.arange(len(images)), last - first)
        rows = np.arange(len(which)) - np.repeat(np.cumsum(last - first) - last, last - first)
        return rows, which

    def padded(self, rows: NDArray[np.int64]) -> Tensor:
        """Captions between markers, padded: (n, T) int64."""
        return pad_tokens(self.caption(row) for row in rows.tolist())

    def caption(self, row: int) -> list[int]:
        """The token ids of one caption."""
        start = int(self.ends[row - 1]) if row else 0
        ids: list[int] = self.tokens[start : self.ends[row]].tolist()
        return ids


POOL = 32
"""Batches among which captions of like length are brought together."""


@dataclass(frozen=True)
class Order:
    """The order in which rows are read: shuffled anew each epoch, the same for the same seed on every worker.

    It knows nothing of workers, so that any number of them goes through the same batches: each reads its `share`.

    Args:
        lengths: (rows,) of the captions. With them, those of a batch are of like length: each run of `POOL` batches is
            sorted by length, and then the batches are shuffled. Padding, two fifths of Flickr8k's batches, nearly goes.
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
        """Batches of an epoch; their sizes differ by one at most, so no row is left out."""
        return max(1, round(self.rows / self.batch_size))

    def batch(self, step: int) -> NDArray[np.int64]:
        """The rows of the batch at a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epoch:  # all steps of an epoch ask for the same
            self._epoch.clear()
            self._epoch[epoch] = self._shuffled(epoch)
        rows, batches = self._epoch[epoch]
        return rows[slice(*self._bounds(int(batches[place])))]

    def _bounds(self, place: int) -> tuple[int, int]:
        # As np.array_split cuts, without making every other batch of the epoch.
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


def share(rows: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """A worker's part of a batch."""
    return rows[rank::world]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one worker.

    So dropout and sampling are the same after a restart, without any generator's state in the checkpoint.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))
