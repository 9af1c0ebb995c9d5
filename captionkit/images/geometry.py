"""Which part of a stored image becomes the model's square, and how it is turned upright.

The crop is made by resampling only the source box that the crop covers. That is the same arithmetic as
resizing the whole image and cutting afterwards (Pillow's filters look beyond the box), costs less, and
keeps a 60000 × 1 image from becoming 15 million × 256 on the way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from captionkit.images.types import TENSORFLOW_BILINEAR, Preprocessing

Box = tuple[float, float, float, float]

# EXIF orientation 1..8, written as what turns the stored image upright:
# mirror left-right, mirror top-bottom, then swap the axes.
_TURNS: dict[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (True, False, False),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) of a stored image once it is turned upright."""
    return (height, width) if _TURNS[orientation][2] else (width, height)


def upright_box(width: int, height: int, preprocessing: Preprocessing) -> Box:
    """The part (left, top, right, bottom) of an upright width × height image that the square shows.

    Rounds as torchvision does: `Resize` cuts the longer side to a whole number of pixels, `CenterCrop`
    starts at the rounded half of what is left over.
    """
    if preprocessing.mode == "squash":
        return (0.0, 0.0, float(width), float(height))
    size, resize = preprocessing.size, preprocessing.resize
    if preprocessing.mode == "squash_crop":
        # Half of what is left over is rounded down, as TensorFlow's central crop does.
        first = (resize - size) // 2
        left, right = (width * end / resize for end in (first, first + size))
        return (left, height * first / resize, right, height * (first + size) / resize)
    if width <= height:
        new_width, new_height = resize, int(resize * height / width)
    else:
        new_width, new_height = int(resize * width / height), resize
    left = round((new_width - size) / 2)
    top = round((new_height - size) / 2)
    across, down = width / new_width, height / new_height
    return (left * across, top * down, (left + size) * across, (top + size) * down)


def stored_box(width: int, height: int, orientation: int, preprocessing: Preprocessing) -> Box:
    """`upright_box`, found in the stored (not yet turned) width × height image."""
    mirror_x, mirror_y, swap = _TURNS[orientation]
    left, top, right, bottom = upright_box(*upright_size(width, height, orientation), preprocessing)
    if swap:
        left, top, right, bottom = top, left, bottom, right
    if mirror_x:
        left, right = width - right, width - left
    if mirror_y:
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom)


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns stored pixels (H, W, C) upright; a view where it can be."""
    mirror_x, mirror_y, swap = _TURNS[orientation]
    if mirror_x:
        pixels = pixels[:, ::-1]
    if mirror_y:
        pixels = pixels[::-1]
    return pixels.transpose(1, 0, 2) if swap else pixels


def jpeg_scale(width: int, height: int, preprocessing: Preprocessing) -> int:
    """How many times smaller (1, 2, 4 or 8) a JPEG may be decoded without the square losing by it.

    A DCT-scaled image is sharper than what an antialiased resize makes, and the nearer it is to the
    target the more of that stays. On photographs with detail down to the pixel, the mean difference from
    resizing the full decode was 3.0 of 255 without a margin, 1.5 with a quarter more, 0.8 with twice the
    size; the margin of a quarter still decodes a 12-megapixel photograph at one eighth for 224 × 224.
    """
    if preprocessing.interpolation in ("nearest", TENSORFLOW_BILINEAR):
        return 1  # these pick single pixels; a scaled decode would hand them averages
    for scale in (8, 4, 2):
        if min(width, height) / scale >= 1.25 * target_side(preprocessing):
            return scale
    return 1


def target_side(preprocessing: Preprocessing) -> int:
    """The length that the shorter side of an image is brought to."""
    return preprocessing.size if preprocessing.mode == "squash" else preprocessing.resize
