"""Merge: an LSTM reads the words alone, and the image joins just before the output (Tanti et al. 2018, 1703.09137).

The default sizes are those of the Keras tutorial, for Inception v3's 2048 values and GloVe's 200. Letters: see base.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captionkit.model.decoders.base import State
from captionkit.model.decoders.recurrent import RecurrentDecoder, make_lstm


class Merge(RecurrentDecoder):
    """A layer over the sum of projected image and LSTM gives the logits; dropout on features and word vectors."""

    @dataclass(frozen=True, kw_only=True)
    class Config(RecurrentDecoder.Config):
        embed_size: int = 200
        hidden_size: int = 256

    config: Config
    name = "merge"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.image = nn.Linear(config.feature_size, config.hidden_size)
        self.words = self.make_embedding(config.embed_size, frozen=config.frozen_words)
        self.lstm = make_lstm(config.embed_size, config.hidden_size)
        self.merged = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, features_ND: Tensor, tokens_NT: Tensor) -> Tensor:
        hidden_NTH, _ = self.lstm(self.dropout(self.words(tokens_NT)))
        return self._to_logits(self.project_image(self.image, features_ND).unsqueeze(1), hidden_NTH)

    def start(self, features_ND: Tensor) -> State:
        """Carry: "hidden" and "cell" (N, H), both 0. Memory: "image" (N, H)."""
        image_NH = self.project_image(self.image, features_ND)
        zeros_NH = torch.zeros_like(image_NH)
        return State({"hidden": zeros_NH, "cell": zeros_NH}, {"image": image_NH})

    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        words_RE, before = self.dropout(self.words(tokens_R)), (state.carry["hidden"], state.carry["cell"])
        hidden_RH, cell_RH = torch.lstm_cell(words_RE, before, *self.lstm.all_weights[0])
        logits_RV = self._to_logits(state.memory["image"], hidden_RH)
        return logits_RV, State({"hidden": hidden_RH, "cell": cell_RH}, state.memory)

    def _to_logits(self, image: Tensor, hidden: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.relu(self.merged(image + hidden)))
        return logits
