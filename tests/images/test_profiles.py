"""Embedded ICC profiles: what is seen is the colour that is meant."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from captionkit.images import Preprocessing, decode, prepare
from captionkit.images.profiles import _transform
from tests.support.image_zoo import encode, photo

imagecodecs = pytest.importorskip("imagecodecs")
SQUARE = Preprocessing(size=64, resize=64, mode="squash")
PICTURE = photo(96, 96, seed=2)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
PRIMARIES = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
P3 = imagecodecs.cms_profile("rgb", whitepoint=(0.3127, 0.3290), primaries=PRIMARIES, gamma=2.2)
GAMMA_1 = imagecodecs.cms_profile("gray", whitepoint=(0.3457, 0.3585), gamma=1.0)


def wide(image: Image.Image = PICTURE) -> Image.Image:
    """The same colours in Display P3's numbers."""
    found = ImageCms.profileToProfile(image, SRGB, ImageCms.ImageCmsProfile(BytesIO(P3)))
    assert found is not None
    found.info.clear()
    return found


def off(data: bytes, shown: Image.Image = PICTURE) -> float:
    truth = decode(encode(shown, "PNG"), SQUARE).pixels
    return float(np.abs(decode(data, SQUARE).pixels.astype(int) - truth).mean())


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("JPEG", {"quality": 97}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("AVIF", {"quality": 97})],
)
def test_wide_gamuts_are_converted(format: str, options: dict[str, object]) -> None:
    assert off(encode(wide(), format, icc_profile=P3, **options)) < 3.2
    assert off(encode(wide(), format, **options)) > 4, "without the profile it is another picture"


def test_other_readers_too() -> None:
    jp2 = bytes(imagecodecs.jpeg2k_encode(np.asarray(wide()), codecformat="jp2"))
    colr = jp2.index(b"colr") - 4
    box = bytes(4) + b"colr\2\0\0" + P3
    box = len(box).to_bytes(4, "big") + box[4:]
    header = jp2.index(b"jp2h") - 4
    length = int.from_bytes(jp2[header : header + 4], "big") - 15 + len(box)
    data = jp2[:header] + length.to_bytes(4, "big") + jp2[header + 4 : colr] + box + jp2[colr + 15 :]
    assert off(data) < 2
    file = BytesIO()
    tifffile.imwrite(file, np.asarray(wide()).astype(np.float32) / 255, photometric="rgb", iccprofile=P3)
    assert off(file.getvalue()) < 2
    pillow_heif = pytest.importorskip("pillow_heif")
    file = BytesIO()
    pillow_heif.from_pillow(wide()).save(file, quality=97, icc_profile=P3)
    assert off(file.getvalue()) < 4


def test_alpha_palettes_and_greys() -> None:
    clear = wide()
    clear.putalpha(Image.new("L", clear.size, 128))
    pale = Image.eval(PICTURE, lambda value: round(value * 128 / 255 + 127))
    assert off(encode(clear, "PNG", icc_profile=P3), pale) < 2
    grey = PICTURE.convert("L")
    linear = Image.eval(grey, lambda value: round((value / 255) ** 2.2 * 255))
    assert off(encode(linear, "PNG", icc_profile=GAMMA_1), grey) < 4
    assert off(encode(wide().quantize(256), "PNG", icc_profile=P3)) < off(encode(wide().quantize(256), "PNG"))


def test_an_open_image_is_treated_alike() -> None:
    data = encode(wide(), "PNG", icc_profile=P3)
    assert np.array_equal(prepare(Image.open(BytesIO(data)), SQUARE), decode(data, SQUARE).pixels)


def test_srgb_and_broken_profiles_change_nothing() -> None:
    plain = decode(encode(PICTURE, "PNG"), SQUARE).pixels
    for profile in (SRGB.tobytes(), b"garbage" * 40, P3[:200], GAMMA_1, b"x"):
        assert np.array_equal(decode(encode(PICTURE, "PNG", icc_profile=profile), SQUARE).pixels, plain)
    assert _transform(SRGB.tobytes(), "RGB") is None
    assert _transform(P3, "RGB") is _transform(P3, "RGB")
