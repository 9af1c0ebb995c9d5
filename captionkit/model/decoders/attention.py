"""What the families that look at a grid have in common: the way through the words, the attention, the maps."""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from captionkit.model.decoders.base import Decoder, State, Tensors


class AttentionDecoder(Decoder):
    """A decoder that looks at the places of a grid anew for every word, and can say where it looked.

    A family has `words`, `dropout`, `start` and the three steps below; `forward` and `step` follow, and agree.
    """

    wants: ClassVar[Literal["pooled", "grid"]] = "grid"
    words: nn.Embedding
    dropout: nn.Dropout

    @abstractmethod
    def read(self, embedded: Tensor) -> Tensor:
        """What words (…, embed_size) give to the recurrence, for all time steps at once: (…, any)."""

    @abstractmethod
    def advance(self, read: Tensor, state: State) -> tuple[Tensor, Tensor, Tensors]:
        """One step of the recurrence, on what was read (R, any): outputs (R, any), attention (R, P), the new carry."""

    @abstractmethod
    def say(self, outputs: Tensor, embedded: Tensor) -> Tensor:
        """Logits (…, V) from the outputs (…, any) and the words (…, embed_size) that led to them."""

    def attend(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing that also says where it looked.

        Args:
            features: (N, P, D).
            tokens: (N, T), beginning with the start marker.

        Returns:
            Logits (N, T, V), and attention (N, T, P), which adds up to 1 over the places. At [:, t] both are those
            of the word after `tokens[:, t]`.
        """
        state = self.start(features)
        embedded = self.dropout(self.words(tokens))
        outputs, attention = [], []
        for read in self.read(embedded).unbind(1):
            output, weights, carry = self.advance(read, state)
            state = State(carry, state.memory)
            outputs.append(output)
            attention.append(weights)
        return self.say(torch.stack(outputs, dim=1), embedded), torch.stack(attention, dim=1)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features (N, P, D), tokens (N, T) → logits (N, T, V)."""
        return self.attend(features, tokens)[0]

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Tokens (R,) → logits (R, V)."""
        embedded = self.dropout(self.words(tokens))
        output, _, carry = self.advance(self.read(embedded), state)
        return self.say(output, embedded), State(carry, state.memory)

    @torch.no_grad()
    def attention_maps(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Where it looked for each word of captions it has found, to be drawn over the images.

        Args:
            features: (N, P, D); places are row by row, as encoders give them.
            tokens: (N, T), the start marker and the caption's words.

        Returns:
            (N, T, P): at [:, t] for the word after `tokens[:, t]`; the last is for the end marker.
        """
        return self.attend(features, tokens)[1]


class AdditiveAttention(nn.Module):
    """A weight for each place from a small network of the place and a query (Bahdanau et al. 2014, arXiv:1409.0473).

    Args:
        feature_size: D, the length of a place's vector.
        query_size: H, the length of a query.
        attention_size: A, the length of both in the small network.
    """

    def __init__(self, feature_size: int, query_size: int, attention_size: int) -> None:
        super().__init__()
        self.keys = nn.Linear(feature_size, attention_size)
        self.query = nn.Linear(query_size, attention_size, bias=False)
        self.energy = nn.Linear(attention_size, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Query (R, H), keys (R, P, A) = `self.keys(grid)`, grid (R, P, D) → what is seen (R, D), weights (R, P)."""
        # In place: these are the largest tensors of a training step, and fetching memory for them takes its time.
        compared = (keys + self.query(query).unsqueeze(1)).tanh_()
        weights = torch.softmax(self.energy(compared).squeeze(2), dim=1)
        return torch.bmm(weights.unsqueeze(1), grid).squeeze(1), weights


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """An LSTM's new hidden and cell state (R, H), from the sum of all that goes into its gates (R, 4H)."""
    keep_new, keep_old, new, show = gates.chunk(4, dim=1)
    cell = torch.sigmoid(keep_old) * cell + torch.sigmoid(keep_new) * torch.tanh(new)
    return torch.sigmoid(show) * torch.tanh(cell), cell


def doubly_stochastic_loss(attention: Tensor, is_real: Tensor) -> Tensor:
    """How far the attention of a caption is from looking at every place once in all (Xu et al. 2015, equation 14).

    Args:
        attention: (N, T, P).
        is_real: (N, T), whether there is a word or an end marker to predict, or only padding.

    Returns:
        The mean over images and places of (1 - Σ_t attention)², to be added to the loss with a weight (theirs: 1).
    """
    looked = (attention * is_real.unsqueeze(2)).sum(dim=1, dtype=torch.float32)
    return (1 - looked).square().mean()
