"""`Captioner.show`: several searches beside each other say what each says alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionkit import Captioner
from captionkit.errors import UsageError
from captionkit.metrics.scores import BLEU, score
from captionkit.scenes import draw, random_scene
from tests.gallery.test_attention_maps import captioner as attending


@pytest.fixture(scope="module")
def embedded() -> Captioner:
    return Captioner.load(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [draw(random_scene(seed), 160) for seed in range(3)]


def test_each_search_says_what_it_says_alone(embedded: Captioner, photos: list[Image.Image], tmp_path: Path) -> None:
    photos[0].save(tmp_path / "a.png")
    shown = embedded.show([tmp_path / "a.png", *photos[1:], b"no image"], beams=[1, 4], max_length=9, batch_size=2)
    assert shown.searches == ["greedy", "beam 4"]
    for width, search in enumerate(shown.searches):
        alone = embedded.caption(photos, beam=(1, 4)[width], max_length=9)
        for image, expected in zip(shown.images, alone, strict=False):
            told = image.captions[width]
            assert (told.search, told.text) == (search, expected.text)
            assert told.score == pytest.approx(expected.score, abs=1e-5)
    assert [image.name for image in shown.images] == [str(tmp_path / "a.png"), "image 2", "image 3", "image 4"]
    assert shown.images[3].error.startswith("not_an_image")
    assert not shown.images[3].captions
    assert all(image.pixels is None for image in shown.images)


def test_bleu_is_pycocoevalcaps_own(embedded: Captioner, photos: list[Image.Image]) -> None:
    references = [["three cats in a meadow", "cats at night"], [], ["a fish under the sea"]]
    shown = embedded.show(photos, beams=[1], references=references, names=["a", "b", "c"])
    told = {image.name: image.captions[0] for image in shown.images}
    expected = score({name: told[name].text for name in "ac"}, {"a": references[0], "c": references[2]}, BLEU)
    assert dict(shown.figures["greedy"]) == expected.corpus
    assert dict(told["a"].figures) == expected.images["a"]
    assert told["b"].figures == {}
    assert shown.measures == list(BLEU)


def test_where_it_looked_is_shown_for_each_word() -> None:
    speaker, photo = attending("soft_attention"), draw(random_scene(1), 96)
    [image] = speaker.show([photo], beams=[1, 2], min_length=3, max_length=4).images
    for told in image.captions:
        assert told.maps is not None
        assert len(told.maps) == len(told.text.split())
        np.testing.assert_allclose(told.maps.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert image.pixels is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beams": []}, "beam widths are different whole numbers"),
        ({"beams": [3, 3]}, "beam widths are different whole numbers"),
        ({"beams": [0]}, "beam widths are different whole numbers"),
        ({"beams": [3], "groups": 2}, "beam"),
        ({"references": [["one"]]}, "there are 1 for 3"),
        ({"names": ["one", "two"]}, "there are 2 for 3"),
        ({"banned": ["nosuchword"]}, "nosuchword"),
    ],
)
def test_what_is_refused(
    embedded: Captioner, photos: list[Image.Image], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        embedded.show(photos, **arguments)  # type: ignore[arg-type]


def test_one_image_is_no_list(embedded: Captioner) -> None:
    with pytest.raises(UsageError, match="takes a list"):
        embedded.show("a.jpg")  # type: ignore[arg-type]
