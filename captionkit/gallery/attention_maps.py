"""Attention maps of an image's caption, computed by a captioner."""

from __future__ import annotations

from captionkit.drawing.attention import AttentionMaps
from captionkit.errors import UsageError
from captionkit.images import decode
from captionkit.model.captioner import Captioner
from captionkit.model.search.options import SearchOptions


def make_attention_maps(captioner: Captioner, image: bytes, options: SearchOptions | None = None) -> AttentionMaps:
    """Caption an image, and compute the attention for each word.

    Args:
        image: its encoded bytes (JPEG, say).

    Raises:
        UsageError: the captioner's decoder has no attention.
        captionkit.images.ImageError: the image cannot be decoded.
    """
    if not captioner.attends:
        raise UsageError(
            f"this captioner's decoder, {captioner.decoder.name}, has no attention; choose a captioner with "
            "soft_attention or top_down"
        )
    pixels = decode(image, captioner.preprocessing).pixels
    features = captioner.encode(pixels[None])
    best = captioner.caption_features(features, options or SearchOptions())[0][0]
    return AttentionMaps(captioner.seen(pixels), tuple(best.text.split()), captioner.attention(features, best.text))
