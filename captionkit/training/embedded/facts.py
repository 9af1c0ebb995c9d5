"""What an encoder of drawn scenes learns before any caption: to tell what is in a picture.

The error of a word reaches the encoder through all the steps of the LSTM before it, and from random weights that
teaches it little but skies (tried: after 120,000 pictures the captions named no kind of thing rightly). Asked for the
facts themselves it learns them in minutes; captions then come from its features. Attributes before captions is Fang et
al. 2015, "From Captions to Visual Concepts and Back".
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from captionkit.scenes.scene import Scene
from captionkit.scenes.world import BACKGROUNDS, COLOURS, KINDS, MOST, PLACES, SIZES, TIMES

_KINDS, _COLOURS, _SIZES = tuple(KINDS), tuple(COLOURS), tuple(SIZES)
_PLACES: Final = (None, *PLACES)
_CHOICES: Final = (len(_COLOURS), MOST, len(_SIZES), len(_PLACES))
"""For a kind of thing that is there: which colour, how many, which size, where."""
_SURROUNDINGS: Final = (len(BACKGROUNDS), len(TIMES))
FACTS: Final = len(_KINDS) * (1 + sum(_CHOICES)) + sum(_SURROUNDINGS)
"""Values that tell a scene: for each kind whether it is there and what may be said of it; then the surroundings."""


def facts(scene: Scene) -> list[int]:
    """A scene as whole numbers: for each kind -1, or its colour, count, size and place; then background and time."""
    found: list[int] = []
    for kind in _KINDS:
        group = scene.find(kind)
        if group is None:
            found += [-1] * len(_CHOICES)
        else:
            place = _PLACES.index(group.place)
            found += [_COLOURS.index(group.colour), group.count - 1, _SIZES.index(group.size), place]
    return [*found, tuple(BACKGROUNDS).index(scene.background), TIMES.index(scene.time)]


def fact_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Nats a scene: of what is there, and of colour, count, size, place of that which is; of the surroundings.

    Args:
        features: (N, FACTS) between 0 and 1, an encoder's.
        targets: (N, …) int64, rows as `facts` gives them.

    Raises:
        ValueError: features of another length.
    """
    if features.shape[1] != FACTS:
        raise ValueError(f"an encoder with {FACTS} features is needed, one for each fact, not {features.shape[1]}")
    # Beyond that a sigmoid's fp32 value tells no difference.
    logits = features.clamp(1e-6, 1 - 1e-6).logit()
    kinds, surroundings = logits[:, : -sum(_SURROUNDINGS)], logits[:, -sum(_SURROUNDINGS) :]
    present, *choices = torch.split(kinds.reshape(len(kinds), len(_KINDS), -1), [1, *_CHOICES], dim=2)
    things = targets[:, : len(_KINDS) * len(_CHOICES)].reshape(len(targets), len(_KINDS), -1)
    there = things[:, :, 0] >= 0
    loss = binary_cross_entropy_with_logits(present.squeeze(2), there.float(), reduction="sum")
    for place, choice in enumerate(choices):
        loss = loss + cross_entropy(choice[there], things[:, :, place][there], reduction="sum")
    for part, target in zip(
        torch.split(surroundings, list(_SURROUNDINGS), dim=1), targets[:, -2:].unbind(1), strict=True
    ):
        loss = loss + cross_entropy(part, target, reduction="sum")
    return loss / len(features)
