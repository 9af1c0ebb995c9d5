"""TensorFlow 1's resizing: four pixels for each, in images of every mode."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captionkit.images.sampling import sample


def test_pixels_are_points_at_their_corners() -> None:
    image = Image.fromarray(np.array([[0, 100, 200, 40]], np.uint8))
    assert np.asarray(sample(image, 2, (0, 0, 4, 1))).tolist() == [[0, 200], [0, 200]]  # every other one
    assert np.asarray(sample(image, 8, (0, 0, 4, 1)))[0].tolist() == [0, 50, 100, 150, 200, 120, 40, 40]
    assert np.asarray(sample(image, 2, (1, 0, 3, 1)))[0].tolist() == [100, 200]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK"])
def test_every_mode_keeps_its_channels(mode: str) -> None:
    channels = [np.random.default_rng(n).integers(0, 256, (31, 50), dtype=np.uint8) for n in range(4)]
    count = len(Image.new(mode, (1, 1)).getbands())
    whole = Image.merge(mode, [Image.fromarray(channel) for channel in channels[:count]])
    found = sample(whole, 9, (3.5, 2, 44, 30))
    assert (found.mode, found.size) == (mode, (9, 9))
    for one, channel in zip(found.split(), channels[:count], strict=True):
        np.testing.assert_array_equal(
            np.asarray(one), np.asarray(sample(Image.fromarray(channel), 9, (3.5, 2, 44, 30)))
        )
