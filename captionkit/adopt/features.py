"""Features of images that somebody computed before: Keras's tutorial keeps them in `encoded_train_images.pkl`.

They are no encoder. They tell which one it was by their length, let a decoder be tried without one, and show how far an
encoder that stands in is from the tutorial's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from captionkit.adopt.trial import MAX_WORDS, SCENES, Trial, judge
from captionkit.images import ImageError, decode
from captionkit.model.captioner import Captioner
from captionkit.model.image_reader import ImageLike
from captionkit.model.search.options import SearchOptions
from captionkit.storage import Storage

FEWEST_VALUES = 32
"""Of a feature vector; shorter arrays by name are something else."""
_BATCH = 256
"""Images whose features are captioned together."""


@dataclass(frozen=True)
class Features:
    """Feature vectors (D,) by the images' names."""

    by_name: Mapping[str, NDArray[np.float32]]
    size: int

    def describe(self) -> str:
        return f"features of {len(self.by_name):,} images, {self.size:,} values each"


def read_features(value: Any) -> Features | None:
    """Features in a pickled value: name → (D,) or (1, D), all of one length; None where there are none."""
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
        return None
    features: dict[str, NDArray[np.float32]] = {}
    size = 0
    for name, array in value.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.size != max(array.shape, default=0):
            return None
        size = size or array.size
        if array.size != size or size < FEWEST_VALUES:
            return None
        features[name] = array.reshape(-1).astype(np.float32)
    return Features(features, size)


def try_features(captioner: Captioner, features: Features, count: int | None = SCENES) -> Trial:
    """Greedy captions of some images, or all, by their features, without the encoder."""
    options, captions = SearchOptions(beam=1, max_length=MAX_WORDS), list[tuple[str, str]]()
    names = list(features.by_name)[:count]
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        values = torch.from_numpy(np.stack([features.by_name[name] for name in batch]))
        hypotheses = captioner.caption_features(values.to(captioner.device, captioner.dtype), options)
        captions += [(name, best.text) for name, (best, *_) in zip(batch, hypotheses, strict=True) if best.text]
    return Trial(captions, judge([text for _, text in captions]))


def similarity(
    captioner: Captioner, features: Features, images: Sequence[tuple[str, ImageLike]], storage: Storage
) -> float | None:
    """The least cosine between the encoder's features and those that were given, over images of the same name; None
    where there is no such image."""
    cosines = []
    for name, image in images:
        file_name = name.rpartition("/")[2]
        given = features.by_name.get(file_name, features.by_name.get(file_name.rpartition(".")[0]))
        if given is None or not isinstance(image, str):
            continue
        try:
            pixels = decode(storage.read(storage.normalize(image)), captioner.preprocessing).pixels
        except ImageError:
            continue
        own = captioner.encode(pixels[None])[0].float().cpu().numpy()
        cosines.append(float(own @ given / max(float(np.linalg.norm(own) * np.linalg.norm(given)), 1e-12)))
    return min(cosines, default=None)
