"""Photoshop's composites; the files are ImageMagick's."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from captionkit.images import ImageError, Limits, decode
from tests.support.image_files import EVERY_PIXEL, PICTURE, distance, stored


@pytest.mark.parametrize("name", ["photo.psd", "photo.psb", "deep.psd", "inks.psd"])
def test_depths_modes_and_large_files(name: str) -> None:
    assert distance(stored(name)) < 1


def test_a_palette() -> None:
    assert distance(stored("palette.psd")) < 20  # 32 colours, dithered


def composed(values: bytes, mode: int, depth: int, channels: int, packing: int = 0, resources: bytes = b"") -> bytes:
    """A file of 48 × 32 pixels put together by hand."""
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, channels, 32, 48, depth, mode)
    return (
        head + bytes(4) + struct.pack(">I", len(resources)) + resources + bytes(4) + struct.pack(">H", packing) + values
    )


def planes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(np.moveaxis(values, -1, 0)).tobytes()


def test_what_else_photoshop_writes() -> None:
    rgb = np.asarray(PICTURE)
    assert distance(composed(zlib.compress(planes(rgb)), 3, 8, 3, packing=2)) == 0
    light = ((rgb / 255) ** 2.2).astype(">f4")
    assert distance(composed(planes(light), 3, 32, 3)) < 1
    selection = np.dstack([rgb, np.zeros((32, 48), np.uint8)])
    assert distance(composed(planes(selection), 3, 8, 4)) == 0, "a saved selection is not transparency"
    bits = np.asarray(PICTURE.convert("1"))
    assert distance(composed(np.packbits(~bits, axis=1).tobytes(), 0, 1, 1), PICTURE.convert("1")) == 0
    lab = np.zeros((32, 48, 3), np.uint8) + np.array([255, 128, 128], np.uint8)
    assert distance(composed(planes(lab), 9, 8, 3), Image.new("RGB", (48, 32), "white")) <= 1


def test_what_is_said_of_others() -> None:
    rgb = planes(np.asarray(PICTURE))
    info = b"8BIM" + struct.pack(">HHI", 1057, 0, 6) + struct.pack(">IBx", 1, 0)
    files = {
        "without a composite": composed(rgb, 3, 8, 3, resources=info),
        "multichannel": composed(rgb, 7, 8, 3),
        "packed in the way number 3": composed(rgb, 3, 8, 3, packing=3),
    }
    for words, data in files.items():
        with pytest.raises(ImageError, match=words) as caught:
            decode(data, EVERY_PIXEL)
        assert caught.value.kind == "unsupported_format"
    for name in ("photo.psd", "photo.psb", "deep.psd"):
        whole = stored(name)
        for length in (20, 500, len(whole) // 2, len(whole) - 1):
            with pytest.raises(ImageError) as caught:
                decode(whole[:length], EVERY_PIXEL)
            assert caught.value.kind == "truncated"
    with pytest.raises(ImageError) as caught:
        decode(stored("photo.psd"), EVERY_PIXEL, Limits(max_pixels=48 * 32 - 1))
    assert caught.value.kind == "too_many_pixels"
    with pytest.raises(ImageError) as caught:
        decode(b"8BPS\0\x09" + bytes(100), EVERY_PIXEL)
    assert caught.value.kind == "corrupt"
