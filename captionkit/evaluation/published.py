"""Published figures, for comparison."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures of a paper, times 100."""

    name: str
    figures: dict[str, float]
    """By metric, named as in `captionkit.metrics.METRICS`."""
    source: str


_XU = "Xu et al. 2015, Show, Attend and Tell, arXiv:1502.03044, table 1"
_TANTI = "Tanti, Gatt and Camilleri 2018, Where to put the Image in an Image Caption Generator, arXiv:1703.09137"

FLICKR8K = (
    Published("Google NIC", {"BLEU-1": 63.0, "BLEU-2": 41.0, "BLEU-3": 27.0}, f"Vinyals et al. 2015, as in {_XU}"),
    Published("soft attention", {"BLEU-4": 19.5}, _XU),
    Published("hard attention", {"BLEU-4": 21.3}, _XU),
    Published("init-inject, VGG16", {"BLEU-4": 19.1, "CIDEr-D": 48.1}, _TANTI),
    Published("merge, VGG16", {"BLEU-4": 17.8, "CIDEr-D": 46.9}, _TANTI),
)
"""On the 1,000 test images of Flickr8k."""
