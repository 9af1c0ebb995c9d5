"""Captions as numbers, and which of them a worker reads at which step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captionkit.training.loop import pad_tokens


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

    def padded(self, rows: NDArray[np.int64]) -> Tensor:
        """Captions between markers, padded: (n, T) int64."""
        return pad_tokens(self.caption(row) for row in rows.tolist())

    def caption(self, row: int) -> list[int]:
        """The token ids of one caption."""
        start = int(self.ends[row - 1]) if row else 0
        ids: list[int] = self.tokens[start : self.ends[row]].tolist()
        return ids


@dataclass(frozen=True)
class Order:
    """The order in which rows are read: shuffled anew each epoch, the same for the same seed on every worker.

    It knows nothing of workers, so that any number of them goes through the same batches: each reads its `share`.
    """

    rows: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; their sizes differ by one at most, so no row is left out."""
        return max(1, round(self.rows / self.batch_size))

    def batch(self, step: int) -> NDArray[np.int64]:
        """The rows of the batch at a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        # As np.array_split cuts, without making every other batch of the epoch at each step.
        size, longer = divmod(self.rows, self.steps_per_epoch)
        start = place * size + min(place, longer)
        return _shuffled(self.rows, self.seed, epoch)[start : start + size + (place < longer)]


@lru_cache(maxsize=1)  # all steps of an epoch ask for the same
def _shuffled(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(rows)


def share(rows: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """A worker's part of a batch."""
    return rows[rank::world]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one worker.

    So dropout and sampling are the same after a restart, without any generator's state in the checkpoint.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))
