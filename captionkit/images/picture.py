"""What the readers of single formats have in common: what they are given, and what they hand on."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from PIL import Image

from captionkit.images.types import ImageError


class Reserve(Protocol):
    """Called with width and height before such a picture is decoded: waits until there is room for its pixels.

    held: how many pixels' worth of memory it takes, where that is another number than it has.

    Raises ImageError "too_many_pixels".
    """

    def __call__(self, width: int, height: int, held: int | None = None) -> None: ...


class Picture(NamedTuple):
    """A loaded image that is yet to be turned, cut and resized.

    orientation: EXIF's, 1 to 8. stored: (width, height) in the file, before it is turned. scale: how many times smaller
    than that it was decoded.
    """

    image: Image.Image
    stored: tuple[int, int]
    orientation: int = 1
    scale: float = 1.0


def needs(what: str, extra: str) -> ImageError:
    """The error of a file that an extra of captionkit would read."""
    return ImageError("unsupported_format", f"{what} is read with an extra: pip install 'captionkit[{extra}]'")


def unsupported(what: str, hint: str = "convert it to JPEG or PNG first") -> ImageError:
    """The error of a file with a feature that is not read."""
    return ImageError("unsupported_format", f"{what} is not read; {hint}")
