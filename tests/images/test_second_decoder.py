"""The same pixels as by decoders that are not Pillow's: imagecodecs, and tifffile on top of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from captionkit.images import Preprocessing, decode
from tests.support.image_zoo import encode, photo

imagecodecs = pytest.importorskip("imagecodecs")

EVERY_PIXEL = Preprocessing(size=400, resize=400, mode="squash", interpolation="nearest")
REDUCED = Preprocessing(size=48, resize=48, mode="squash")

# Much black and much white, where overflows show.
RGB: NDArray[np.uint8] = np.clip(np.asarray(photo(400, 400, seed=5)).astype(int) * 2 - 100, 0, 255).astype(np.uint8)
GREY = RGB[..., 1].copy()
DEEP = RGB.astype(np.uint16) * 257


def rgb(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey or colour of 8 or 16 bits as uint8 (H, W, 3)."""
    bytes_ = (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values.astype(np.uint8)
    return np.dstack([bytes_] * 3) if bytes_.ndim == 2 else bytes_


def mixed(inks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """CMYK as Adobe stores it in JPEG, inverted."""
    return (inks[..., :3].astype(int) * inks[..., 3:] / 255).round().astype(np.uint8)


def check(data: bytes, shown: NDArray[np.uint8], most: float, mean: float = 2.0) -> None:
    """most: of 255, that any pixel may be off where nothing is scaled; mean: that all may be off where it is."""
    whole = decode(data, EVERY_PIXEL).pixels.astype(int)
    assert np.abs(whole - shown).max() <= most
    reference = decode(encode(Image.fromarray(shown), "PNG"), REDUCED).pixels
    assert np.abs(decode(data, REDUCED).pixels.astype(int) - reference).mean() <= mean


JPEGS: dict[str, Callable[[], bytes]] = {
    "baseline": lambda: encode(Image.fromarray(RGB), "JPEG", quality=90, subsampling=0),
    "subsampled": lambda: encode(Image.fromarray(RGB), "JPEG", quality=90),
    "progressive": lambda: encode(Image.fromarray(RGB), "JPEG", quality=90, progressive=True),
    "grey": lambda: encode(Image.fromarray(GREY), "JPEG", quality=90),
    "lossless": lambda: imagecodecs.jpeg8_encode(RGB, lossless=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg(kind: str) -> None:
    data = JPEGS[kind]()
    check(data, rgb(imagecodecs.jpeg8_decode(data)), most=2)


@pytest.mark.slow
def test_cmyk_jpeg() -> None:
    data = encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=90)
    inks = imagecodecs.jpeg8_decode(data, colorspace="CMYK", outcolorspace="CMYK")
    check(data, mixed(inks), most=3)


def jpeg2000(values: NDArray[np.generic], bits: int, reversible: bool, kind: str) -> bytes:
    level = None if reversible else 45
    return bytes(imagecodecs.jpeg2k_encode(values, level, bitspersample=bits, reversible=reversible, codecformat=kind))


def check_jpeg2000(bits: int, reversible: bool, kind: str) -> None:
    data = jpeg2000(DEEP >> (16 - bits) if bits > 8 else RGB, bits, reversible, kind)
    values = imagecodecs.jpeg2k_decode(data).astype(np.uint32)
    check(data, (values * 255 // (2**bits - 1)).astype(np.uint8), most=2)


@pytest.mark.parametrize("reversible", [True, False])
def test_white_of_deep_jpeg2000_is_not_black(reversible: bool) -> None:
    check_jpeg2000(16, reversible, "jp2")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("kind", ["jp2", "j2k"])
def test_jpeg2000(bits: int, reversible: bool, kind: str) -> None:
    check_jpeg2000(bits, reversible, kind)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 4, 8, 10, 12, 16])
def test_grey_jpeg2000(bits: int) -> None:
    values = DEEP[..., 1] >> (16 - bits)
    data = jpeg2000(values if bits > 8 else values.astype(np.uint8), bits, True, "jp2")
    shown = (imagecodecs.jpeg2k_decode(data).astype(np.uint32) * 255 // (2**bits - 1)).astype(np.uint8)
    check(data, rgb(shown), most=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.int8, np.int16])
@pytest.mark.parametrize("channels", [1, 3])
def test_signed_jpeg2000(kind: type[np.signedinteger], channels: int) -> None:
    half = 1 << np.dtype(kind).itemsize * 8 - 1
    values = ((RGB.astype(int) if kind is np.int8 else DEEP.astype(int)) - half).astype(kind)
    data = imagecodecs.jpeg2k_encode(values if channels == 3 else values[..., 1].copy(), codecformat="jp2")
    check(data, RGB if channels == 3 else rgb(GREY), most=1)


@pytest.mark.slow
@pytest.mark.parametrize("values", [GREY, RGB, DEEP, DEEP[..., 1].copy()], ids=["grey8", "rgb8", "rgb16", "grey16"])
def test_png(values: NDArray[np.generic]) -> None:
    data = imagecodecs.png_encode(values)
    check(data, rgb(imagecodecs.png_decode(data)), most=0)


@pytest.mark.slow
@pytest.mark.parametrize("lossless", [True, False])
def test_webp(lossless: bool) -> None:
    data = imagecodecs.webp_encode(RGB, level=80, lossless=lossless)
    check(data, imagecodecs.webp_decode(data)[..., :3], most=0)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif(bits: int) -> None:
    values = RGB if bits == 8 else DEEP >> (16 - bits)
    data = imagecodecs.avif_encode(values, level=90, bitspersample=bits, speed=8)
    found = imagecodecs.avif_decode(data).astype(np.uint32)
    check(data, (found * 255 // (2**bits - 1)).astype(np.uint8), most=4)


@pytest.mark.slow
def test_gif_and_bmp() -> None:
    gif = imagecodecs.gif_encode(GREY)
    check(gif, rgb(imagecodecs.gif_decode(gif)), most=0)
    bmp = imagecodecs.bmp_encode(RGB)
    check(bmp, imagecodecs.bmp_decode(bmp), most=0)


TIFF_VALUES: dict[str, NDArray[np.generic]] = {
    "grey8": GREY,
    "grey16": DEEP[..., 1].copy(),
    "rgb8": RGB,
    "rgb16": DEEP,
    "float": GREY.astype(np.float32) / 255,
    "float-rgb": RGB.astype(np.float32) / 255,
    "int16": (DEEP[..., 1].astype(int) - 32768).astype(np.int16),
    "uint32": DEEP[..., 1].astype(np.uint32) * 65537,
}
TIFF_LAYOUTS: dict[str, dict[str, object]] = {
    "strips": {"rowsperstrip": 64},
    "tiles": {"tile": (128, 128)},
    "planes": {"planarconfig": "separate"},
}
TIFFS = [
    (compression, kind, layout)
    for layout in TIFF_LAYOUTS
    for kind in TIFF_VALUES
    for compression in (None, "lzw", "zlib", "packbits", "zstd", "lzma", "webp", "jpeg2000", "jpeg")
    if layout != "planes" or ("rgb" in kind and compression not in ("webp", "jpeg2000", "jpeg"))
    if kind == "rgb8" or compression != "webp"
    if kind in ("rgb8", "grey8") or compression not in ("jpeg", "jpeg2000")
]


@pytest.mark.slow
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(("compression", "kind", "layout"), TIFFS)
def test_tiff(compression: str | None, kind: str, layout: str, byteorder: str) -> None:
    values = TIFF_VALUES[kind]
    stored = np.moveaxis(values, -1, 0) if layout == "planes" else values
    file = BytesIO()
    tifffile.imwrite(
        file,
        stored,
        compression=compression,
        compressionargs={"lossless": True} if compression == "webp" else None,
        byteorder=byteorder,
        photometric="rgb" if values.ndim == 3 else "minisblack",
        **TIFF_LAYOUTS[layout],
    )
    found = tifffile.imread(BytesIO(file.getvalue()))
    if compression not in ("jpeg", "jpeg2000"):
        assert np.array_equal(found, stored)
        found = RGB if values.ndim == 3 else GREY
    check(file.getvalue(), rgb(found), most=2)


def test_compressions_that_need_imagecodecs_are_named_without_it() -> None:
    """It is no dependency: the few TIFFs that neither Pillow nor tifffile alone can read are refused by name."""
    file = BytesIO()
    tifffile.imwrite(file, RGB.astype(np.float32), compression="lzw", photometric="rgb")
    script = (
        "import sys; sys.modules['imagecodecs'] = None; sys.path.insert(0, '')\n"
        "from captionkit.images import ImageError, Preprocessing, decode\n"
        "try: decode(sys.stdin.buffer.read(), Preprocessing(size=48, resize=48))\n"
        "except ImageError as error: print(error.kind, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=file.getvalue(), capture_output=True, check=True)
    assert done.stdout.decode().startswith("unsupported_format TIFF with LZW compression and such samples is not read")
