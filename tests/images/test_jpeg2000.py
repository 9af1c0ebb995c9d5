"""JPEG 2000 in the colours, depths and layouts that archives hold, put together by hand where no encoder is."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from captionkit.images import ImageError, Preprocessing, decode, jpeg2000
from tests.support.image_zoo import encode, photo

WHOLE = Preprocessing(size=64, resize=64, mode="squash", interpolation="nearest")
SMOOTH = Preprocessing(size=64, resize=64, mode="squash")

# 16 × 16, sYCC with chroma at half the resolution: FFmpeg's encoder, `-pix_fmt yuv420p -format jp2 -pred dwt53`, of
# red = 16 x, green = 16 y, blue = 128.
SUBSAMPLED = base64.b64decode(
    "AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAAEAAAABAAAwgHAAAAAAAPY29scgEAAAAAABIAAAFkanAyY/9P"
    "/1EALwAAAAAAEAAAABAAAAAAAAAAAAAAAQAAAAEAAAAAAAAAAAAAAwcBAQcCAgcCAv9SAAwAAAABAAYCAgAB/1wAFiBASEhQSEhQSEhQSEhQSEhQSEhQ"
    "/2QAEQABTGF2YzYyLjI4LjEwMv+QAAoAAAAAAO4AAf+Tz6gEBcfOCAHPwOggCQAAAAAAAMfUBT7QKAIQAxsDDwcAAMPnCR9QHAEIDP9mvws8ZgnD5wUf"
    "UBAIfwifz7QKPqAgBF8Jv8HyB4fOHgHRACIZeT5yxwMDf7WWLZAnD2QUR8HyA4fOEgHQgA4GRwwXTX8QA8fUBw+cIA0CBwwVGt/A+FKD5CcAVYA2oZxk"
    "JW2eksXFMdprBf807Gc9pjQ7M8QZLwnng+ZswdFiF4V/E6Rja1zLC/179N/A+EaD5A8ASiFlhZwuvwDP7c5XXZcQzEGIR8PnBwfIECIaEwDOfav/2Q=="
)


def grey_with_header(grey: NDArray[np.uint8], colour: bytes, *boxes: bytes) -> bytes:
    """A greyscale file whose colour box has this body, with more boxes in its header."""
    data = encode(Image.fromarray(grey), "JPEG2000")
    start = data.index(b"jp2h") - 4
    end = start + struct.unpack(">I", data[start : start + 4])[0]
    body = data[start + 8 : data.index(b"colr", start) - 4] + box(b"colr", colour) + b"".join(boxes)
    return data[:start] + box(b"jp2h", body) + data[end:]


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def enumerated(number: int) -> bytes:
    return b"\1\0\0" + struct.pack(">I", number)


def recoloured(data: bytes, number: int) -> bytes:
    """The same file in another enumerated colour space."""
    at = data.index(b"colr") + 4
    return data[:at] + enumerated(number) + data[at + 7 :]


def test_chroma_at_half_the_resolution() -> None:
    across, down = np.meshgrid(np.arange(16) * 16, np.arange(16) * 16)
    shown = np.dstack([across, down, np.full_like(across, 128)]).astype(np.uint8)
    small = Preprocessing(size=16, resize=16, mode="squash", interpolation="nearest")
    assert np.abs(decode(SUBSAMPLED, small).pixels.astype(int) - shown).mean() < 6


def test_sycc() -> None:
    picture = photo(64, 64)
    channels = Image.merge("RGB", picture.convert("YCbCr").split())
    got = decode(recoloured(encode(channels, "JPEG2000"), 18), WHOLE).pixels
    assert np.abs(got.astype(int) - np.asarray(picture)).mean() < 2


@pytest.mark.parametrize("name", ["CIELab", "e-sYCC", "PhotoYCC", "99"])
def test_colour_spaces_that_are_not_read_are_named(name: str) -> None:
    number = {"CIELab": 14, "e-sYCC": 24, "PhotoYCC": 9, "99": 99}[name]
    with pytest.raises(ImageError, match=name) as caught:
        decode(recoloured(encode(photo(32, 32), "JPEG2000"), number), WHOLE)
    assert caught.value.kind == "unsupported_format"


def test_profiles_for_other_colours_are_named() -> None:
    grey = np.asarray(photo(64, 64).convert("L"))
    profile = b"\2\0\0" + bytes(16) + b"%s" + bytes(112)
    assert np.array_equal(decode(grey_with_header(grey, profile.replace(b"%s", b"GRAY")), WHOLE).pixels[..., 0], grey)
    with pytest.raises(ImageError, match="for Lab colours") as caught:
        decode(grey_with_header(grey, profile.replace(b"%s", b"Lab ")), WHOLE)
    assert caught.value.kind == "unsupported_format"


@pytest.mark.parametrize("size", [(64, 64), (640, 480)])
def test_palettes_are_looked_up_before_scaling(size: tuple[int, int]) -> None:
    picture = photo(*size).quantize(100)
    colours = np.asarray(picture.getpalette(), np.uint8)[:300]
    colours[3:6] = colours[0:3]  # one colour under two numbers
    entries = box(b"pclr", struct.pack(">HB", 100, 3) + b"\7\7\7" + colours.tobytes())
    mapping = box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    data = grey_with_header(np.asarray(picture), enumerated(16), entries, mapping)
    shown = Image.fromarray(colours.reshape(-1, 3)[np.asarray(picture)])
    assert np.array_equal(decode(data, SMOOTH).pixels, decode(encode(shown, "PNG"), SMOOTH).pixels)


def test_white_is_zero_in_bilevel() -> None:
    dots = np.asarray(photo(64, 64).convert("1").convert("L"))
    assert np.array_equal(decode(grey_with_header(dots, enumerated(0)), WHOLE).pixels[..., 0], 255 - dots)
    assert np.array_equal(decode(grey_with_header(dots, enumerated(15)), WHOLE).pixels[..., 0], dots)


def test_grey_with_alpha_lies_on_white() -> None:
    grey, alpha = photo(64, 64).convert("L"), Image.linear_gradient("L").resize((64, 64))
    shown = Image.composite(grey, Image.new("L", grey.size, 255), alpha)
    got = decode(encode(Image.merge("LA", (grey, alpha)), "JPEG2000"), WHOLE).pixels[..., 0]
    assert np.abs(got.astype(int) - np.asarray(shown)).max() <= 1


def test_16_bit_greys() -> None:
    values = np.asarray(photo(64, 64).convert("L")).astype(np.uint16) * 257
    got = decode(encode(Image.fromarray(values), "JPEG2000"), WHOLE).pixels[..., 0]
    assert np.array_equal(got, values >> 8)


def test_large_images_are_decoded_at_a_lower_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on 24 megapixels, 224 wanted: 0.43 s of processor against 6.6 in full (lossless), 0.22 against 6.0."""
    halved: list[int] = []

    def reduce(image: Jpeg2KImageFile, halvings: int) -> None:
        halved.append(halvings)
        original(image, halvings)

    original = jpeg2000.reduce
    monkeypatch.setattr(jpeg2000, "reduce", reduce)
    for width in (64, 320, 640, 1280):
        decode(encode(photo(width, width), "JPEG2000"), SMOOTH)
    assert halved == [1, 2, 2]
