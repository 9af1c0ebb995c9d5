"""HEIC by libheif; the files are heif-enc's."""

from __future__ import annotations

import sys
from io import BytesIO

import numpy as np
import pytest

from captionkit.images import ImageError, Limits, Preprocessing, Sandbox, decode
from tests.support.image_files import EVERY_PIXEL, PICTURE, distance, stored
from tests.support.image_zoo import oriented, photo

HEIC = stored("photo.heic")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"^HEIC is read with an extra: pip install 'captionkit\[heif\]'$") as caught:
        decode(HEIC, EVERY_PIXEL)
    assert caught.value.kind == "unsupported_format"


def test_8_and_10_bits() -> None:
    pytest.importorskip("pillow_heif")
    assert distance(HEIC) < 8
    assert distance(stored("deep.heic")) < 8


def test_it_is_turned_once() -> None:
    """libheif turns the image; its EXIF, which says the same, is not to turn it again."""
    pillow_heif = pytest.importorskip("pillow_heif")
    file = BytesIO()
    lying = pillow_heif.from_pillow(PICTURE.transpose(2))  # ROTATE_90
    lying.save(file, quality=95, exif=oriented(6))
    assert distance(file.getvalue()) < 8


def test_a_thumbnail_that_will_do_is_taken() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    picture = photo(480, 320, seed=1)
    file = BytesIO()
    heif = pillow_heif.from_pillow(picture)
    heif[0].info["thumbnails"] = [120]
    heif.save(file, quality=90)
    small, large = Preprocessing(40, 40, mode="squash"), Preprocessing(90, 90, mode="squash")
    assert distance(file.getvalue(), picture, large) < 4
    assert distance(file.getvalue(), picture, small) < 4
    # Taken it is: the image itself may be over the limit.
    with pytest.raises(ImageError) as caught:
        decode(file.getvalue(), large, Limits(max_pixels=100_000))
    assert caught.value.kind == "too_many_pixels"
    assert decode(file.getvalue(), small, Limits(max_pixels=100_000)).width == 480


def test_damage_is_told() -> None:
    pytest.importorskip("pillow_heif")
    rng = np.random.default_rng(0)
    kinds = {kind_of(HEIC[:length]) for length in range(40, len(HEIC), 97)}
    assert kinds == {"truncated"}
    with Sandbox(EVERY_PIXEL, threads=1) as sandbox:
        files = []
        for _ in range(60):
            changed = bytearray(HEIC)
            for at in rng.integers(12, len(HEIC), 4):
                changed[at] ^= int(rng.integers(1, 256))
            files.append(bytes(changed))
        outcomes = sandbox.decode_many(files)
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, ImageError)} <= {
        *("corrupt", "truncated", "unsupported_format", "too_many_pixels", "not_an_image")
    }


def test_films_in_heif_are_named() -> None:
    pytest.importorskip("pillow_heif")
    with pytest.raises(ImageError, match="a sequence without a still image") as caught:
        decode(b"\0\0\0\x14ftypmsf1\0\0\0\0hevc\0\0\0\x08moov\0\0\0\x08mdat", EVERY_PIXEL)
    assert caught.value.kind == "unsupported_format"


def kind_of(data: bytes) -> str:
    try:
        decode(data, EVERY_PIXEL)
    except ImageError as error:
        return error.kind
    return "decoded"
