"""What every decoder family offers: `forward` to train with, `start` and `step` to search with.

Shapes: N images, R rows (an image's hypotheses lie next to each other), T tokens, V words, D features,
P places of a grid.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

Tensors = dict[str, Tensor]


class State(NamedTuple):
    """Where the rows of a search stand. The first axis of every tensor is the row.

    carry: what a step changes and the next one needs: hidden and cell state, a mask of words said, a
        position. Search reorders it after every step, as hypotheses overtake each other.
    memory: what stays the same for an image: projected features, or all logits of a one-shot decoder.
        Search repeats it for the hypotheses of an image and never reorders it: large tensors belong here.
    """

    carry: Tensors
    memory: Tensors


class Decoder(nn.Module, ABC):
    """Turns an image's features into words, one after another.

    A family is one file with a subclass that sets `name` and `wants`, and has an entry in `DECODERS`. It
    passes its constructor's arguments on to `Decoder.__init__`, which keeps them as `config`;
    `DECODERS[name](**config)` builds its like. Teacher forcing and stepping must agree:
    `forward(features, tokens)[:, t]` is what `step` gives after `tokens[:, :t + 1]`. A row's result must not
    depend on the rows beside it.
    """

    name: ClassVar[str]
    """The family's name in `DECODERS` and in bundles."""
    wants: ClassVar[Literal["pooled", "grid"]]
    """The features it reads: "pooled" (N, D), or "grid" (N, P, D)."""
    max_steps: int | None = None
    """The most steps it can take after `start`; None where there is no end (a one-shot decoder has one)."""

    def __init__(self, *, vocab_size: int, feature_size: int, **config: Any) -> None:
        """Remember the constructor's arguments. Raises ValueError for sizes below 1."""
        super().__init__()
        self.vocab_size = vocab_size
        self.feature_size = feature_size
        self.config: dict[str, Any] = {"vocab_size": vocab_size, "feature_size": feature_size, **config}
        for key, value in self.config.items():
            if (key.endswith("_size") or key == "layers") and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{self.name}: {key} must be a whole number of at least 1, not {value!r}")

    @abstractmethod
    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: features (N, D) or (N, P, D), tokens (N, T) beginning with the start marker.

        Returns logits (N, T, V); `logits[:, t]` predicts the token after `tokens[:, t]`.
        """

    @abstractmethod
    def start(self, features: Tensor) -> State:
        """The state of N rows that have read the image and no token yet."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token per row, (R,) int64, the start marker first; return logits (R, V) and the new state.

        Neither the state given nor its tensors are changed, and the same `memory` is handed on. Logits may be
        -inf for words that cannot come, but not for all of them.
        """
