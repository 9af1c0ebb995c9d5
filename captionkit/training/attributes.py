"""What an encoder of drawn scenes learns before any caption: to tell what is in a picture.

The error of a word reaches the encoder through all the steps of the LSTM before it, and from random weights that
teaches it little but skies (tried: after 120,000 pictures the captions named no kind of thing rightly). Asked for the
facts themselves it learns them in minutes; captions then come from its features. Attributes before captions is Fang et
al. 2015, "From Captions to Visual Concepts and Back".
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from captionkit.scenes.scene import Scene
from captionkit.scenes.world import BACKGROUNDS, COLOURS, KINDS, MOST, PLACES, SIZES, TIMES

_KINDS, _COLOURS, _SIZES = tuple(KINDS), tuple(COLOURS), tuple(SIZES)
_PLACES: Final = (None, *PLACES)
_CHOICES: Final = (len(_COLOURS), MOST, len(_SIZES), len(_PLACES))
"""For a kind of thing that is there: which colour, how many, which size, where."""
_SURROUNDINGS: Final = (len(BACKGROUNDS), len(TIMES))


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


class AttributeHead(nn.Module):
    """Reads the facts of a scene off an encoder's features (N, D). Used in training only."""

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.output = nn.Linear(feature_size, len(_KINDS) * (1 + sum(_CHOICES)) + sum(_SURROUNDINGS))

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Nats a scene: of what is there, and of colour, count, size, place of that which is; of the surroundings.

        Args:
            targets: (N, …) int64, rows as `facts` gives them.
        """
        logits = self.output(features)
        kinds, surroundings = logits.split([len(_KINDS) * (1 + sum(_CHOICES)), sum(_SURROUNDINGS)], dim=1)
        present, *choices = kinds.reshape(len(kinds), len(_KINDS), -1).split([1, *_CHOICES], dim=2)
        things = targets[:, : len(_KINDS) * len(_CHOICES)].reshape(len(targets), len(_KINDS), -1)
        there = things[:, :, 0] >= 0
        loss = binary_cross_entropy_with_logits(present.squeeze(2), there.float(), reduction="sum")
        for place, choice in enumerate(choices):
            loss = loss + cross_entropy(choice[there], things[:, :, place][there], reduction="sum")
        for part, target in zip(surroundings.split(_SURROUNDINGS, dim=1), targets[:, -2:].unbind(1), strict=True):
            loss = loss + cross_entropy(part, target, reduction="sum")
        return loss / len(features)
