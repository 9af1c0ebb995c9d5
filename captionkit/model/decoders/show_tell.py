"""Show and Tell: the image is the first word an LSTM reads (Vinyals et al. 2015, arXiv:1411.4555)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionkit.model.decoders.base import Decoder, State, Tensors, remember


class ShowTell(Decoder):
    """An LSTM that reads the embedded image once, then the start marker and the words.

    Args:
        vocab_size: number of words, the special ones included.
        feature_size: length of an image's feature vector.
        embed_size: length of a word's vector, and of the image's as the LSTM reads it.
        hidden_size: length of the LSTM's state.
        layers: LSTMs on top of each other.
        dropout: share of values dropped before, between and after the LSTMs while training.
        frozen_words: keep the word vectors as they are in training (see `set_embeddings`).

    Raises:
        ValueError: a size below 1, or a dropout outside [0, 1).
    """

    name: ClassVar[str] = "show_tell"
    wants: ClassVar[Literal["pooled", "grid"]] = "pooled"

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        embed_size: int = 512,
        hidden_size: int = 512,
        layers: int = 1,
        dropout: float = 0.5,
        frozen_words: bool = False,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            feature_size=feature_size,
            embed_size=embed_size,
            hidden_size=hidden_size,
            layers=layers,
            dropout=dropout,
            frozen_words=frozen_words,
        )
        self.image = nn.Linear(feature_size, embed_size)
        self.words = self._embedding(embed_size, frozen_words)
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(embed_size, hidden_size, layers, batch_first=True, dropout=between)
        for _, _, bias, _ in self.lstm.all_weights:
            remember(bias)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features (N, D), tokens (N, T) → logits (N, T, V)."""
        inputs = torch.cat([self.image(self.standardised(features)).unsqueeze(1), self.words(tokens)], dim=1)
        hidden, _ = self.lstm(self.dropout(inputs))
        logits: Tensor = self.output(self.dropout(hidden[:, 1:]))
        return logits

    def start(self, features: Tensor) -> State:
        """Carry: "hidden" and "cell", each (N, layers, hidden_size). Nothing is kept of the image itself."""
        zeros = features.new_zeros(len(features), self.lstm.num_layers, self.lstm.hidden_size)
        _, carry = self._advance(
            self.dropout(self.image(self.standardised(features))), {"hidden": zeros, "cell": zeros}
        )
        return State(carry, {})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Tokens (R,) → logits (R, V)."""
        top, carry = self._advance(self.dropout(self.words(tokens)), state.carry)
        return self.output(self.dropout(top)), State(carry, state.memory)

    def _advance(self, inputs: Tensor, carry: Tensors) -> tuple[Tensor, Tensors]:
        """One step of all layers. Calls the cell: `nn.LSTM` costs more per call than one step takes."""
        hidden, cell = [], []
        for layer, weights in enumerate(self.lstm.all_weights):
            state = (carry["hidden"][:, layer], carry["cell"][:, layer])
            h, c = torch.lstm_cell(inputs, state, *weights)
            hidden.append(h)
            cell.append(c)
            last = layer == self.lstm.num_layers - 1
            inputs = h if last else functional.dropout(h, self.lstm.dropout, self.training)
        return inputs, {"hidden": torch.stack(hidden, dim=1), "cell": torch.stack(cell, dim=1)}
