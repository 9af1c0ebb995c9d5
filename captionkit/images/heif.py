"""HEIC and HEIF by libheif (pillow-heif). The primary image alone, upright, of any depth with its upper 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

from PIL import Image

from captionkit.images import geometry
from captionkit.images.picture import Picture, Reserve, needs, unsupported
from captionkit.images.structure import boxes, damaged, ends_early
from captionkit.images.types import Preprocessing


def read(data: bytes, preprocessing: Preprocessing, reserve: Reserve, frame: str | int) -> Iterator[Picture]:
    """The primary image: of several the one that the file itself names.

    Raises ImageError; whatever libheif raises.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise needs("HEIC", "heif") from error
    kinds = {kind for kind, _, _ in boxes(data)}
    if b"moov" in kinds and b"meta" not in kinds:
        raise unsupported("HEIF of this kind (a sequence without a still image)")
    pillow_heif.options.DECODE_THREADS = 1  # as many images at once are decoded as there are cores
    try:
        file = pillow_heif.open_heif(BytesIO(data))
    except (ValueError, RuntimeError, OSError) as error:
        if "codec" in str(error).lower() or "feature" in str(error).lower():
            raise unsupported(f"HEIF of this kind ({error})") from error
        raise
    small = _thumbnail(file, preprocessing)
    if small is not None:
        yield Picture(small, file.size, scale=file.size[0] / small.width)
        return
    reserve(*file.size)
    # libheif has turned it upright, whatever its EXIF says.
    try:
        image = file.to_pillow()
    except (ValueError, RuntimeError, OSError) as error:
        if ends_early("HEIF", data):
            raise
        raise damaged("HEIF", "its compressed pixels are broken") from error
    yield Picture(image, file.size)


def _thumbnail(file: Any, preprocessing: Preprocessing) -> Image.Image | None:
    """A stored thumbnail that is large enough by the margin of scaled JPEGs, and of the same shape."""
    width, height = file.size
    longer = 1.25 * geometry.target_side(preprocessing) * max(width, height) / min(width, height)
    main = file[file.primary_index]
    for number, side in enumerate(main.info.get("thumbnails", ())):
        if longer <= side <= 2048:
            image: Image.Image = main.get_thumbnail(number).to_pillow()
            if abs(image.width * height - image.height * width) <= 0.02 * image.width * height:
                if "icc_profile" in file.info:
                    image.info["icc_profile"] = file.info["icc_profile"]
                return image
    return None
