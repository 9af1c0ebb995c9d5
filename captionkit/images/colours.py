"""Any stored picture → mode "L", "LA", "RGB" or "RGBA", by the policy written in `captionkit.images`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WHITE = (255, 255, 255, 255)


def plain(image: Image.Image) -> Image.Image:
    """The same picture, loaded, in mode "L", "LA", "RGB" or "RGBA". Raises whatever Pillow raises."""
    image.load()
    mode = image.mode
    see_through = "transparency" in image.info
    if mode.startswith("I;16"):
        return _from_16_bits(np.asarray(image), image.info.get("transparency"))
    if mode == "I" and image.format in ("PNG", "PPM"):
        # Pillow's reader for these two holds 16-bit greys in 32 bits.
        return _from_16_bits(np.asarray(image).clip(0, 65535), image.info.get("transparency"))
    if mode in ("I", "F"):
        return _stretched(np.asarray(image))
    if mode in ("P", "PA"):
        assert image.palette is not None
        clear = see_through or mode == "PA" or image.palette.mode == "RGBA"
        return image.convert("RGBA" if clear else "RGB")
    if mode in ("1", "L", "RGB") and see_through:
        return image.convert("RGBA")
    if mode in ("L", "LA", "RGB", "RGBA"):
        return image
    return image.convert({"1": "L", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB"))


def opaque(image: Image.Image) -> NDArray[np.uint8]:
    """A plain picture as uint8 (H, W, 3), RGB, what is see-through laid on white."""
    if image.mode in ("LA", "RGBA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _from_16_bits(greys: NDArray[np.generic], clear: object) -> Image.Image:
    """16-bit greys → "L" by dropping the low byte, or "LA" where one grey is declared see-through."""
    picture = Image.fromarray((greys.astype(np.uint16) >> 8).astype(np.uint8))
    if isinstance(clear, int):
        picture.putalpha(Image.fromarray(np.where(greys == clear, 0, 255).astype(np.uint8)))
    return picture


def _stretched(values: NDArray[np.generic]) -> Image.Image:
    """Numbers without a known range → "L": lowest black, highest white; NaN and infinities black."""
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    low, high = (numbers[finite].min(), numbers[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = np.where(finite, numbers - low, 0.0) * (255.0 / (high - low) if high > low else 0.0)
    return Image.fromarray(np.round(scaled).astype(np.uint8))
