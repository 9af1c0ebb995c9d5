"""What families with LSTMs have in common. Letters of shapes: see base.py."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from captionkit.model.decoders.base import Decoder


class RecurrentDecoder(Decoder):
    """A decoder that reads words by their vectors, `words`, which the family makes."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Decoder.Config):
        embed_size: int = 512
        """E, length of a word's vector."""
        hidden_size: int = 512
        """H, length of the LSTM's hidden state."""
        frozen_words: bool = False
        """Keep the word vectors in training as they are (see `set_embeddings`)."""

    config: Config
    words: nn.Embedding

    @torch.no_grad()
    def set_embeddings(self, vectors: Tensor, *, frozen: bool) -> None:
        """See `Decoder.set_embeddings`."""
        weight_VE = self.words.weight
        if vectors.shape != weight_VE.shape:
            expected = f"{tuple(weight_VE.shape)} (words, embed_size)"
            raise ValueError(f"{self.name}: word vectors are {expected}, not {tuple(vectors.shape)}")
        weight_VE.copy_(vectors)
        weight_VE.requires_grad_(not frozen)
        self.config = replace(self.config, frozen_words=frozen)


@torch.no_grad()
def init_forget_gate_bias(bias_G: Tensor) -> None:
    """Add 1 to the part of an LSTM's bias that belongs to the forget gate, so that at first the cell is kept.

    With PyTorch's 0 it is halved at every step (Jozefowicz et al. 2015,
    http://proceedings.mlr.press/v37/jozefowicz15.html).
    """
    hidden_size = len(bias_G) // 4
    bias_G[hidden_size : 2 * hidden_size] += 1


def make_lstm(input_size: int, hidden_size: int, layers: int = 1, dropout: float = 0.0) -> nn.LSTM:
    """An LSTM over (N, T, input_size) with `init_forget_gate_bias`, and dropout between its layers."""
    lstm = nn.LSTM(input_size, hidden_size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
    for _, _, bias_G, _ in lstm.all_weights:
        init_forget_gate_bias(bias_G)
    return lstm


def lstm_cell(gates_RG: Tensor, cell_RH: Tensor) -> tuple[Tensor, Tensor]:
    """An LSTM's new hidden and cell state (R, H), from the sum of all inputs of its gates."""
    input_RH, forget_RH, candidate_RH, output_RH = gates_RG.chunk(4, dim=1)
    cell_RH = torch.sigmoid(forget_RH) * cell_RH + torch.sigmoid(input_RH) * torch.tanh(candidate_RH)
    return torch.sigmoid(output_RH) * torch.tanh(cell_RH), cell_RH
