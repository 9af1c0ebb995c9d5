"""Images beyond the 179 million pixels at which Pillow stops by itself: what counts is the limit given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from captionkit.images import Decoded, ImageError, Limits, Preprocessing, Sandbox
from tests.support.image_zoo import encode

SMALL = Preprocessing(size=48, resize=56)
WIDTH, HEIGHT = 16_000, 12_000  # 192 million
GREY = 140


def plain_webp() -> bytes:
    """One colour, lossless: each of its prefix codes has one symbol, so that its pixels take no bits at all.

    https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification
    """
    bits = [(WIDTH - 1, 14), (HEIGHT - 1, 14), (0, 1), (0, 3)]  # size, no alpha, version
    bits += [(0, 1), (0, 1), (0, 1)]  # no transform, no colour cache, no groups of codes
    for symbol in (GREY, GREY, GREY, 255, 0):  # green, red, blue, alpha, distance
        bits += [(1, 1), (0, 1), (1, 1), (symbol, 8)]  # a simple code, of one symbol, written in 8 bits
    number = at = 0
    for value, length in bits:
        number |= value << at
        at += length
    body = b"\x2f" + number.to_bytes(-(-at // 8), "little")
    body += bytes(len(body) % 2)
    chunk = b"VP8L" + len(body).to_bytes(4, "little") + body
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk


def plain(mode: str, format: str, **options: object) -> Callable[[], bytes]:
    return lambda: encode(Image.new(mode, (WIDTH, HEIGHT), GREY if mode == "L" else 1), format, **options)


FILES: dict[str, Callable[[], bytes]] = {
    "WebP": plain_webp,
    "GIF": plain("L", "GIF"),
    "PNG": plain("L", "PNG", compress_level=1),
    "JPEG": plain("L", "JPEG"),
    "progressive JPEG": plain("L", "JPEG", progressive=True),
    "BMP": plain("1", "BMP"),
    "TIFF": plain("1", "TIFF", compression="group4"),
    "Netpbm": plain("1", "PPM"),
    "JPEG 2000": plain("L", "JPEG2000", tile_size=(2000, 2000)),
    "AVIF": lambda: encode(Image.new("RGB", (WIDTH, HEIGHT), (GREY,) * 3), "AVIF", speed=10, subsampling="4:0:0"),
}


@pytest.fixture(scope="module")
def allowing() -> Iterator[Sandbox]:
    with Sandbox(SMALL, Limits(max_pixels=200_000_000), threads=1, seconds=300) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def refusing() -> Iterator[Sandbox]:
    with Sandbox(SMALL, Limits(max_pixels=190_000_000), threads=1) as sandbox:
        yield sandbox


@pytest.mark.slow
@pytest.mark.parametrize("format", FILES)
def test_the_limit_is_the_one_given(format: str, allowing: Sandbox, refusing: Sandbox) -> None:
    data = FILES[format]()
    (refused,) = refusing.decode_many([data])
    assert isinstance(refused, ImageError)
    assert refused.kind == "too_many_pixels"
    assert "190000000" in str(refused)
    (decoded,) = allowing.decode_many([data])
    assert isinstance(decoded, Decoded), str(decoded)
    assert (decoded.width, decoded.height) == (WIDTH, HEIGHT)
    assert np.abs(decoded.pixels.astype(int) - (255 if format in ("BMP", "TIFF", "Netpbm") else GREY)).max() <= 2
