"""Embedded ICC profiles → sRGB, by LittleCMS.

Colours are converted where it makes a difference, and as late as can be: of the model's square alone, so that a photo
of any size costs the same. A profile that is (nearly) sRGB's costs a look-up, one that is broken is passed over, and so
is one that is meant for other channels than the image has.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

_SPACES = {"RGB": b"RGB ", "RGBA": b"RGB ", "L": b"GRAY", "LA": b"GRAY", "CMYK": b"CMYK"}
_SMALLEST, _LARGEST = 128, 16 * 2**20  # bytes: a header; more than any printer's tables have
_UNSEEN = 4
"""Of 255: a profile that moves no colour by more is taken for sRGB."""


def fits(profile: bytes | None, mode: str) -> bool:
    """Whether a profile is for the channels of such an image."""
    return profile is not None and profile[16:20] == _SPACES.get(mode, b"none")


def converted(square: Image.Image, profile: bytes) -> Image.Image:
    """An image of these colours in sRGB: "RGB", or "RGBA" where it has an alpha channel."""
    if not fits(profile, square.mode):
        return square
    bare = square.mode.removesuffix("A")
    transform = _transform(profile, bare)
    if transform is None:
        return square
    alpha = square.getchannel("A") if bare != square.mode else None
    colours = transform.apply(square if alpha is None else Image.merge(bare, square.split()[:-1]))
    if alpha is not None:
        colours.putalpha(alpha)
    shown: Image.Image = colours
    return shown


@lru_cache(64)
def _transform(profile: bytes, mode: str) -> Any:
    """What converts images of this mode; None where nothing would be seen of it, or the profile is broken."""
    if not _SMALLEST <= len(profile) <= _LARGEST:
        return None
    from PIL import ImageCms  # only few images need it

    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode in ("L", "RGB"):
        sample = _sample(mode)
        moved = np.asarray(transform.apply(sample)).astype(int) - np.asarray(sample.convert("RGB"))
        if np.abs(moved).max() <= _UNSEEN:
            return None
    return transform


def _sample(mode: str) -> Image.Image:
    """Colours all over the cube, or all greys."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(9, -1, 3)
    return Image.fromarray(cube)


@lru_cache(1)
def _from_lab() -> Any:
    from PIL import ImageCms

    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def from_lab(image: Image.Image) -> Image.Image:
    """CIELab ("LAB", D50) in sRGB."""
    shown: Image.Image = _from_lab().apply(image)
    return shown
