"""Consensus: captions ranked by those of similar training images."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from captionkit.errors import UsageError
from captionkit.images import decode
from captionkit.model.bundle import unpack
from captionkit.model.bundle_files import WEIGHTS, BundleError
from captionkit.model.captioner import Captioner
from captionkit.model.consensus import Consensus
from captionkit.model.search.options import SearchOptions
from captionkit.model.tuning import CLIP_DEVIATIONS, RIDGE, SHARPNESS
from tests.model.conftest import encoded

CAPTIONS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4)


def some(images: int, seed: int, size: int = 6) -> torch.Tensor:
    return torch.randn(images, size, generator=torch.Generator().manual_seed(seed)).exp()


@given(st.integers(1, 60), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=50)
def test_the_nearest_are_the_nearest(images: int, neighbours: int, seed: int) -> None:
    consensus = Consensus.of(some(images, seed), [[[1]]] * images, pad=0)
    queries = some(5, seed + 1000)
    found = consensus.nearest(queries, neighbours)

    known = consensus.features.double()
    mean, deviation = known.mean(dim=0), known.std(dim=0, unbiased=False)
    deviation[deviation == 0] = 1
    limit = CLIP_DEVIATIONS
    of_all, of_one = (((x - mean) / deviation).clamp(-limit, limit) for x in (known, queries.double()))
    alike = torch.nn.functional.normalize(of_one, dim=1) @ torch.nn.functional.normalize(of_all, dim=1).T
    best = alike.sort(dim=1, descending=True).values[:, :neighbours]
    assert found.shape == best.shape
    assert torch.allclose(alike.gather(1, torch.from_numpy(found)), best, atol=1e-5)
    # An image's neighbours do not depend on its batch; a grid is taken for the mean of its places.
    assert (consensus.nearest(queries[2:3], neighbours) == found[2:3]).all()
    grid = torch.stack([queries - 0.5, queries + 0.5], dim=1)
    assert consensus.nearest(grid, 1).tolist() == consensus.nearest(grid.mean(dim=1), 1).tolist()


def tf_idf(caption: list[int], n: int, known: list[list[list[int]]]) -> dict[tuple[int, ...], float]:
    """The n-grams of a caption, weighted and at length 1, as CIDEr's authors write it down."""
    grams = Counter(tuple(caption[i : i + n]) for i in range(len(caption) - n + 1))
    holds = {
        gram: sum(gram in [tuple(c[i : i + n]) for c in cs for i in range(len(c))] for cs in known) for gram in grams
    }
    vector = {gram: count * math.log(len(known) / max(1, holds[gram])) for gram, count in grams.items()}
    length = math.sqrt(sum(value**2 for value in vector.values()))
    return {gram: value / length for gram, value in vector.items()} if length else {}


@given(st.lists(CAPTIONS, min_size=4, max_size=8), st.lists(CAPTIONS, min_size=3, max_size=3), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_expected_cider_is_cider_with_the_regressions_prediction(
    known: list[list[list[int]]], candidates: list[list[list[int]]], neighbours: int
) -> None:
    consensus, queries = Consensus.of(some(len(known), 0), known, pad=0), some(3, 1)
    found = consensus.expected_cider(queries, candidates, neighbours)
    mean_length = sum(sum(map(len, captions)) / len(captions) for captions in known) / len(known)
    for place, (captions, scores) in enumerate(zip(candidates, found, strict=True)):
        weights = consensus.weights(queries, neighbours)[place].tolist()
        weighted = [(weight / len(own), caption) for weight, own in zip(weights, known, strict=True) for caption in own]
        length = mean_length + sum(weight * (len(caption) - mean_length) for weight, caption in weighted)
        for caption, score in zip(captions, scores, strict=True):
            similar = 0.0
            for n in range(1, 5):
                vector = tf_idf(caption, n, known)
                for weight, other in weighted:
                    other_vector = tf_idf(other, n, known)
                    similar += weight * sum(value * other_vector.get(gram, 0) for gram, value in vector.items()) / 4
            expected = 10 * similar * math.exp(-((len(caption) - length) ** 2) / 72)
            assert score == pytest.approx(expected, abs=1e-5)


@given(st.integers(2, 40), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_weights_solve_the_ridge_regression(images: int, neighbours: int, seed: int) -> None:
    consensus, queries = Consensus.of(some(images, seed), [[[1]]] * images, pad=0), some(5, seed + 1000)
    weights, nearest = consensus.weights(queries, neighbours), consensus.nearest(queries, neighbours)
    unit, normalized = (
        consensus._statistics.unit_MD.astype(np.float64),
        consensus._normalize(queries).astype(np.float64),
    )
    for row, near, query in zip(weights, nearest, normalized, strict=True):
        kernel = np.exp(SHARPNESS * (unit[near] @ unit[near].T - 1)) + RIDGE * np.eye(len(near))
        assert kernel @ row[near] == pytest.approx(np.exp(SHARPNESS * (unit[near] @ query - 1)), abs=1e-4)
        assert set(np.flatnonzero(row)) <= set(near)
    # Of a training image, its own captions count most; an image's weights do not depend on its batch.
    known = consensus.weights(consensus.features.float(), neighbours)
    assert known.max(axis=1) == pytest.approx(known.diagonal())
    assert consensus.weights(queries[3:4], neighbours)[0] == pytest.approx(weights[3], abs=1e-5)


def test_it_chooses_among_the_beam(captioner: Captioner) -> None:
    images = [encoded(seed) for seed in range(4)]
    short = SearchOptions(beam=6, max_length=5, no_repeat_ngram=1)
    plain = captioner.caption(images, short, n_best=6)
    beams = [[caption.text, *(other.text for other in caption.alternatives)] for caption in plain]
    # The training captions of each image: the fourth of its beam, and one that fits no image.
    known = [[captioner.vocabulary.encode(beam[3] or ""), [5, 5, 6]] for beam in beams]
    features = captioner.encode(np.stack([decode(image, captioner.preprocessing).pixels for image in images]))
    captioner.consensus = Consensus.of(features, known, pad=0)
    found = captioner.caption(images, short, consensus=1)
    assert [caption.text for caption in found] == [beam[3] for beam in beams]
    assert all(not caption.alternatives for caption in found)
    several = captioner.caption(images, short, n_best=6, consensus=1)
    for caption, beam in zip(several, beams, strict=True):
        assert caption.text == beam[3]
        assert sorted([caption.text, *(other.text for other in caption.alternatives)]) == sorted(map(str, beam))
    assert captioner.caption(images[:1], short, consensus=1)[0].text == found[0].text
    assert captioner.caption(images[:1], method="sample", n_best=4, consensus=1)[0].text


def test_without_captions_there_is_no_consensus(captioner: Captioner) -> None:
    captioner.consensus = None
    with pytest.raises(UsageError, match="--neighbours"):
        captioner.caption([encoded(0)], consensus=3)
    with pytest.raises(ValueError, match="consensus is a whole number"):
        SearchOptions(consensus=-1)


def test_a_thousand_can_be_asked_or_all_of_ten_thousand() -> None:
    few, many = (Consensus.of(some(images, 0, size=2), [[[1]]] * images, pad=0) for images in (1_500, 10_001))
    assert (few.max_neighbours, many.max_neighbours) == (1_500, 1_000)
    for consensus, fine in ((few, (1, 1_000, 1_500, 99_999)), (many, (1, 1_000))):
        for neighbours in fine:
            consensus.check(neighbours)
    with pytest.raises(ValueError, match="of this bundle's 1,500 training images it can ask up to 1,000, or all"):
        few.check(1_499)
    with pytest.raises(ValueError, match=r"10,001 training images it can ask up to 1,000$"):
        many.check(10_001)


def test_it_travels_in_a_bundle(one_captioner: Captioner) -> None:
    files = one_captioner._pack(half=False)
    again = Captioner.from_files(files, dtype="float32")
    assert again.consensus
    assert one_captioner.consensus
    for name in ("features", "captions", "counts"):
        assert torch.equal(getattr(again.consensus, name), getattr(one_captioner.consensus, name))
    images = [encoded(seed) for seed in range(3)]
    assert again.caption(images, beam=4, consensus=2) == one_captioner.caption(images, beam=4, consensus=2)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("features", lambda t: t[:, :-1], "features of 512 values, and the training images have some of 511"),
        ("features", lambda t: t[:-1], "are not those of 7 training images"),
        ("features", lambda t: t.int(), r"are \(M, D\) floats"),
        ("features", lambda t: t / 0, "not all finite"),
        ("captions", lambda t: t + 100, "words that the vocabulary lacks"),
        ("captions", lambda t: t.float(), "int32"),
        ("counts", lambda t: t - 1, "are not those of 8"),
        ("counts", lambda t: None, r"of its tensors it lacks 1 \(counts\)"),
    ],
)
def test_a_damaged_consensus_gives_an_error(
    one_captioner: Captioner, name: str, change: Callable[[torch.Tensor], torch.Tensor | None], message: str
) -> None:
    files = one_captioner._pack(half=False)
    tensors = load_tensors(files[WEIGHTS])
    changed = change(tensors.pop(f"consensus.{name}"))
    if changed is not None:
        tensors[f"consensus.{name}"] = changed.contiguous()
    with pytest.raises(BundleError, match=message):
        unpack({**files, WEIGHTS: save_tensors(tensors)})
