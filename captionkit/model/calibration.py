"""How sure a captioner may be: from a caption's score to the chance that people would accept the caption.

Fitted by `captionkit.evaluation.confidence` on images with people's captions, kept in the bundle's description.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """A table from score to chance; between its points the chance is a straight line, beyond them that of the last.

    Raises:
        ValueError: scores that do not rise, chances that fall or are none.
    """

    scores: tuple[float, ...]
    """Mean log-probabilities per token, in nats, rising."""
    chances: tuple[float, ...]
    """The chance that a caption of such a score is acceptable, from 0 to 1, never falling."""
    acceptable: str
    """What acceptable means, for people."""
    images: int
    """Images it was fitted on."""
    search: str
    """The search that gave the captions, for people: other searches give other scores."""

    def __post_init__(self) -> None:
        numbers = (*self.scores, *self.chances)
        if len(self.scores) != len(self.chances) or not self.scores:
            raise ValueError(
                f"{len(self.scores)} scores and {len(self.chances)} chances: expected as many, at least one"
            )
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError("scores and chances must be numbers")
        if any(a >= b for a, b in pairwise(self.scores)):
            raise ValueError("scores must rise")
        rising = (0.0, *self.chances, 1.0)
        if any(a > b for a, b in pairwise(rising)):
            raise ValueError("chances must be from 0 to 1, and must not fall")

    def chance(self, scores: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
        """The chances of captions of these scores, (n,)."""
        chances: NDArray[np.float64] = np.interp(np.asarray(scores, np.float64), self.scores, self.chances)
        return chances

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json.dumps` takes and `from_json` gives back."""
        return asdict(self) | {"scores": list(self.scores), "chances": list(self.chances)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Calibration:
        """Undoes `to_json`.

        Raises:
            ValueError: it is none.
        """
        try:
            return cls(
                tuple(fields["scores"]),
                tuple(fields["chances"]),
                str(fields["acceptable"]),
                int(fields["images"]),
                str(fields["search"]),
            )
        except (TypeError, KeyError) as err:
            raise ValueError(f"no calibration: {err}") from err
