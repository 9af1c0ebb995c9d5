"""One-shot: the whole sentence at once from the image, each position without knowing what stands at the others.

It is known to be the weak one: where two captions are equally likely it mixes their words. It is kept to show what
the words said so far are worth. As no position knows whether the caption has ended, "no word" is predicted as well.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionkit.model.decoders.base import Decoder, State


class OneShot(Decoder):
    """A hidden layer that all positions share, one for each position, and an output layer that they share again.

    Args:
        vocab_size: number of words, the special ones included.
        feature_size: length of an image's feature vector.
        hidden_size: length of the shared layer.
        position_size: length of each position's layer.
        length: positions: the most words, and an end marker, that a caption can have.
        dropout: share of values dropped before and between the layers while training.

    Raises:
        ValueError: a size below 1, or a dropout outside [0, 1).
    """

    name: ClassVar[str] = "one_shot"
    wants: ClassVar[Literal["pooled", "grid"]] = "pooled"
    predicts_padding: ClassVar[bool] = True

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        hidden_size: int = 512,
        position_size: int = 256,
        length: int = 40,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            feature_size=feature_size,
            hidden_size=hidden_size,
            position_size=position_size,
            length=length,
            dropout=dropout,
        )
        self.max_steps = length
        self.image = nn.Linear(feature_size, hidden_size)
        self.positions = nn.Linear(hidden_size, length * position_size)
        self.output = nn.Linear(position_size, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features (N, D), tokens (N, T) → logits (N, T, V). Of the tokens only their number counts.

        Raises:
            ValueError: more tokens than it has positions.
        """
        steps, length = tokens.shape[1], self.config["length"]
        if steps > length:
            raise ValueError(f"{self.name} has {length} positions, not {steps}: cut the captions, or give it more")
        return self._say(features, steps)

    def start(self, features: Tensor) -> State:
        """Carry: "position" (N,), 0; memory: "logits" (N, length, V)."""
        position = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        return State({"position": position}, {"logits": self._say(features, self.config["length"])})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Tokens (R,), whatever they are → the logits (R, V) of the position reached."""
        position = state.carry["position"]
        rows = torch.arange(len(tokens), device=tokens.device)
        return state.memory["logits"][rows, position], State({"position": position + 1}, state.memory)

    def _say(self, features: Tensor, steps: int) -> Tensor:
        shared = torch.relu(self.image(self.dropout(self.standardised(features))))
        size = self.config["position_size"]
        weight, bias = self.positions.weight[: steps * size], self.positions.bias[: steps * size]
        own = torch.relu(functional.linear(self.dropout(shared), weight, bias)).view(-1, steps, size)
        logits: Tensor = self.output(self.dropout(own))
        return logits
