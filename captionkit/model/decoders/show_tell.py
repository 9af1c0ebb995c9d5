"""Show and Tell: the image is the first input of an LSTM (Vinyals et al. 2015, arXiv:1411.4555).

Letters of shapes: see base.py, and K, the layers of the LSTM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from captionkit.model.decoders.base import State, Tensors
from captionkit.model.decoders.output import OutputLayer
from captionkit.model.decoders.recurrent import MaxoutLSTM, RecurrentDecoder, make_lstm


class ShowTell(RecurrentDecoder):
    """An LSTM reads the projected image, then the start marker and the words; dropout before, between and after it."""

    @dataclass(frozen=True, kw_only=True)
    class Config(RecurrentDecoder.Config):
        layers: int = 1
        """K, LSTMs on top of each other."""
        image_relu: bool = False
        """A ReLU after the image's projection, as a captioner adopted from elsewhere can have."""
        maxout: bool = False
        """An LSTM with two candidates, the larger of which counts, as in FC of Rennie et al. 2017, arXiv:1612.00563.
        It has one layer."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.maxout and self.layers != 1:
                raise ValueError(f"an LSTM with maxout has one layer, not {self.layers}")

    config: Config
    name = "show_tell"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.image = nn.Linear(config.feature_size, config.embed_size)
        self.words = self.make_embedding(config.embed_size, frozen=config.frozen_words)
        self.lstm = (
            MaxoutLSTM(config.embed_size, config.hidden_size)
            if config.maxout
            else make_lstm(config.embed_size, config.hidden_size, config.layers, config.dropout)
        )
        self.output = OutputLayer(config.hidden_size, config.vocab_size)

    def forward(self, features_ND: Tensor, tokens_NT: Tensor) -> Tensor:
        image_NE = self._project(features_ND)
        inputs_NTE = torch.cat([image_NE.unsqueeze(1), self.words(tokens_NT)], dim=1)  # one longer than tokens_NT
        hidden_NTH = self._read(self.dropout(inputs_NTE))
        logits_NTV: Tensor = self.output(self.dropout(hidden_NTH[:, 1:]))
        return logits_NTV

    def start(self, features_ND: Tensor) -> State:
        """Carry: "hidden" and "cell" (N, K, H). No memory."""
        image_NE = self.dropout(self._project(features_ND))
        return State(self._lstm_step(image_NE, self._empty(features_ND))[1], {})

    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        hidden_RH, carry = self._lstm_step(self.dropout(self.words(tokens_R)), state.carry)
        return self.output(self.dropout(hidden_RH)), State(carry, state.memory)

    def _project(self, features_ND: Tensor) -> Tensor:
        image_NE: Tensor = self.image(self.standardize(features_ND))
        return torch.relu(image_NE) if self.config.image_relu else image_NE

    def _empty(self, features_ND: Tensor) -> Tensors:
        zeros_NKH = features_ND.new_zeros(len(features_ND), self.config.layers, self.config.hidden_size)
        return {"hidden": zeros_NKH, "cell": zeros_NKH}

    def _read(self, inputs_NTE: Tensor) -> Tensor:
        """The last layer's hidden states (N, T, H)."""
        if isinstance(self.lstm, nn.LSTM):
            hidden_NTH: Tensor = self.lstm(inputs_NTE)[0]
            return hidden_NTH
        carry, hidden = self._empty(inputs_NTE), []
        for inputs_NE in inputs_NTE.unbind(1):
            hidden_NH, carry = self._lstm_step(inputs_NE, carry)
            hidden.append(hidden_NH)
        return torch.stack(hidden, dim=1)

    def _lstm_step(self, inputs_RE: Tensor, carry: Tensors) -> tuple[Tensor, Tensors]:
        """One step of all layers. It calls the cell, as a call of `nn.LSTM` costs more than one step takes."""
        if isinstance(self.lstm, MaxoutLSTM):
            hidden_RH, cell_RH = self.lstm(inputs_RE, carry["hidden"].squeeze(1), carry["cell"].squeeze(1))
            return hidden_RH, {"hidden": hidden_RH.unsqueeze(1), "cell": cell_RH.unsqueeze(1)}
        hidden, cell, inputs = [], [], inputs_RE
        for layer, weights in enumerate(self.lstm.all_weights):
            if layer:
                inputs = dropout(inputs, self.lstm.dropout, self.training)
            inputs, cell_RH = torch.lstm_cell(inputs, (carry["hidden"][:, layer], carry["cell"][:, layer]), *weights)
            hidden.append(inputs)
            cell.append(cell_RH)
        return inputs, {"hidden": torch.stack(hidden, dim=1), "cell": torch.stack(cell, dim=1)}
