"""JPEG XL by libjxl; the files are cjxl's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from captionkit.images import ImageError, Limits, decode
from captionkit.images.jpegxl import size
from tests.support.image_files import EVERY_PIXEL, PICTURE, distance, stored
from tests.support.image_zoo import photo

imagecodecs = pytest.importorskip("imagecodecs")
FILES = {"photo.jxl": PICTURE, "from-jpeg.jxl": PICTURE, "grey.jxl": PICTURE.convert("L")}


@pytest.mark.parametrize("name", FILES)
def test_codestreams_and_containers(name: str) -> None:
    assert distance(stored(name), FILES[name]) < 9
    assert size(stored(name)) == PICTURE.size


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1080, 1920), (9, 700), (600, 500), (300, 8193)])
def test_its_size_stands_in_its_header(shape: tuple[int, int]) -> None:
    assert size(imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), effort=1)) == shape[::-1]


def test_depths_and_alpha() -> None:
    rgb = np.asarray(PICTURE)
    grey = np.asarray(PICTURE.convert("L"))
    for values in (rgb.astype(np.uint16) * 257, (rgb / 255).astype(np.float32)):
        assert distance(imagecodecs.jpegxl_encode(values, lossless=True)) < 1
    alpha = np.full((32, 48, 1), 128, np.uint8)
    pale = Image.fromarray((rgb * (128 / 255) + 127).round().astype(np.uint8))
    assert distance(imagecodecs.jpegxl_encode(np.dstack([rgb, alpha]), lossless=True), pale) < 1
    paler = Image.fromarray((grey * (128 / 255) + 127).round().astype(np.uint8))
    assert distance(stored("grey-alpha.jxl"), paler) < 1


def test_of_an_animation_the_first_frame() -> None:
    data = imagecodecs.jpegxl_encode(np.stack([np.asarray(PICTURE), np.asarray(photo(48, 32, seed=9))]), lossless=True)
    assert distance(data) < 1


def test_what_is_said_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stored("photo.jxl")
    said = {}
    for name, data in {"cut": whole[:-50], "head": whole[:6], "noise": b"\xff\x0a\x06" + b"\xff" * 90}.items():
        with pytest.raises(ImageError) as caught:
            decode(data, EVERY_PIXEL)
        said[name] = caught.value.kind
    assert said == {"cut": "truncated", "head": "truncated", "noise": "too_many_pixels"}
    with pytest.raises(ImageError) as caught:
        decode(whole, EVERY_PIXEL, Limits(max_pixels=48 * 32 - 1))
    assert caught.value.kind == "too_many_pixels"
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r"^JPEG XL is read with an extra: pip install 'captionkit\[jxl\]'$"):
        decode(whole, EVERY_PIXEL)
