"""Show, Attend and Tell, with soft attention (Xu et al. 2015, arXiv:1502.03044)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from captionkit.model.decoders.attention import AdditiveAttention, AttentionDecoder, lstm_cell
from captionkit.model.decoders.base import State, Tensors, remember


class SoftAttention(AttentionDecoder):
    """An LSTM that reads each word together with what it sees, having chosen where to look by its state before.

    Args:
        vocab_size: number of words, the special ones included.
        feature_size: length of a place's feature vector.
        embed_size: length of a word's vector.
        hidden_size: length of the LSTM's state.
        attention_size: length of places and state as the attention compares them.
        dropout: share of words, outputs and what is seen dropped while training.
        deep_output: logits from state, word and what is seen (the paper's equation 7), not from the state alone.
        frozen_words: keep the word vectors as they are in training (see `set_embeddings`).

    Raises:
        ValueError: a size below 1, or a dropout outside [0, 1).
    """

    name: ClassVar[str] = "soft_attention"

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        embed_size: int = 512,
        hidden_size: int = 512,
        attention_size: int = 256,
        dropout: float = 0.5,
        deep_output: bool = True,
        frozen_words: bool = False,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            feature_size=feature_size,
            embed_size=embed_size,
            hidden_size=hidden_size,
            attention_size=attention_size,
            dropout=dropout,
            deep_output=deep_output,
            frozen_words=frozen_words,
        )
        self.words = self._embedding(embed_size, frozen_words)
        self.begin = nn.Linear(feature_size, 2 * hidden_size)
        self.attention = AdditiveAttention(feature_size, hidden_size, attention_size)
        self.gate = nn.Linear(hidden_size, 1)
        self.from_word = nn.Linear(embed_size, 4 * hidden_size)
        remember(self.from_word.bias)
        self.from_state = nn.Linear(hidden_size + feature_size, 4 * hidden_size, bias=False)
        self.deep = nn.Linear(hidden_size + feature_size, embed_size) if deep_output else None
        self.output = nn.Linear(embed_size if deep_output else hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def start(self, features: Tensor) -> State:
        """Carry: "hidden", "cell" (N, hidden_size), of the mean place; memory: "grid" (N, P, D), "keys" (N, P, A)."""
        grid = self.standardised(features)
        hidden, cell = torch.tanh(self.begin(grid.mean(dim=1))).chunk(2, dim=1)
        return State({"hidden": hidden, "cell": cell}, {"grid": grid, "keys": self.attention.keys(grid)})

    def read(self, embedded: Tensor) -> Tensor:
        """The words' share of the gates."""
        gates: Tensor = self.from_word(embedded)
        return gates

    def advance(self, read: Tensor, state: State) -> tuple[Tensor, Tensor, Tensors]:
        """Outputs: the new hidden state, and what is seen beside it (R, hidden_size + D)."""
        hidden, cell = state.carry["hidden"], state.carry["cell"]
        seen, weights = self.attention(hidden, state.memory["keys"], state.memory["grid"])
        seen = torch.sigmoid(self.gate(hidden)) * seen
        hidden, cell = lstm_cell(read + self.from_state(torch.cat([hidden, seen], dim=1)), cell)
        return torch.cat([hidden, seen], dim=1), weights, {"hidden": hidden, "cell": cell}

    def say(self, outputs: Tensor, embedded: Tensor) -> Tensor:
        """Logits (…, V)."""
        if self.deep is None:
            outputs = outputs[..., : self.config["hidden_size"]]
        else:
            outputs = torch.tanh(embedded + self.deep(self.dropout(outputs)))
        logits: Tensor = self.output(self.dropout(outputs))
        return logits
