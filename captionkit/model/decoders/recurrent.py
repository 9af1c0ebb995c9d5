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
def init_forget_gate_bias(bias_G: Tensor, hidden_size: int | None = None) -> None:
    """Add 1 to the part of an LSTM's bias that belongs to the forget gate, so that at first the cell is kept.

    With PyTorch's 0 it is halved at every step (Jozefowicz et al. 2015,
    http://proceedings.mlr.press/v37/jozefowicz15.html).

    Args:
        hidden_size: H, where G is not 4 × H.
    """
    hidden_size = hidden_size or len(bias_G) // 4
    bias_G[hidden_size : 2 * hidden_size] += 1


def make_lstm(input_size: int, hidden_size: int, layers: int = 1, dropout: float = 0.0) -> nn.LSTM:
    """An LSTM over (N, T, input_size) with `init_forget_gate_bias`, and dropout between its layers."""
    lstm = nn.LSTM(input_size, hidden_size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
    for _, _, bias_G, _ in lstm.all_weights:
        init_forget_gate_bias(bias_G)
    return lstm


def lstm_cell(gates_RG: Tensor, cell_RH: Tensor) -> tuple[Tensor, Tensor]:
    """An LSTM's new hidden and cell state (R, H), from the sum of all inputs of its gates.

    Of five parts, G = 5 × H, the two in the middle are candidates, of which the larger one counts, without a hyperbolic
    tangent: maxout (Goodfellow et al. 2013, arXiv:1302.4389), as in the captioners of Rennie et al. 2017,
    arXiv:1612.00563.
    """
    input_RH, forget_RH, *candidates, output_RH = gates_RG.chunk(gates_RG.shape[1] // cell_RH.shape[1], dim=1)
    candidate_RH = torch.maximum(*candidates) if len(candidates) == 2 else torch.tanh(candidates[0])
    cell_RH = torch.sigmoid(forget_RH) * cell_RH + torch.sigmoid(input_RH) * candidate_RH
    return torch.sigmoid(output_RH) * torch.tanh(cell_RH), cell_RH


class MaxoutLSTM(nn.Module):
    """An LSTM of one layer with two candidates, of which the larger one counts (see `lstm_cell`)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(input_size, 5 * hidden_size)
        self.from_state = nn.Linear(hidden_size, 5 * hidden_size, bias=False)
        init_forget_gate_bias(self.from_input.bias, hidden_size)

    def forward(self, inputs_RE: Tensor, hidden_RH: Tensor, cell_RH: Tensor) -> tuple[Tensor, Tensor]:
        """One step: the new hidden and cell state."""
        return lstm_cell(self.from_input(inputs_RE) + self.from_state(hidden_RH), cell_RH)
