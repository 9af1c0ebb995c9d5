"""Merge: an LSTM reads the words alone, and the image joins just before the output (Tanti et al. 2018, 1703.09137).

The default sizes are those of the Keras tutorial, for Inception v3's 2048 values and GloVe's 200. Letters: see base.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from captionkit.model.decoders.base import State
from captionkit.model.decoders.output import OutputLayer
from captionkit.model.decoders.recurrent import RecurrentDecoder, make_lstm

GATES = {"sigmoid": None, "hard_sigmoid_5": 1 / 5, "hard_sigmoid_6": 1 / 6}
"""What an LSTM's gates can be: the sigmoid, or a straight line of this slope between 0 and 1, as Keras 2 (1/5) and
Keras 3 (1/6) have it under one name."""


class Merge(RecurrentDecoder):
    """Two layers over projected image and LSTM give the logits; dropout on features and word vectors."""

    @dataclass(frozen=True, kw_only=True)
    class Config(RecurrentDecoder.Config):
        embed_size: int = 200
        hidden_size: int = 256
        image_size: int | None = None
        """Values of the projected image; as many as the LSTM has unless it is joined by "concat"."""
        merged_size: int | None = None
        """Values of the layer after both are joined; None for H."""
        joined: str = "add"
        """add: the sum of image and LSTM goes on; concat: the image's values and then the LSTM's."""
        gates: str = "sigmoid"
        """A key of `GATES`."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.joined not in ("add", "concat") or self.gates not in GATES:
                raise ValueError(f"joined is add or concat, and gates {', '.join(GATES)}")
            if self.joined == "add" and self.image_size not in (None, self.hidden_size):
                raise ValueError(f"an image of {self.image_size} values cannot be added to {self.hidden_size}")

    config: Config
    name = "merge"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        image_size, merged_size = config.image_size or config.hidden_size, config.merged_size or config.hidden_size
        self.image = nn.Linear(config.feature_size, image_size)
        self.words = self.make_embedding(config.embed_size, frozen=config.frozen_words)
        self.lstm = make_lstm(config.embed_size, config.hidden_size)
        joined_size = config.hidden_size + (image_size if config.joined == "concat" else 0)
        self.merged = nn.Linear(joined_size, merged_size)
        self.output = OutputLayer(merged_size, config.vocab_size)

    def forward(self, features_ND: Tensor, tokens_NT: Tensor) -> Tensor:
        words_NTE = self.dropout(self.words(tokens_NT))
        if self.config.gates == "sigmoid":
            hidden_NTH, _ = self.lstm(words_NTE)
        else:
            hidden_NH = cell_NH = words_NTE.new_zeros(len(words_NTE), self.config.hidden_size)
            steps = []
            for words_NE in words_NTE.unbind(1):
                hidden_NH, cell_NH = self._cell(words_NE, hidden_NH, cell_NH)
                steps.append(hidden_NH)
            hidden_NTH = torch.stack(steps, dim=1)
        return self._to_logits(self.project_image(self.image, features_ND).unsqueeze(1), hidden_NTH)

    def start(self, features_ND: Tensor) -> State:
        """Carry: "hidden" and "cell" (N, H), both 0. Memory: "image" (N, I), I = `image_size`."""
        image_NI = self.project_image(self.image, features_ND)
        zeros_NH = image_NI.new_zeros(len(image_NI), self.config.hidden_size)
        return State({"hidden": zeros_NH, "cell": zeros_NH}, {"image": image_NI})

    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        words_RE = self.dropout(self.words(tokens_R))
        hidden_RH, cell_RH = self._cell(words_RE, state.carry["hidden"], state.carry["cell"])
        logits_RV = self._to_logits(state.memory["image"], hidden_RH)
        return logits_RV, State({"hidden": hidden_RH, "cell": cell_RH}, state.memory)

    def _cell(self, words_RE: Tensor, hidden_RH: Tensor, cell_RH: Tensor) -> tuple[Tensor, Tensor]:
        weights, slope = self.lstm.all_weights[0], GATES[self.config.gates]
        if slope is None:
            return torch.lstm_cell(words_RE, (hidden_RH, cell_RH), *weights)
        from_words_EG, from_state_HG, bias_G, other_bias_G = weights
        gates_RG = linear(words_RE, from_words_EG, bias_G) + linear(hidden_RH, from_state_HG, other_bias_G)
        input_RH, forget_RH, candidate_RH, output_RH = gates_RG.chunk(4, dim=1)
        opened = [(slope * gate_RH + 0.5).clamp(0, 1) for gate_RH in (input_RH, forget_RH, output_RH)]
        cell_RH = opened[1] * cell_RH + opened[0] * torch.tanh(candidate_RH)
        return opened[2] * torch.tanh(cell_RH), cell_RH

    def _to_logits(self, image: Tensor, hidden: Tensor) -> Tensor:
        if self.config.joined == "concat":
            joined = torch.cat([image.expand(*hidden.shape[:-1], -1), hidden], dim=-1)
        else:
            joined = image + hidden
        logits: Tensor = self.output(torch.relu(self.merged(joined)))
        return logits
