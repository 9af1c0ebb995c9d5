"""Attention maps: where a captioner looked for each word (as in figure 2 of Xu et al. 2015, arXiv:1502.03044)."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLUMNS = 5
"""Maps side by side in the picture."""


@dataclass(frozen=True)
class AttentionMaps:
    """A caption of T words, and an attention map for each of them."""

    pixels: NDArray[np.uint8]
    """(S, S, 3), the encoder's input."""
    words: tuple[str, ...]
    """T words."""
    maps: NDArray[np.float32]
    """(T, G, G), each summing to 1 over the encoder's grid of G × G places."""

    @property
    def caption(self) -> str:
        return " ".join(self.words)


def attention_picture(attention: AttentionMaps) -> bytes:
    """A PNG of the image, then once per word with places of little attention darkened."""
    from matplotlib.figure import Figure  # no window, no global state

    rows = math.ceil((len(attention.words) + 1) / COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(attention.pixels)
    for axis, word, weights in zip(axes[1:], attention.words, attention.maps, strict=False):
        axis.imshow(in_light(attention.pixels, weights))
        axis.set_title(word, fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def in_light(pixels: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image (S, S, 3), darkened where an attention map (G, G) is small."""
    size = (pixels.shape[1], pixels.shape[0])
    smooth = np.asarray(Image.fromarray(weights / weights.max()).resize(size, Image.Resampling.BICUBIC))
    brightness = 0.25 + 0.75 * smooth.clip(0, 1)
    shown: NDArray[np.uint8] = (pixels * brightness[..., None]).astype(np.uint8)
    return shown
