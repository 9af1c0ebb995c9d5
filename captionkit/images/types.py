"""What other packages know about a image: geometry, limits, the result and the one error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


ERROR_KINDS: tuple[str, ...] = (
    "empty",
    "not_an_image",
    "unsupported_format",
    "truncated",
    "corrupt",
    "no_such_page",
    "too_many_pixels",
    "too_many_bytes",
    "decoder_crashed",
    "decode_timeout",
)
"""The closed set of reasons for which bytes do not become a image.

The last two come from `captionkit.images.sandbox` only: in one's own process a decoder that crashes takes all with it,
and one that hangs cannot be stopped.
"""

TENSORFLOW_BILINEAR = "tensorflow_bilinear"
"""As TensorFlow 1 did; the other interpolations are Pillow's."""
INTERPOLATIONS: tuple[str, ...] = ("nearest", "bilinear", "bicubic", "lanczos", TENSORFLOW_BILINEAR)
MODES: tuple[str, ...] = ("crop", "squash", "squash_crop")

FRAMES: tuple[str, ...] = ("first", "middle", "best")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageError(Exception):
    """These bytes did not become a image. `kind` is one of `ERROR_KINDS`; `str()` is one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)  # both in args, so that the error survives pickling
        self.seconds = 0.0  # as `Decoded.seconds`
        if kind not in ERROR_KINDS:
            raise ValueError(f"unknown image error kind {kind!r}")
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Limits:
    """What one image may cost, checked before any pixel is decoded; and which frame of several is looked at.

    max_bytes: size of the file. max_pixels: width × height in the header. While it is decoded a image takes
    about 4 bytes a pixel, 9 with transparency, 16 as WebP; a progressive JPEG 6, another one far less, since it is
    decoded at a reduced scale. frame: of animations, and of files with several pages: one of `FRAMES`, or a number
    from 0.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_pixels: int = 250_000_000
    frame: str | int = "first"

    def __post_init__(self) -> None:
        if self.frame not in FRAMES and not (isinstance(self.frame, int) and self.frame >= 0):
            raise ValueError(f"frame must be a number from 0, or one of {', '.join(FRAMES)}, not {self.frame!r}")
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise ValueError(f"limits must be at least 1: {self}")


@dataclass(frozen=True)
class Preprocessing:
    """The geometry a model wants its images in; belongs to the encoder and travels in the bundle.

    size: the image becomes size × size. resize: its shorter side is brought to this length first, then
    the middle is cut out (`mode="crop"`, torchvision's Resize + CenterCrop); with `mode="squash"` the whole
    image is brought to size × size and `resize` plays no part; with `mode="squash_crop"` the whole image is brought to
    resize × resize, and the middle is cut out of that. mean, std: per RGB channel, for values in
    [0, 1]; applied by the encoder on its device, not here. each: of an ensemble whose members want different
    geometries, these; see `together`.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"
    mode: str = "crop"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    each: tuple[Preprocessing, ...] = ()

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")
        if self.mode != "squash" and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) must not be below size ({self.size}): no square to cut out")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need three values each, std above 0")
        if sum(one.size**2 for one in self.each) > self.size**2:
            raise ValueError(f"{len(self.each)} squares do not fit into {self.size} × {self.size} pixels")

    @classmethod
    def together(cls, geometries: Sequence[Preprocessing]) -> Preprocessing:
        """Several geometries, in each of which every image is wanted; one where all are alike.

        Its "square" is no picture: the squares of `each` lie in its values one after the other, zeros behind them, so
        that pixels travel as those of a single geometry do. `square` finds them. Normalisation plays no part.
        """
        each = tuple(dict.fromkeys(one.geometry for one in geometries))
        if len(each) == 1:
            return each[0]
        side = math.isqrt(sum(one.size**2 for one in each) - 1) + 1
        return cls(side, side, mode="squash", each=each)

    @property
    def geometry(self) -> Preprocessing:
        """Equal for preprocessings that give the same pixels: without normalisation, and `resize` where unused."""
        resize = self.size if self.mode == "squash" else self.resize
        return Preprocessing(self.size, resize, self.interpolation, self.mode, each=self.each)

    def square(self, own: Preprocessing) -> slice:
        """Where in the size × size × 3 values of an image at this geometry the square of another one lies.

        Raises:
            ValueError: it is none of `each`, nor this one.
        """
        start = 0
        for one in self.each or (self.geometry,):
            stop = start + 3 * one.size**2
            if one == own.geometry:
                return slice(start, stop)
            start = stop
        raise ValueError(f"{own} is not among {self.each or self}")

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json.dumps` takes and `from_json` gives back."""
        fields = dataclasses.asdict(self) | {"each": [one.to_json() for one in self.each]}
        if not self.each:
            del fields["each"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Undoes `to_json`. Raises ValueError for unknown, missing or impossible values."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        if "each" in values:
            values["each"] = tuple(cls.from_json(one) for one in values["each"])
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a preprocessing description: {error}") from error


@dataclass(frozen=True)
class Decoded:
    """A image ready for a batch.

    pixels: uint8 (size, size, 3), RGB, contiguous, writable. width, height: of the whole original image
    in pixels, after EXIF rotation. seconds: of processor time that it took, where a sandbox decoded it.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    seconds: float = 0.0
