"""Attention maps of an image's caption, computed by a captioner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from captionkit.drawing.attention import AttentionMaps
from captionkit.errors import UsageError
from captionkit.images import Limits, decode
from captionkit.model.captioner import Captioner
from captionkit.model.search.options import SearchOptions


def make_attention_maps(
    captioner: Captioner, image: bytes, options: SearchOptions | None = None, limits: Limits | None = None
) -> AttentionMaps:
    """Caption an image, and compute the attention for each word.

    Args:
        image: its encoded bytes (JPEG, say).
        limits: what it may be, and which frame of several is looked at.

    Raises:
        UsageError: the captioner's decoder has no attention.
        captionkit.images.ImageError: the image cannot be decoded.
    """
    if not captioner.attends:
        raise UsageError(
            f"this captioner's decoder, {captioner.decoder.name}, has no attention; choose a captioner with "
            "soft_attention or top_down"
        )
    pixels = decode(image, captioner.preprocessing, limits or Limits()).pixels
    features = captioner.encode(pixels[None])
    best = captioner.caption_features(features, options or SearchOptions())[0][0]
    return AttentionMaps(captioner.seen(pixels), tuple(best.text.split()), captioner.attention(features, best.text))


def maps_of_caption(
    captioner: Captioner, image: bytes, words: Sequence[str], limits: Limits, side: int
) -> AttentionMaps:
    """The attention for each word of a caption that the captioner has made before.

    Args:
        image: its encoded bytes.
        words: of the caption, T of them.
        side: of the pixels that the maps are to be drawn over; what is cut off is what the captioner did not see. An
            ensemble of several geometries has those of the one that is attended to.

    Raises:
        captionkit.images.ImageError: the image cannot be decoded.
    """
    seen = captioner.preprocessing
    pixels = decode(image, seen, limits).pixels
    maps = captioner.attention(captioner.encode(pixels[None]), " ".join(words))
    if seen.each:  # an ensemble of several geometries
        return AttentionMaps(captioner.seen(pixels), tuple(words), maps)
    larger = replace(seen, size=side, resize=max(side, round(seen.resize * side / seen.size)))
    return AttentionMaps(decode(image, larger, limits).pixels, tuple(words), maps)
