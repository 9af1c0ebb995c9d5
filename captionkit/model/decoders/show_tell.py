"""Show and Tell: the image is the first input of an LSTM (Vinyals et al. 2015, arXiv:1411.4555).

Letters of shapes: see base.py, and K, the layers of the LSTM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from captionkit.model.decoders.base import State, Tensors
from captionkit.model.decoders.output import OutputLayer
from captionkit.model.decoders.recurrent import RecurrentDecoder, make_lstm


class ShowTell(RecurrentDecoder):
    """An LSTM reads the projected image, then the start marker and the words; dropout before, between and after it."""

    @dataclass(frozen=True, kw_only=True)
    class Config(RecurrentDecoder.Config):
        layers: int = 1
        """K, LSTMs on top of each other."""
        image_relu: bool = False
        """A ReLU after the image's projection, as a captioner adopted from elsewhere can have."""

    config: Config
    name = "show_tell"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.image = nn.Linear(config.feature_size, config.embed_size)
        self.words = self.make_embedding(config.embed_size, frozen=config.frozen_words)
        self.lstm = make_lstm(config.embed_size, config.hidden_size, config.layers, config.dropout)
        self.output = OutputLayer(config.hidden_size, config.vocab_size)

    def forward(self, features_ND: Tensor, tokens_NT: Tensor) -> Tensor:
        image_NE = self._project(features_ND)
        inputs_NTE = torch.cat([image_NE.unsqueeze(1), self.words(tokens_NT)], dim=1)  # one longer than tokens_NT
        hidden_NTH, _ = self.lstm(self.dropout(inputs_NTE))
        logits_NTV: Tensor = self.output(self.dropout(hidden_NTH[:, 1:]))
        return logits_NTV

    def start(self, features_ND: Tensor) -> State:
        """Carry: "hidden" and "cell" (N, K, H). No memory."""
        zeros_NKH = features_ND.new_zeros(len(features_ND), self.config.layers, self.config.hidden_size)
        image_NE = self.dropout(self._project(features_ND))
        return State(self._lstm_step(image_NE, {"hidden": zeros_NKH, "cell": zeros_NKH})[1], {})

    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        hidden_RH, carry = self._lstm_step(self.dropout(self.words(tokens_R)), state.carry)
        return self.output(self.dropout(hidden_RH)), State(carry, state.memory)

    def _project(self, features_ND: Tensor) -> Tensor:
        image_NE: Tensor = self.image(self.standardize(features_ND))
        return torch.relu(image_NE) if self.config.image_relu else image_NE

    def _lstm_step(self, inputs_RE: Tensor, carry: Tensors) -> tuple[Tensor, Tensors]:
        """One step of all layers. It calls the cell, as a call of `nn.LSTM` costs more than one step takes."""
        hidden, cell, inputs = [], [], inputs_RE
        for layer, weights in enumerate(self.lstm.all_weights):
            if layer:
                inputs = dropout(inputs, self.lstm.dropout, self.training)
            inputs, cell_RH = torch.lstm_cell(inputs, (carry["hidden"][:, layer], carry["cell"][:, layer]), *weights)
            hidden.append(inputs)
            cell.append(cell_RH)
        return inputs, {"hidden": torch.stack(hidden, dim=1), "cell": torch.stack(cell, dim=1)}
