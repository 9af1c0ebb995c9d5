"""The numbers chosen by trial: each of these fails if its number is taken away or changed many times over."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from captionkit.model import tuning
from captionkit.model.captions import Candidate, rerank
from captionkit.model.consensus import Consensus, _kernel
from captionkit.model.decoders import ShowTell
from captionkit.model.tuning import MAX_DEVIATIONS, RIDGE


def decoder(feature_size: int = 16) -> ShowTell:
    torch.manual_seed(0)
    return ShowTell(ShowTell.Config(vocab_size=500, feature_size=feature_size, embed_size=128, hidden_size=8)).eval()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_clip_of_features_touches_tails_only() -> None:
    features, reader = normal(5000, 16), decoder()
    features[0, 0] = 400.0  # a tail: some of SqueezeNet's rectified features lie 50 deviations out
    reader.set_feature_statistics(features)
    standardized = reader.standardize(features)
    assert (standardized == MAX_DEVIATIONS).sum() == 1
    assert standardized[0, 0] == MAX_DEVIATIONS


def test_a_value_that_hardly_varies_stays_small() -> None:
    features, reader = normal(1000, 16), decoder()
    features[:, 3] *= 1e-4
    reader.set_feature_statistics(features)
    deviations = reader.standardize(features).std(dim=0)
    assert deviations[3] < 0.1
    assert deviations[[*range(3), *range(4, 16)]].min() > 0.95


def test_features_that_never_vary_stay_finite() -> None:
    features, reader = torch.full((100, 16), 7.0), decoder()
    reader.set_feature_statistics(features)
    assert reader.standardize(features).abs().max() == 0
    assert reader.standardize(features + 1e-3).isfinite().all()


@torch.no_grad()
def test_new_word_vectors_do_not_outweigh_the_image() -> None:
    reader = decoder(512)
    image_NE = reader.image(normal(100, 512))
    assert 0.02 * image_NE.std() < reader.words.weight.std() < 0.5 * image_NE.std()


def test_one_value_does_not_decide_which_images_are_alike() -> None:
    known = normal(50, 64)
    queries = known.clone()
    queries[:, 0] = 1000.0  # all are as far out in one value
    nearest = Consensus.of(known, [[[1]]] * 50, pad=0).nearest(queries, 1)
    assert nearest[:, 0].tolist() == list(range(50))


def test_the_regression_is_smooth_and_well_conditioned() -> None:
    alike, unlike = _kernel(np.array([1.0, 0.0]))
    assert alike == 1
    assert 0.01 < unlike < 0.2, "an image that has nothing in common counts a little"
    features = normal(30, 64)
    weights = Consensus.of(features, [[[1]]] * 30, pad=0).weights(features, 30)
    assert 0.5 < weights.diagonal().min() <= weights.diagonal().max() < 0.95, "an image's own captions count most"
    twice = np.ones((2, 2))  # two equal images: singular without the ridge
    assert np.linalg.cond(_kernel(twice) + RIDGE * np.eye(2)) < 20


@pytest.mark.parametrize(("cider", "is_first"), [(0.5, False), (1.0, False), (2.0, True)])
def test_likelihood_decides_between_captions_of_like_consensus(cider: float, is_first: bool) -> None:
    """Two nats are worth more than half a point of CIDEr-D, and less than one and a half."""
    unlikely, likely = Candidate([4], -3.0, True), Candidate([5], -1.0, True)
    assert (rerank([unlikely, likely], [cider, 0.5])[0] is unlikely) == is_first


def test_every_number_names_a_test_that_exists() -> None:
    source, folder = inspect.getsource(tuning), Path(__file__).parent
    tests = "".join(path.read_text() for path in folder.rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", source):
        assert f"def {name}(" in tests, name
    for name in re.findall(r"`([\w/]*test_\w+\.py)`", source):
        assert (folder / name).exists(), name
    numbers = re.findall(r'^[A-Z_]+: Final = [^\n]*\n"""(.*?)"""', source, re.MULTILINE | re.DOTALL)
    assert len(numbers) == source.count(": Final = ")
    assert all("test" in reason for reason in numbers)
