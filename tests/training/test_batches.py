"""The order in which workers read captions."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from captionkit.training.batches import BatchOrder, Examples, pad_tokens, seed_step, worker_share
from captionkit.vocabulary import BOS, EOS, PAD

IDS = st.lists(st.integers(4, 50), min_size=1, max_size=6)


def test_captions_are_padded_between_markers() -> None:
    assert pad_tokens([[5, 6, 7], [8]]).tolist() == [[BOS, 5, 6, 7, EOS], [BOS, 8, EOS, PAD, PAD]]


@given(st.lists(st.lists(IDS, min_size=1, max_size=3), min_size=1, max_size=6))
def test_captions_come_back_as_they_went_in(captions: list[list[list[int]]]) -> None:
    made = Examples.make([(f"{n}.jpg", of_image) for n, of_image in enumerate(captions)])
    flat = [caption for of_image in captions for caption in of_image]
    assert [made.caption(row) for row in range(len(made))] == flat
    assert [made.images[image] for image in made.image] == [
        f"{n}.jpg" for n, of_image in enumerate(captions) for _ in of_image
    ]
    rows = np.arange(len(flat))
    assert made.lengths(rows).tolist() == [len(caption) + 1 for caption in flat]
    padded = made.padded(rows)
    assert (padded[:, 0] == BOS).all()
    assert [[int(t) for t in row if t not in (PAD, BOS, EOS)] for row in padded] == flat


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.randoms())
def test_all_captions_of_some_images(counts: list[int], random: Random) -> None:
    made = Examples.make([(f"{n}.jpg", [[4]] * count) for n, count in enumerate(counts)])
    images = random.sample(range(len(counts)), random.randint(0, len(counts)))
    rows, which = made.of_images(np.array(images, np.int64))
    assert [(images[w], int(row)) for w, row in zip(which, rows, strict=True)] == [
        (image, row) for image in images for row in range(len(made)) if made.image[row] == image
    ]


@given(st.integers(1, 400), st.integers(1, 12), st.integers(0, 3), st.integers(1, 4), st.booleans())
def test_each_row_is_read_once_an_epoch_whatever_the_number_of_workers(
    rows: int, batch: int, seed: int, workers: int, by_length: bool
) -> None:
    order = BatchOrder(rows, batch, seed, np.arange(rows) * 7 % 11 if by_length else None)
    for epoch in range(2):
        steps = [order.batch(epoch * order.steps_per_epoch + step) for step in range(order.steps_per_epoch)]
        assert sorted(np.concatenate(steps).tolist()) == list(range(rows))
        for step in steps:
            shares = [worker_share(step, rank, workers) for rank in range(workers)]
            assert sorted(np.concatenate(shares).tolist()) == sorted(step.tolist())


def test_epochs_differ_and_seeds_repeat() -> None:
    order = BatchOrder(100, 100, 7)
    assert order.batch(0).tolist() != order.batch(1).tolist()
    assert order.batch(0).tolist() == BatchOrder(100, 100, 7).batch(0).tolist()
    assert order.batch(0).tolist() != BatchOrder(100, 100, 8).batch(0).tolist()


def test_captions_of_a_batch_are_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 22, 3000)

    def padding(order: BatchOrder) -> float:
        batches = [lengths[order.batch(step)] for step in range(order.steps_per_epoch)]
        return 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)

    assert padding(BatchOrder(3000, 64, 0)) > 0.35
    assert padding(BatchOrder(3000, 64, 0, lengths)) < 0.05
    means = [lengths[BatchOrder(3000, 64, 0, lengths).batch(step)].mean() for step in range(47)]
    assert abs(np.corrcoef(means, range(47))[0, 1]) < 0.5, "short ones first, long ones last"
    assert (np.diff(lengths[BatchOrder(3000, 64, 0, lengths).batch(0)]) >= 0).all()


def test_chance_follows_from_seed_step_and_worker() -> None:
    def drawn(*where: int) -> list[float]:
        seed_step(*where)
        return torch.rand(3).tolist()

    assert drawn(1, 2, 0) == drawn(1, 2, 0)
    assert len({tuple(drawn(*where)) for where in ((1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0))}) == 4
