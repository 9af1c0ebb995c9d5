"""Where a captioner looked for each word, drawn over the image (as in figure 2 of Xu et al. 2015, arXiv:1502.03044)."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from captionkit.images import decode
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import AttentionDecoder
from captionkit.model.search.options import SearchOptions
from captionkit.storage import UsageError
from captionkit.vocabulary import BOS

COLUMNS = 5


@dataclass(frozen=True)
class Attention:
    """A caption, and where the captioner looked for each of its words.

    pixels: (S, S, 3) uint8, the image as the encoder saw it.
    words: the caption's T words.
    maps: (T, G, G) float32, each adding up to 1 over the encoder's grid of G × G places.
    """

    pixels: NDArray[np.uint8]
    words: tuple[str, ...]
    maps: NDArray[np.float32]

    @property
    def caption(self) -> str:
        return " ".join(self.words)


def attention(captioner: Captioner, image: bytes, options: SearchOptions | None = None) -> Attention:
    """Caption an image and look at where each word comes from.

    Raises:
        UsageError: the captioner's decoder does not attend.
        captionkit.images.ImageError: the image cannot be decoded.
    """
    decoder = captioner.decoder
    if not isinstance(decoder, AttentionDecoder):
        raise UsageError(
            f"this captioner's decoder is {decoder.name}, which sees the image as one vector; attention can be drawn "
            "of soft_attention and top_down"
        )
    pixels = decode(image, captioner.preprocessing).pixels
    features = captioner.encode(pixels[None])
    best = captioner.describe_features(features, options or SearchOptions())[0][0]
    ids = captioner.vocabulary.encode(best.text)
    with torch.inference_mode():
        tokens = torch.tensor([[BOS, *ids]], device=captioner.device)
        weights = decoder.attention_maps(features, tokens)[0, : len(ids)].float().cpu()
    side = math.isqrt(weights.shape[1])  # encoders see squares
    return Attention(pixels, tuple(best.text.split()), weights.view(len(ids), side, side).numpy())


def attention_picture(found: Attention) -> bytes:
    """The image, then once for each word with what was looked at in light and the rest in the dark, as a PNG."""
    from matplotlib.figure import Figure  # no window, no global state

    rows = math.ceil((len(found.words) + 1) / COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(found.pixels)
    size = (found.pixels.shape[1], found.pixels.shape[0])
    for axis, word, weights in zip(axes[1:], found.words, found.maps, strict=False):
        smooth = np.asarray(Image.fromarray(weights / weights.max()).resize(size, Image.Resampling.BICUBIC))
        light = 0.25 + 0.75 * smooth.clip(0, 1)
        axis.imshow((found.pixels * light[..., None]).astype(np.uint8))
        axis.set_title(word, fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
