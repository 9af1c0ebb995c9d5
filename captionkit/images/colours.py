"""Any stored image → mode "L", "LA", "RGB" or "RGBA", by the policy written in `captionkit.images`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captionkit.images import profiles

_WHITE = (255, 255, 255, 255)


def plain(image: Image.Image) -> Image.Image:
    """The same image, loaded, in mode "L", "LA", "RGB" or "RGBA". Raises whatever Pillow raises."""
    image.load()
    mode = image.mode
    see_through = "transparency" in image.info
    if mode.startswith("I;16"):
        return from_16_bits(np.asarray(image), image.info.get("transparency"))
    if mode == "I" and image.format in ("PNG", "PPM"):
        # Pillow's reader for these two holds 16-bit greys in 32 bits.
        return from_16_bits(np.asarray(image).clip(0, 65535), image.info.get("transparency"))
    if mode in ("I", "F"):
        return stretched(np.asarray(image))
    if mode in ("P", "PA"):
        assert image.palette is not None
        clear = see_through or mode == "PA" or image.palette.mode == "RGBA"
        return image.convert("RGBA" if clear else "RGB")
    if mode in ("1", "L", "RGB") and see_through:
        return image.convert("RGBA")
    if mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if mode == "LAB":
        return profiles.from_lab(image)
    return image.convert({"1": "L", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB"))


def opaque(image: Image.Image) -> NDArray[np.uint8]:
    """A plain image as uint8 (H, W, 3), RGB, what is see-through laid on white."""
    if image.mode in ("LA", "RGBA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def from_16_bits(greys: NDArray[np.generic], clear: object, bits: int | None = None) -> Image.Image:
    """16-bit greys → "L" by their upper 8 bits, or "LA" where one grey is declared see-through.

    bits: how many the file declares that its values fill. Undeclared, and where values exceed it, what they do fill
    counts: 10 to 14 bits are what scanners and sensors deliver.
    """
    values: NDArray[np.uint16] = greys.astype(np.uint16, copy=False)
    filled = int(values.max(initial=0)).bit_length()
    if bits is None:
        bits = max(10, filled) if 8 < filled <= 14 else 16
    picture = Image.fromarray((values >> (max(8, bits, filled if bits < 16 else 0) - 8)).astype(np.uint8))
    if isinstance(clear, int):
        picture.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return picture


def stretched(values: NDArray[np.generic]) -> Image.Image:
    """Numbers without a declared range → "L"; NaN and infinities black.

    Where they lie within 0 to 1 (floats only), 255 or 65535 and reach beyond half of it, that is their range: 8-bit or
    16-bit values stored as larger numbers keep their contrast. Else the lowest becomes black and the highest white.
    """
    low, high = np.inf, -np.inf
    for band in _bands(values):
        numbers = band.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        if finite.size:
            low, high = min(low, finite.min()), max(high, finite.max())
    for top in (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535):
        if low >= 0 and top / 2 < high <= top:
            low, high = 0, top
            break
    greys = np.zeros(values.shape, np.uint8)
    if high > low:
        for band, grey in zip(_bands(values), _bands(greys), strict=True):
            numbers = band.astype(np.float64)
            finite = np.isfinite(numbers)
            np.subtract(numbers, low, out=numbers, where=finite)
            numbers *= 255.0 / (high - low)
            grey[finite] = np.round(numbers[finite]).astype(np.uint8)
    return Image.fromarray(greys)


def _bands(values: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """Views of at most a million numbers or one row each: as float64 the whole would take many times the image."""
    rows = max(1, 1_000_000 // max(1, values.shape[1]))
    return [values[top : top + rows] for top in range(0, len(values), rows)]
