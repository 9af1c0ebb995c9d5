"""One-shot: all words at once from the image, each position without knowing the words at the others.

A weak baseline: where two captions are equally likely, it mixes their words. It shows what reading the words so far is
worth. Letters of shapes: see base.py, and here:

    L  positions, `length`
    S  values of a position's hidden layer, `position_size`
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from captionkit.model.decoders.base import Decoder, State
from captionkit.model.decoders.output import OutputLayer


class OneShot(Decoder):
    """A hidden layer shared by all positions, one for each position, and a shared output layer; dropout before both
    hidden layers and the output."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Decoder.Config):
        hidden_size: int = 512
        """H, length of the shared layer."""
        position_size: int = 256
        """S, length of each position's layer."""
        length: int = 40
        """L, the most tokens of a caption, the end marker included."""

    config: Config
    name = "one_shot"
    predicts_padding = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.max_steps = config.length
        self.image = nn.Linear(config.feature_size, config.hidden_size)
        self.positions = nn.Linear(config.hidden_size, config.length * config.position_size)
        self.output = OutputLayer(config.position_size, config.vocab_size)

    def forward(self, features_ND: Tensor, tokens_NT: Tensor) -> Tensor:
        """Of the tokens only their number T counts. Raises ValueError where it is above `length`."""
        steps, length = tokens_NT.shape[1], self.config.length
        if steps > length:
            raise ValueError(f"{self.name} has {length} positions, not {steps}: cut the captions, or give it more")
        return self._to_logits(features_ND, steps)

    def start(self, features_ND: Tensor) -> State:
        """Carry: "position" (N,), 0. Memory: "logits" (N, L, V)."""
        position_N = torch.zeros(len(features_ND), dtype=torch.int64, device=features_ND.device)
        return State({"position": position_N}, {"logits": self._to_logits(features_ND, self.config.length)})

    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        position_R, rows_R = state.carry["position"], torch.arange(len(tokens_R), device=tokens_R.device)
        return state.memory["logits"][rows_R, position_R], State({"position": position_R + 1}, state.memory)

    def _to_logits(self, features_ND: Tensor, steps: int) -> Tensor:
        """Logits (N, steps, V) of the first positions."""
        size = self.config.position_size
        weight, bias = self.positions.weight[: steps * size], self.positions.bias[: steps * size]
        shared_NH = self.dropout(self.project_image(self.image, features_ND))
        hidden_NLS = torch.relu(linear(shared_NH, weight, bias)).view(-1, steps, size)
        logits_NLV: Tensor = self.output(self.dropout(hidden_NLS))
        return logits_NLV
