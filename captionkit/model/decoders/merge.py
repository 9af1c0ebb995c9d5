"""Merge: an LSTM reads the words alone, and the image joins just before the output (Tanti et al. 2018, 1703.09137).

The sizes are those of the Keras tutorial, which reads Inception v3's 2048 values and GloVe's 200.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from captionkit.model.decoders.base import Decoder, State, remember


class Merge(Decoder):
    """The image's vector and the LSTM's are added; a layer of its own turns the sum into logits.

    Args:
        vocab_size: number of words, the special ones included.
        feature_size: length of an image's feature vector.
        embed_size: length of a word's vector.
        hidden_size: length of the LSTM's state, and of the image as it is added.
        dropout: share of the image's features and of the words' vectors dropped while training.
        frozen_words: keep the word vectors as they are in training (see `set_embeddings`).

    Raises:
        ValueError: a size below 1, or a dropout outside [0, 1).
    """

    name: ClassVar[str] = "merge"
    wants: ClassVar[Literal["pooled", "grid"]] = "pooled"

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        embed_size: int = 200,
        hidden_size: int = 256,
        dropout: float = 0.5,
        frozen_words: bool = False,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            feature_size=feature_size,
            embed_size=embed_size,
            hidden_size=hidden_size,
            dropout=dropout,
            frozen_words=frozen_words,
        )
        self.image = nn.Linear(feature_size, hidden_size)
        self.words = self._embedding(embed_size, frozen_words)
        self.lstm = nn.LSTM(embed_size, hidden_size, batch_first=True)
        remember(self.lstm.all_weights[0][2])
        self.merged = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features (N, D), tokens (N, T) → logits (N, T, V)."""
        said, _ = self.lstm(self.dropout(self.words(tokens)))
        return self._say(self._see(features).unsqueeze(1), said)

    def start(self, features: Tensor) -> State:
        """Carry: "hidden" and "cell", both 0; memory: "image", as it is added. Each is (N, hidden_size)."""
        image = self._see(features)
        zeros = torch.zeros_like(image)
        return State({"hidden": zeros, "cell": zeros}, {"image": image})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Tokens (R,) → logits (R, V)."""
        before = (state.carry["hidden"], state.carry["cell"])
        # Calls the cell: `nn.LSTM` costs more per call than one step takes.
        hidden, cell = torch.lstm_cell(self.dropout(self.words(tokens)), before, *self.lstm.all_weights[0])
        return self._say(state.memory["image"], hidden), State({"hidden": hidden, "cell": cell}, state.memory)

    def _see(self, features: Tensor) -> Tensor:
        return torch.relu(self.image(self.dropout(self.standardised(features))))

    def _say(self, image: Tensor, said: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.relu(self.merged(image + said)))
        return logits
