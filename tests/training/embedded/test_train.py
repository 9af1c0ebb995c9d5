"""The captioner that ships inside the package."""

from importlib.resources import files

import numpy as np
import pytest

from captionkit import Captioner
from captionkit.images import Preprocessing
from captionkit.scenes import captions, judge, random_scene
from captionkit.training.embedded.train import (
    HELD_OUT,
    EmbeddedOptions,
    SceneScores,
    draw_images,
    evaluate,
    photograph,
    train,
)


@pytest.fixture(scope="module")
def embedded() -> Captioner:
    return Captioner.load()


def test_it_fits_into_five_megabytes() -> None:
    bundle = files("captionkit") / "assets" / "default"
    assert sum(len(file.read_bytes()) for file in bundle.iterdir()) <= 5_000_000


def test_it_says_what_it_is_for_and_how_it_was_made(embedded: Captioner) -> None:
    assert "draws" in embedded.note
    assert embedded.provenance["command"].startswith("python -m captionkit.training.default")


@pytest.fixture(scope="module")
def scores(embedded: Captioner) -> SceneScores:
    return evaluate(embedded, 120, first=HELD_OUT + 50_000)


def test_it_is_as_good_as_its_bundle_says(embedded: Captioner, scores: SceneScores) -> None:
    # Three standard errors of a share of 120.
    assert scores.true == pytest.approx(embedded.provenance["true_captions"], abs=0.06)
    assert scores.distinct >= 100


def test_it_speaks_the_truth_of_scenes_it_has_never_seen(embedded: Captioner, scores: SceneScores) -> None:
    # Of 1,000 scenes, as `python -m captionkit.training.embedded --evaluate 1000` prints it.
    assert embedded.provenance["true_captions"] >= 0.95
    # Not by saying nothing.
    assert scores.claims >= 4
    assert scores.kinds_named >= 0.9


def test_a_few_captions_word_by_word(embedded: Captioner) -> None:
    found = embedded.caption([photograph(HELD_OUT + seed, 320, 90) for seed in range(len(GOLDEN))])
    assert [caption.text for caption in found] == GOLDEN


def test_a_wrong_captioner_would_be_found_out() -> None:
    scene, other = random_scene(HELD_OUT), random_scene(HELD_OUT + 1)
    assert not judge(captions(other, 0)[0], scene).true


def test_training_runs_from_images_to_captions() -> None:
    options = EmbeddedOptions(scenes=16, encoder_steps=2, decoder_steps=3, size=64, embed_size=16, hidden_size=16)
    images = draw_images(16, Preprocessing(size=64, resize=64, mode="squash"))
    assert images.shape == (16, 64, 64, 3)
    assert np.array_equal(images, draw_images(16, Preprocessing(size=64, resize=64, mode="squash")))
    captioner, curve = train(options, images)
    assert curve[-1].step == 3
    assert captioner.caption([photograph(0, 64, 90)])[0].text


GOLDEN = [
    "three big orange cats in a meadow at night",
    "three purple balls on the left in a meadow at sunset",
    "a big white fish in the middle under water",
    "two large black birds in the city at sunset",
    "a red flower in the middle in the desert",
]
