"""The facts of a drawn scene, as targets for training the encoder before the decoder.

Training both on captions from random weights was tried: the gradient reaches the encoder through all steps of the LSTM,
and after 120,000 images the captions named no kind of thing correctly. Trained on the facts themselves, the encoder
learns them in minutes, and the decoder then reads its features. Attributes before captions: Fang et al. 2015, "From
Captions to Visual Concepts and Back".
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
"""Numbers of colours, counts, sizes and places that a kind of thing can have."""
_SURROUNDINGS: Final = (len(BACKGROUNDS), len(TIMES))
FACTS: Final = len(_KINDS) * (1 + sum(_CHOICES)) + sum(_SURROUNDINGS)
"""Features of a scene: for each kind, whether it is present and the choices of its attributes; then surroundings."""


def facts(scene: Scene) -> list[int]:
    """A scene as integers: for each kind colour, count, size and place, or -1 four times; then background and time."""
    values: list[int] = []
    for kind in _KINDS:
        group = scene.find(kind)
        if group is None:
            values += [-1] * len(_CHOICES)
        else:
            place = _PLACES.index(group.place)
            values += [_COLOURS.index(group.colour), group.count - 1, _SIZES.index(group.size), place]
    return [*values, tuple(BACKGROUNDS).index(scene.background), TIMES.index(scene.time)]


def fact_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats per scene: of presence, of the attributes of present kinds, of the surroundings.

    Args:
        features: (N, FACTS) from 0 to 1, the encoder's output.
        targets: (N, …) int64, rows as `facts` returns them.

    Raises:
        ValueError: another number of features.
    """
    if features.shape[1] != FACTS:
        raise ValueError(f"the encoder must have {FACTS} features, one for each fact, not {features.shape[1]}")
    # In fp32 a sigmoid cannot come closer to 0 and 1.
    logits = features.clamp(1e-6, 1 - 1e-6).logit()
    kinds, surroundings = logits[:, : -sum(_SURROUNDINGS)], logits[:, -sum(_SURROUNDINGS) :]
    present, *choices = torch.split(kinds.reshape(len(kinds), len(_KINDS), -1), [1, *_CHOICES], dim=2)
    things = targets[:, : len(_KINDS) * len(_CHOICES)].reshape(len(targets), len(_KINDS), -1)
    is_present = things[:, :, 0] >= 0
    loss = binary_cross_entropy_with_logits(present.squeeze(2), is_present.float(), reduction="sum")
    for place, choice in enumerate(choices):
        loss = loss + cross_entropy(choice[is_present], things[:, :, place][is_present], reduction="sum")
    for part, target in zip(
        torch.split(surroundings, list(_SURROUNDINGS), dim=1), targets[:, -2:].unbind(1), strict=True
    ):
        loss = loss + cross_entropy(part, target, reduction="sum")
    return loss / len(features)
