"""A file that was given, and what was found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from captionkit.adopt.features import Features
from captionkit.adopt.words import WordList


@dataclass
class Given:
    """A file that was given, and what was found in it: words, tensors, a description of a Keras network, or several.

    Attributes:
        name: its address.
        form: what it is, for people.
        value: its pickled or JSON value, where it has one.
        tensors: by name.
        features: of images, by name.
        keras: a Keras network's description, its config.
        weights: arrays of a Keras file, by path.
    """

    name: str
    form: str
    value: Any = None
    words: WordList | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    features: Features | None = None
    keras: dict[str, Any] | None = None
    keras_weights: Any = None

    def describe(self) -> str:
        """What it is, in a line."""
        parts = [self.form]
        if self.words:
            parts.append(self.words.describe())
        if self.tensors:
            parts.append(f"{len(self.tensors):,} tensors")
        if self.features:
            parts.append(self.features.describe())
        if self.keras:
            parts.append(f"a Keras network {self.keras.get('config', {}).get('name', '')!r}")
        if self.keras_weights is not None:
            parts.append("weights of Keras")
        return "; ".join(parts)
