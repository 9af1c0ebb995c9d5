"""Which frame of an animation or page of a file is shown."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from captionkit.images import COUNTER, Decoded, Limits, Preprocessing, Sandbox, decode
from captionkit.images.frames import LOOKED_AT, chosen
from tests.support.image_zoo import encode, photo

SQUARE = Preprocessing(size=32, resize=32, mode="squash")
BLANK = Image.new("RGB", (48, 32), "white")
FULL = photo(48, 32, seed=4)
RED = Image.new("RGB", (48, 32), (200, 0, 0))
FRAMES = [BLANK, BLANK.copy(), RED, FULL, BLANK.copy()]
FRAMES[1].putpixel((0, 0), (0, 0, 0))  # writers leave out what is the same again
FRAMES[4].putpixel((9, 9), (0, 0, 0))


def test_numbers() -> None:
    assert [chosen(n, "first") for n in (1, 9)] == [[0], [0]]
    assert [chosen(n, "middle") for n in (1, 2, 9)] == [[0], [1], [4]]
    assert [chosen(n, "best") for n in (1, 3)] == [[0], [0, 1, 2]]
    assert chosen(1000, "best")[::7] == [0, 999]
    assert len(chosen(1000, "best")) == LOOKED_AT


@pytest.mark.parametrize(
    ("format", "options", "off"),
    [("GIF", {}, 8), ("WEBP", {"lossless": True}, 1), ("PNG", {}, 1), ("AVIF", {"quality": 95}, 8), ("TIFF", {}, 1)],
)
def test_animations_and_pages(format: str, options: dict[str, object], off: float) -> None:
    first, *others = [frame.copy() for frame in FRAMES]  # Pillow leaves one format's options in an image it has saved
    data = encode(first, format, save_all=True, append_images=others, **options)
    for frame, shown in (("first", BLANK), ("middle", RED), ("best", FULL)):
        found = decode(data, SQUARE, Limits(frame=frame))
        assert (found.width, found.height) == (48, 32)
        truth = decode(encode(shown, "PNG"), SQUARE).pixels
        assert np.abs(found.pixels.astype(int) - truth).mean() < off, frame


def test_smaller_copies_are_no_pages() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.asarray(RED), photometric="rgb", metadata=None)
        writer.write(np.asarray(Image.new("RGB", (24, 16), "blue")), photometric="rgb", subfiletype=1, metadata=None)
    assert decode(file.getvalue(), SQUARE, Limits(frame="middle")).pixels[0, 0].tolist() == [200, 0, 0]


def test_limits_hold_for_each_page() -> None:
    data = encode(RED.copy(), "TIFF", save_all=True, append_images=[photo(400, 400)])
    limits = {"first": Limits(max_pixels=2000), "middle": Limits(max_pixels=2000, frame="middle")}
    assert decode(data, SQUARE, limits["first"]).width == 48
    with Sandbox(SQUARE, limits["middle"], threads=1) as sandbox:
        (outcome,) = sandbox.decode_many([data])
    assert getattr(outcome, "kind", None) == "too_many_pixels"


def test_a_page_can_be_chosen_by_its_number_and_pages_are_counted() -> None:
    pages = [Image.new("RGB", (48, 32), colour) for colour in ("red", "lime", "blue")]
    options = {"TIFF": {}, "GIF": {}, "WEBP": {"lossless": True}, "PNG": {}, "AVIF": {"quality": 95}, "PDF": {}}
    with Sandbox(SQUARE, threads=2) as sandbox, Sandbox(Preprocessing(1, 1), threads=1, decoder=COUNTER) as counter:
        for format, more in options.items():
            first, *others = [page.copy() for page in pages]
            data = encode(first, format, save_all=True, append_images=others, **more)
            assert [getattr(each, "width", None) for each in counter.decode_many([data])] == [3], format
            found = sandbox.decode_many([data] * 4, [2, None, 1, 3])
            shown = [each.pixels.mean(axis=(0, 1)).argmax() for each in found[:3] if isinstance(each, Decoded)]
            assert shown == [2, 0, 1], format
            assert "no page or frame 4, the file has 3" in str(found[3])
        (jpeg,) = sandbox.decode_many([encode(FULL, "JPEG")], [1])
        assert "the file has 1" in str(jpeg)
        one, bad = counter.decode_many([encode(FULL, "JPEG"), b"II*\0junk"])
        assert (getattr(one, "width", None), getattr(bad, "kind", None)) == (1, "truncated")


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="first, middle, best, not 'last'"):
        Limits(frame="last")
