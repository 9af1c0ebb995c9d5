"""Odd but sound files whose pixels Pillow's readers get wrong, and files that are not whole, drawn by hand."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from captionkit.images import ImageError, Preprocessing, decode
from tests.support.image_zoo import encode, photo

WHOLE = Preprocessing(size=64, resize=64, mode="squash", interpolation="nearest")
RGB = np.asarray(photo(64, 64, seed=3))
GREY = (np.add.outer(np.arange(64), np.arange(64)) * 2).astype(np.uint8)
GREY[0, 0], GREY[-1, -1] = 0, 255


def tiff(values: object, **options: object) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def test_planes_apart_of_16_bits() -> None:
    planes = np.moveaxis(RGB, -1, 0).astype(np.uint16) * 257
    for order in "<>":
        data = tiff(planes, photometric="rgb", planarconfig="separate", byteorder=order)
        assert np.array_equal(decode(data, WHOLE).pixels, RGB)


@pytest.mark.parametrize("kind", ["f4", "i2", "u4"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_deep_greys(kind: str, order: str, compression: str | None) -> None:
    values = {
        "f4": GREY.astype("f4"),
        "i2": (GREY.astype("i4") * 257 - 32768).astype("i2"),
        "u4": GREY.astype("u4") * 16843009,
    }[kind]
    data = tiff(values, photometric="minisblack", byteorder=order, compression=compression)
    assert np.abs(decode(data, WHOLE).pixels[..., 0].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("divisor", [255, 1, 1 / 257])
def test_usual_pictures_stored_as_floats_keep_their_contrast(divisor: float) -> None:
    middle = (GREY // 2 + 60).astype("f4")  # from 60 to 187: neither black nor white
    assert np.abs(decode(tiff(middle / divisor), WHOLE).pixels[..., 0] - middle).max() <= 1
    if divisor == 1:
        assert np.abs(decode(tiff(middle.astype("i4")), WHOLE).pixels[..., 0] - middle).max() == 0


def test_measurements_are_stretched() -> None:
    for values in (GREY.astype("f4") + 1000, GREY.astype("f4") / 1000, GREY.astype("i2") - 100, GREY.astype("i2") * 4):
        assert np.abs(decode(tiff(values), WHOLE).pixels[..., 0].astype(int) - GREY).max() <= 1


def test_white_is_zero_and_12_bits_in_16() -> None:
    inverted = tiff(65535 - GREY.astype("u2") * 257, photometric="miniswhite")
    assert np.array_equal(decode(inverted, WHOLE).pixels[..., 0], GREY)
    dim = tiff(GREY.astype("u2") * 16, photometric="minisblack")
    assert np.array_equal(decode(dim, WHOLE).pixels[..., 0], GREY)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u4", "i2", "u8"])
def test_colours_in_any_numbers(kind: str) -> None:
    most = {"u4": 2**32 - 1, "u8": 65535}.get(kind, 255 if kind == "i2" else 1)
    values = (RGB.astype("f8") / RGB.max() * most).astype(kind)
    shown = np.round(RGB.astype("f8") / RGB.max() * 255)
    assert np.abs(decode(tiff(values, photometric="rgb"), WHOLE).pixels - shown).max() <= 1


@pytest.mark.parametrize("compression", ["webp", "jpeg2000"])
@pytest.mark.parametrize("layout", [{}, {"tile": (32, 48)}, {"rowsperstrip": 24}])
def test_tiffs_of_small_files(compression: str, layout: dict[str, object]) -> None:
    parts = [RGB]
    if "tile" in layout:
        wide = np.pad(RGB, ((0, 0), (0, 32), (0, 0)))
        parts = [wide[top : top + 32, left : left + 48] for top in (0, 32) for left in (0, 48)]
    elif layout:
        parts = [RGB[top : top + 24] for top in (0, 24, 48)]
    options = {"webp": {"format": "WEBP", "lossless": True}, "jpeg2000": {"format": "JPEG2000", "no_jp2": True}}
    files = [encode(Image.fromarray(part), **options[compression]) for part in parts]
    layout = layout or {"rowsperstrip": 64}
    code = {"webp": 50001, "jpeg2000": 33005}[compression]
    data = tiff(iter(files), shape=RGB.shape, dtype="u1", photometric="rgb", compression=code, **layout)
    assert np.array_equal(decode(data, WHOLE).pixels, RGB)
    with pytest.raises(ImageError) as caught:
        decode(data.replace(files[0], bytes(len(files[0]))), WHOLE)
    assert caught.value.kind == "corrupt"


def test_big_endian_bigtiff() -> None:
    data = tiff(RGB, photometric="rgb", byteorder=">", bigtiff=True)
    assert np.array_equal(decode(data, WHOLE).pixels, RGB)


@pytest.mark.parametrize("format", ["TGA", "PCX", "DIB", "SGI"])
def test_old_formats(format: str) -> None:
    assert np.array_equal(decode(encode(Image.fromarray(RGB), format), WHOLE).pixels, RGB)


def test_metadata_costs_no_picture() -> None:
    png = encode(Image.fromarray(RGB), "PNG")
    for kind, body in ((b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))), (b"pHYs", b"\0\0"), (b"tEXt", b"a\0b")):
        chunk = (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (kind[0] == 116))
        )
        assert np.array_equal(decode(png[:33] + chunk + png[33:], WHOLE).pixels, RGB)


@pytest.mark.parametrize("size", [(640, 480), (641, 483), (1001, 777)])
def test_jpeg2000_by_resolution_levels(size: tuple[int, int]) -> None:
    smooth = Preprocessing(size=48, resize=48, mode="squash")
    picture = photo(*size)
    got = decode(encode(picture, "JPEG2000"), smooth)
    assert (got.width, got.height) == size
    assert np.abs(got.pixels.astype(int) - decode(encode(picture, "PNG"), smooth).pixels).mean() < 3


@pytest.mark.parametrize("format", ["WEBP", "AVIF"])
def test_half_written(format: str) -> None:
    data = encode(Image.effect_noise((320, 240), 60).convert("RGB"), format)
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) // 2].ljust(len(data), b"\0"), WHOLE)
    assert caught.value.kind == "truncated"
