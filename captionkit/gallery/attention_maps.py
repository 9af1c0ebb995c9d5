"""Attention maps: where a captioner looked for each word (as in figure 2 of Xu et al. 2015, arXiv:1502.03044)."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from captionkit.errors import UsageError
from captionkit.images import decode
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import AttentionDecoder
from captionkit.model.search.options import SearchOptions
from captionkit.vocabulary import BOS

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


def make_attention_maps(captioner: Captioner, image: bytes, options: SearchOptions | None = None) -> AttentionMaps:
    """Caption an image, and compute the attention for each word.

    Args:
        image: its encoded bytes (JPEG, say).

    Raises:
        UsageError: the captioner's decoder has no attention.
        captionkit.images.ImageError: the image cannot be decoded.
    """
    decoder = captioner.decoder
    if not isinstance(decoder, AttentionDecoder):
        raise UsageError(
            f"this captioner's decoder, {decoder.name}, has no attention; choose a captioner with soft_attention or "
            "top_down"
        )
    pixels = decode(image, captioner.preprocessing).pixels
    features = captioner.encode(pixels[None])
    best = captioner.caption_features(features, options or SearchOptions())[0][0]
    ids = captioner.vocabulary.encode(best.text)
    with torch.inference_mode():
        tokens = torch.tensor([[BOS, *ids]], device=captioner.device)
        weights = decoder.attention_maps(features, tokens)[0, : len(ids)].float().cpu()
    side = math.isqrt(weights.shape[1])  # grids are square
    return AttentionMaps(pixels, tuple(best.text.split()), weights.view(len(ids), side, side).numpy())


def attention_picture(attention: AttentionMaps) -> bytes:
    """A PNG of the image, then once per word with places of little attention darkened."""
    from matplotlib.figure import Figure  # no window, no global state

    rows = math.ceil((len(attention.words) + 1) / COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(attention.pixels)
    size = (attention.pixels.shape[1], attention.pixels.shape[0])
    for axis, word, weights in zip(axes[1:], attention.words, attention.maps, strict=False):
        smooth = np.asarray(Image.fromarray(weights / weights.max()).resize(size, Image.Resampling.BICUBIC))
        brightness = 0.25 + 0.75 * smooth.clip(0, 1)
        axis.imshow((attention.pixels * brightness[..., None]).astype(np.uint8))
        axis.set_title(word, fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
