"""Top-down attention: one LSTM looks, another speaks (Anderson et al. 2018, arXiv:1707.07998, section 3.2).

The strong one. It reads the places of any encoder's grid where the paper has an object detector's regions.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionkit.model.decoders.attention import AdditiveAttention, AttentionDecoder, lstm_cell
from captionkit.model.decoders.base import State, Tensors, remember


class TopDown(AttentionDecoder):
    """The attention LSTM reads word, mean place and what the language LSTM last said, and decides where to look; the
    language LSTM reads what is seen there.

    Unlike the paper's, words come from what is seen and the mean place too, not from the language LSTM alone (a deep
    output, as in Show, Attend and Tell, equation 7). Few images then teach it in half the time: through both LSTMs the
    image is heard late (docs/recipes/flickr8k.md).

    Args:
        vocab_size: number of words, the special ones included.
        feature_size: length of a place's feature vector.
        embed_size: length of a word's vector.
        hidden_size: length of each LSTM's state.
        attention_size: length of places and state as the attention compares them.
        dropout: share of words, of what is seen, of the mean place and of outputs dropped while training.
        tied: score the words by their own vectors (Press and Wolf 2017, arXiv:1608.05859).
        frozen_words: keep the word vectors as they are in training (see `set_embeddings`).

    Raises:
        ValueError: a size below 1, or a dropout outside [0, 1).
    """

    name: ClassVar[str] = "top_down"

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        embed_size: int = 512,
        hidden_size: int = 512,
        attention_size: int = 256,
        dropout: float = 0.5,
        tied: bool = False,
        frozen_words: bool = False,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            feature_size=feature_size,
            embed_size=embed_size,
            hidden_size=hidden_size,
            attention_size=attention_size,
            dropout=dropout,
            tied=tied,
            frozen_words=frozen_words,
        )
        self.words = self._embedding(embed_size, frozen_words)
        self.from_image = nn.Linear(feature_size, 4 * hidden_size)
        remember(self.from_image.bias)
        self.from_word = nn.Linear(embed_size, 4 * hidden_size, bias=False)
        self.from_states = nn.Linear(2 * hidden_size, 4 * hidden_size, bias=False)
        self.attention = AdditiveAttention(feature_size, hidden_size, attention_size)
        self.language = nn.Linear(feature_size + 2 * hidden_size, 4 * hidden_size)
        remember(self.language.bias)
        self.deep = nn.Linear(hidden_size + feature_size, hidden_size)
        self.deep_image = nn.Linear(feature_size, hidden_size, bias=False)
        # Tied, it is the output's weights that have no entry of their own: a bundle holds no tensor twice.
        self.output = nn.Linear(hidden_size, embed_size if tied else vocab_size)
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if tied else None
        self.dropout = nn.Dropout(dropout)

    def start(self, features: Tensor) -> State:
        """Carry: "states" (N, 2 × hidden_size), the hidden states of attention and language LSTM side by side, and
        the "attention_cell" and "language_cell" (N, hidden_size), all 0. Memory: "grid" (N, P, D), "keys" (N, P, A),
        and the mean place's share "image" (N, 4 × hidden_size) of the gates and "deep" (N, hidden_size) of the output.
        """
        grid = self.standardised(features)
        cell = grid.new_zeros(len(grid), self.config["hidden_size"])
        carry = {"states": torch.cat([cell, cell], dim=1), "attention_cell": cell, "language_cell": cell}
        mean = grid.mean(dim=1)
        image, deep = self.from_image(mean), self.deep_image(self.dropout(mean))
        return State(carry, {"grid": grid, "keys": self.attention.keys(grid), "image": image, "deep": deep})

    def read(self, embedded: Tensor) -> Tensor:
        """The words' share of the attention LSTM's gates."""
        gates: Tensor = self.from_word(embedded)
        return gates

    def advance(self, read: Tensor, state: State) -> tuple[Tensor, Tensor, Tensors]:
        """Outputs: the language LSTM's new hidden state, what is seen, "deep": (R, 2 × hidden_size + D)."""
        carry, memory = state
        gates = read + memory["image"] + self.from_states(carry["states"])
        looking, attention_cell = lstm_cell(gates, carry["attention_cell"])
        seen, weights = self.attention(looking, memory["keys"], memory["grid"])
        seen = self.dropout(seen)
        said = carry["states"][:, self.config["hidden_size"] :]
        gates = self.language(torch.cat([seen, looking, said], dim=1))
        saying, language_cell = lstm_cell(gates, carry["language_cell"])
        states = torch.cat([looking, saying], dim=1)
        outputs = torch.cat([saying, seen, memory["deep"]], dim=1)
        return outputs, weights, {"states": states, "attention_cell": attention_cell, "language_cell": language_cell}

    def say(self, outputs: Tensor, embedded: Tensor) -> Tensor:
        """Logits (…, V)."""
        image = self.deep.in_features
        hidden = torch.relu(self.deep(outputs[..., :image]) + outputs[..., image:])
        logits: Tensor = self.output(self.dropout(hidden))
        return functional.linear(logits, self.words.weight, self.bias) if self.config["tied"] else logits
