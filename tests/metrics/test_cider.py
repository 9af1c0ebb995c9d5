"""CIDEr-D: the reference implementation's figures, whatever the captions; and quick enough to be a reward."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.metrics import CiderD, DocumentFrequencies

pytest.importorskip("pycocoevalcap", reason="the reference implementation is an extra")
from pycocoevalcap.cider.cider_scorer import CiderScorer

# Few words, so that n-grams repeat and meet; lengths from nothing to past the longest n-gram.
CAPTION = st.lists(st.sampled_from("abcde"), max_size=9)
CORPUS = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=4)), min_size=1, max_size=6).filter(
    lambda corpus: any(reference for _, references in corpus for reference in references)
)

Words = Sequence[str]
few = settings(max_examples=40, deadline=None)


def words(caption: str) -> list[str]:
    return caption.split()


def by_reference(
    corpus: Sequence[tuple[Words, Sequence[Words]]], training: Sequence[Sequence[Words]] = ()
) -> list[float]:
    """pycocoevalcap's CIDEr-D of each caption; with the document frequencies of `training`, if given."""
    scorer = CiderScorer()
    for hypothesis, references in corpus:
        scorer += (" ".join(hypothesis), [" ".join(reference) for reference in references])
    if not training:
        return [float(value) for value in scorer.compute_score()[1]]
    other = CiderScorer()
    for references in training:
        other += ("", [" ".join(reference) for reference in references])
    other.compute_doc_freq()
    scorer.document_frequency = other.document_frequency
    # It takes the number of images from its references, of which it scores as many as it has captions.
    scorer.crefs += [[]] * (len(training) - len(corpus))
    return [float(value) for value in scorer.compute_cider()]


@few
@given(CORPUS)
def test_a_corpus_is_scored_as_the_reference_implementation_scores_it(corpus: list[tuple[Words, list[Words]]]) -> None:
    ours = CiderD([references for _, references in corpus]).score([hypothesis for hypothesis, _ in corpus])
    np.testing.assert_allclose(ours, by_reference(corpus), rtol=0, atol=1e-9)


@few
@given(CORPUS, CORPUS)
def test_document_frequencies_may_be_another_corpus(
    corpus: list[tuple[Words, list[Words]]], other: list[tuple[Words, list[Words]]]
) -> None:
    training: list[Sequence[Words]] = [references for _, references in other]
    training += [[["x"]]] * (len(corpus) - len(training))
    scorer = CiderD([references for _, references in corpus], DocumentFrequencies.of(training))
    ours = scorer.score([hypothesis for hypothesis, _ in corpus])
    np.testing.assert_allclose(ours, by_reference(corpus, training), rtol=0, atol=1e-9)


@few
@given(CORPUS, st.data())
def test_a_batch_scores_as_its_captions_do_alone(corpus: list[tuple[Words, list[Words]]], data: st.DataObject) -> None:
    scorer = CiderD([references for _, references in corpus])
    images = data.draw(st.lists(st.integers(0, len(corpus) - 1), max_size=5))
    captions = data.draw(st.lists(CAPTION, min_size=len(images), max_size=len(images)))
    alone = [float(scorer.score([caption], [image])[0]) for caption, image in zip(captions, images, strict=True)]
    np.testing.assert_allclose(scorer.score(captions, images), alone, rtol=0, atol=1e-12)


def test_token_ids_do_as_well_as_words() -> None:
    references = [[[4, 5, 6, 7, 8], [4, 5, 9]], [[10, 11, 6]]]
    hypotheses = [[4, 5, 6, 7, 300], [11, 6, 6]]
    spelt = [[[str(token) for token in caption] for caption in captions] for captions in references]
    expected = CiderD(spelt).score([[str(token) for token in caption] for caption in hypotheses])
    assert expected[0] > 0.5
    np.testing.assert_array_equal(CiderD(references).score(hypotheses), expected)
    np.testing.assert_array_equal(CiderD(references).score([np.array(caption) for caption in hypotheses]), expected)


def test_by_hand() -> None:
    # Two images, so that whatever occurs for one of them has the weight ln 2, and what occurs for both has none.
    scorer = CiderD([[words("a dog runs on grass")], [words("a cat sits on snow")]])
    same, other, clipped, short = scorer.score(
        [
            words("a dog runs on grass"),
            words("a cat sits on snow"),
            words("dog dog dog dog dog"),
            words("a dog runs on"),
        ],
        [0, 0, 0, 0],
    )
    assert same == pytest.approx(10)
    assert other == 0
    # One of five counts: 1·1 / (5·√3) of the unigrams, nothing of longer n-grams; the lengths are equal.
    assert clipped == pytest.approx(10 / 4 / (5 * math.sqrt(3)))
    # Of the weighted n-grams 2 of 3, 3 of 4, 2 of 3, 1 of 2 are there, each the reference's own: a cosine of √(k/n).
    cosines = sum(math.sqrt(part) for part in (2 / 3, 3 / 4, 2 / 3, 1 / 2))
    assert short == pytest.approx(10 / 4 * cosines * math.exp(-1 / 72))


def test_one_image_alone_is_worth_nothing_by_its_own_frequencies() -> None:
    assert CiderD([[words("a dog")]]).score([words("a dog")]).tolist() == [0.0]


def test_captions_beyond_one_chunk_are_scored_too() -> None:
    scorer = CiderD([[["a", "b"]], [["c", "d"]]])
    scores = scorer.score([["a", "b"]] * 10_000, [0, 1] * 5_000)
    assert scores.shape == (10_000,)
    assert set(scores[::2].tolist()) == {5.0}
    assert set(scores[1::2].tolist()) == {0.0}


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        CiderD([])
    with pytest.raises(ValueError, match="image 1 has none"):
        CiderD([[["a"]], []])
    with pytest.raises(ValueError, match="order 2, asked for 4"):
        CiderD([[["a"]]], DocumentFrequencies.of([[["a"]]], order=2))
    scorer = CiderD([[["a"]], [["b"]]])
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        scorer.score([["a"]])
    for image in (-1, 2):
        with pytest.raises(IndexError, match="from 0 to 1"):
            scorer.score([["a"]], [image])
    assert scorer.score([], []).shape == (0,)
