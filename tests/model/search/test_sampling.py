"""Sampling: by the model's likelihood, within the rules, and the same whatever the batch."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.model.search import SearchOptions
from captionkit.model.search.sampling import _mix
from tests.model.search.slow_search import EOS, Task, Tree, Words, read
from tests.model.search.test_beam import IMAGES, no_ngram_twice

SAMPLE = SearchOptions(method="sample", max_length=8)


def shares(task: Task, words: Words) -> dict[int, float]:
    """How often each word should be drawn after these: the options, worked out word by word."""
    options = task.options
    weights = {word: np.exp(float(logprob) / options.temperature) for word, logprob in task.allowed(0, words)}
    kept = list(weights)[: options.top_k or None]  # likeliest first
    total, nucleus, mass = sum(weights[word] for word in kept), [], 0.0
    for word in kept:
        if mass < options.top_p:
            nucleus.append(word)
        mass += weights[word] / total
    total = sum(weights[word] for word in nucleus)
    return {word: weights[word] / total for word in nucleus}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 4},
        {"top_p": 0.8},
        {"top_p": 0.7, "top_k": 6, "temperature": 1.5},
        {"top_p": 0.0001},
    ],
)
def test_words_are_drawn_by_their_likelihood(changes: dict[str, float]) -> None:
    draws = 4000
    options = dataclasses.replace(SAMPLE, max_length=2, **changes)  # type: ignore[arg-type]
    features, keys = IMAGES[:1].expand(draws, 1), torch.arange(draws) * 7 - 1000
    task = Task(Tree(12), features, options, banned=(3,), keys=keys)
    tokens = task.run().tokens[:, 0].tolist()
    for place, drawn in enumerate(
        [Counter(first for first, _ in tokens), Counter(s for f, s in tokens if f == tokens[0][0])]
    ):
        expected = shares(task, () if place == 0 else (tokens[0][0],))
        expected = {(0 if word == EOS else word): share for word, share in expected.items()}  # an end is padded
        assert set(drawn) <= set(expected)
        count = sum(drawn.values())
        for word, share in expected.items():
            assert abs(drawn[word] - count * share) < 5 * np.sqrt(count * share * (1 - share)) + 1


def test_samples_of_an_image_are_independent() -> None:
    """Of two samples with two words each, all four pairs come out as often as chance says."""
    draws = 4000
    options = dataclasses.replace(SAMPLE, max_length=1, n_best=2)
    task = Task(Tree(6, levels=1), IMAGES[:1].expand(draws, 1), options, banned=(3,), keys=torch.arange(draws))
    result = task.run()
    alike = (result.scores[:, 1] == -torch.inf).sum().item()  # two equal samples are returned once
    assert abs(alike - draws / 2) < 5 * np.sqrt(draws / 4)


@settings(max_examples=40, deadline=None)
@given(
    options=st.builds(
        SearchOptions,
        method=st.just("sample"),
        n_best=st.integers(1, 4),
        max_length=st.integers(4, 8),
        min_length=st.integers(0, 4),
        no_repeat_ngram=st.integers(0, 2),
        temperature=st.sampled_from([0.3, 1.0, 3.0]),
        top_k=st.sampled_from([0, 1, 3]),
        top_p=st.sampled_from([0.1, 0.9, 1.0]),
        seed=st.integers(-3, 3),
    ),
    order=st.permutations(range(5)),
    prefix=st.lists(st.integers(4, 9), max_size=2),
)
def test_the_batch_changes_nothing_and_the_rules_hold(
    options: SearchOptions, order: list[int], prefix: list[int]
) -> None:
    keys = torch.tensor([5, -7, 2**62, 0, -(2**63)])
    task = Task(Tree(10, ends=1.0), IMAGES, options, banned=(3, 5), prefix=tuple(prefix))
    alone = [read(task.run(features=IMAGES[i : i + 1], keys=keys[i : i + 1]), 0) for i in range(5)]
    together = task.run(features=IMAGES[order], keys=keys[order])
    assert [read(together, place) for place in range(5)] == [alone[i] for i in order]
    for image in range(5):
        captions = alone[image]
        assert captions == sorted(captions, key=lambda caption: (not caption.ended, -caption.score))
        assert len({caption.words for caption in captions}) == len(captions) >= 1
        for caption in captions:
            forced = len(task.prefix)
            assert caption.words[:forced] == task.prefix
            assert not set(caption.words[forced:]) & {3, 5}
            no_ngram_twice(caption.words, options.no_repeat_ngram, forced)
            if len(caption.words) < options.min_length:  # no other token was left
                assert [word for word, _ in task.allowed(image, caption.words)] == [EOS]
            total = task.prefix_sum(image)
            for place in range(forced, len(caption.words)):
                total += dict(task.allowed(image, caption.words[:place]))[caption.words[place]]
            if caption.ended:
                total += dict(task.allowed(image, caption.words))[EOS]
            assert caption.mean == pytest.approx(float(total) / (len(caption.words) + caption.ended), rel=1e-5)
            assert caption.score == pytest.approx(task.score(total, len(caption.words) + caption.ended), rel=1e-5)


def test_keys_and_seeds_draw_anew_and_more_samples_keep_the_first() -> None:
    task = Task(Tree(40), IMAGES, SAMPLE, keys=torch.arange(5))
    first = task.run().tokens
    assert torch.equal(task.run().tokens, first)
    assert not torch.equal(task.run(keys=torch.arange(5) + 5).tokens, first)
    task.options = dataclasses.replace(SAMPLE, seed=1)
    assert not torch.equal(task.run().tokens, first)
    task.options = dataclasses.replace(SAMPLE, n_best=3)
    three = task.run()
    for image in range(5):
        assert first[image, 0].tolist() in three.tokens[image].tolist()


@pytest.mark.parametrize("share", [-1.0, 0.0, 1.0])
def test_when_samples_are_taken_out_changes_nothing(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(Tree(20, ends=3.0), IMAGES, dataclasses.replace(SAMPLE, n_best=4), keys=torch.arange(5))
    expected = task.run()
    monkeypatch.setattr("captionkit.model.search.sampling.WORTH_COMPACTING", share)
    assert all(torch.equal(left, right) for left, right in zip(task.run(), expected, strict=True))


def test_a_nucleus_wider_than_the_guess() -> None:
    """Flat over 700 words: nine tenths of them are more than are looked at first."""
    draws = 3000
    options = dataclasses.replace(SAMPLE, max_length=1, top_p=0.9)
    task = Task(Tree(700, levels=1), IMAGES[:1].expand(draws, 1), options, keys=torch.arange(draws))
    drawn = task.run().tokens[:, 0, 0]
    allowed = 700 - 3  # the first word may be no marker
    assert drawn.max() < 3 + np.ceil(0.9 * allowed) + 1
    assert len(drawn.unique()) > 500


def test_the_hash_is_splitmix64() -> None:
    """The first outputs of the reference implementation for the seed 1234567."""
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(_mix(torch.tensor(state)).item() % 2**64)
        state += 0x9E3779B97F4A7C15
        state = state - 2**64 if state >= 2**63 else state
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
