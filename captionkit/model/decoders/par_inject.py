"""Par-inject: the LSTM reads the image beside every word (Tanti et al. 2018, 1703.09137), with position and mask.

Beside image and word it reads an embedded position, and a mask of the words already said, so that it does not go
round in circles. All that depends on the words given and not on the LSTM, so teacher forcing is one call of `nn.LSTM`.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionkit.model.decoders.base import PADDING, Decoder, State, remember


class ParInject(Decoder):
    """An LSTM over [image, word, position, words said], then dropout, batch norm and the output layer.

    Args:
        vocab_size: number of words, the special ones included.
        feature_size: length of an image's feature vector; made for the 4096 of VGG16's FC-2.
        embed_size: length of a word's vector.
        hidden_size: length of the LSTM's state, of the image as it reads it, and of the mask.
        position_size: length of a position's vector.
        positions: positions told apart; all later ones look like the last.
        dropout: share of the image's features, the words' vectors and the LSTM's outputs dropped while training.
        frozen_words: keep the word vectors as they are in training (see `set_embeddings`).

    Raises:
        ValueError: a size below 1, or a dropout outside [0, 1).
    """

    name: ClassVar[str] = "par_inject"
    wants: ClassVar[Literal["pooled", "grid"]] = "pooled"

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        embed_size: int = 256,
        hidden_size: int = 256,
        position_size: int = 32,
        positions: int = 40,
        dropout: float = 0.5,
        frozen_words: bool = False,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            feature_size=feature_size,
            embed_size=embed_size,
            hidden_size=hidden_size,
            position_size=position_size,
            positions=positions,
            dropout=dropout,
            frozen_words=frozen_words,
        )
        self.image = nn.Linear(feature_size, hidden_size)
        self.words = self._embedding(embed_size, frozen_words)
        self.positions = nn.Embedding(positions, position_size)
        # A linear layer over a mask (V) of ones and zeros is the sum of a row for each word said.
        self.mask = self._embedding(hidden_size, frozen=False)
        self.lstm = nn.LSTM(2 * hidden_size + embed_size + position_size, hidden_size, batch_first=True)
        remember(self.lstm.all_weights[0][2])
        self.norm = nn.BatchNorm1d(hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features (N, D), tokens (N, T) → logits (N, T, V).

        While training, the batch norm's statistics are those of all tokens but padding.
        """
        steps = tokens.shape[1]
        same = tokens.unsqueeze(2) == tokens.unsqueeze(1)
        is_new = ~same.tril(-1).any(dim=2, keepdim=True)
        masks = (self.mask(tokens) * is_new).cumsum(dim=1)
        image = self._see(features).unsqueeze(1).expand(-1, steps, -1)
        position = torch.arange(steps, device=tokens.device).expand_as(tokens)
        hidden, _ = self.lstm(torch.cat([image, *self._read(tokens, position), masks], dim=2))
        hidden = self.dropout(hidden)
        if self.training:
            is_real = tokens != PADDING
            # What stands at padding counts for nothing, but must not be infinite.
            hidden = torch.zeros_like(hidden).masked_scatter(is_real.unsqueeze(2), self.norm(hidden[is_real]))
        else:
            hidden = self._normalise(hidden)
        logits: Tensor = self.output(hidden)
        return logits

    def start(self, features: Tensor) -> State:
        """Memory: "image" (N, hidden_size). Carry: "hidden", "cell" and "mask" of the same shape, all 0; "said" (N, V),
        nothing yet; "position" (N,), 0.
        """
        image = self._see(features)
        zeros = torch.zeros_like(image)
        said = torch.zeros(len(image), self.vocab_size, dtype=torch.bool, device=image.device)
        position = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        carry = {"hidden": zeros, "cell": zeros, "mask": zeros, "said": said, "position": position}
        return State(carry, {"image": image})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Tokens (R,) → logits (R, V). Its batch norm uses the running statistics, whatever the mode."""
        carry, word = state.carry, tokens.unsqueeze(1)
        mask = carry["mask"] + self.mask(tokens) * ~carry["said"].gather(1, word)
        inputs = torch.cat([state.memory["image"], *self._read(tokens, carry["position"]), mask], dim=1)
        hidden, cell = torch.lstm_cell(inputs, (carry["hidden"], carry["cell"]), *self.lstm.all_weights[0])
        logits = self.output(self._normalise(self.dropout(hidden)))
        said = carry["said"].scatter(1, word, True)
        after = {"hidden": hidden, "cell": cell, "mask": mask, "said": said, "position": carry["position"] + 1}
        return logits, State(after, state.memory)

    def _see(self, features: Tensor) -> Tensor:
        return torch.relu(self.image(self.dropout(self.standardised(features))))

    def _read(self, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        last = self.positions.num_embeddings - 1
        return self.dropout(self.words(tokens)), self.positions(position.clamp(max=last))

    def _normalise(self, hidden: Tensor) -> Tensor:
        """The batch norm by its running statistics, so that a row's result does not depend on its batch."""
        norm = self.norm
        shape = hidden.shape
        flat = hidden.reshape(-1, shape[-1])
        normed = functional.batch_norm(flat, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return normed.view(shape)
