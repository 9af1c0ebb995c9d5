"""What families with attention over a grid have in common. Letters of shapes: see base.py, and here:

A  values of a key or query in the attention, `attention_size`
C  values of a place as the attention reads it, and of its context: `place_size`, or D
O  values that the family's recurrence gives to its output layers
b  hypotheses of an image
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captionkit.model.decoders.base import State, Tensors
from captionkit.model.decoders.recurrent import RecurrentDecoder
from captionkit.model.decoders.step_linear import StepLinear, one_sequence


class AttentionDecoder(RecurrentDecoder):
    """A decoder that attends to the places of a grid anew for every word.

    A family makes `from_word`, and has `start`, `attend_step` and `to_logits`; `forward` and `step` follow, and agree.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(RecurrentDecoder.Config):
        attention_size: int = 256
        """A, length of keys and queries."""
        place_size: int | None = None
        """C, values that a hidden layer with a ReLU makes of each place first; None: places stay as the encoder gives
        them."""

        @property
        def context_size(self) -> int:
            """C."""
            return self.place_size or self.feature_size

    config: Config
    feature_kind = "grid"
    shared_memory = frozenset({"grid", "keys"})
    from_word: nn.Linear
    """The words' part of the gates, E → G. It needs no state: `attend` computes it for all T words at once."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.words = self.make_embedding(config.embed_size, frozen=config.frozen_words)
        self.places = nn.Linear(config.feature_size, config.place_size) if config.place_size else None

    def project_places(self, grid_NPD: Tensor) -> Tensor:
        """The grid as attention reads it, (N, P, C), from the standardized one."""
        grid_NPC = grid_NPD if self.places is None else self.dropout(torch.relu(self.places(grid_NPD)))
        kind = grid_NPC.device.type
        # Once: autocast would convert the grid for every word anew.
        return grid_NPC.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else grid_NPC

    @abstractmethod
    def attend_step(self, gates_RG: Tensor, state: State) -> tuple[Tensor, Tensor, Tensors]:
        """One step of the recurrence.

        Args:
            gates_RG: the words' part of the gates.

        Returns:
            Outputs (R, O), attention weights (R, P), and the new carry.
        """

    @abstractmethod
    def to_logits(self, outputs: Tensor, words: Tensor) -> Tensor:
        """Logits (…, V) from outputs (…, O) and the vectors (…, E) of the words that led to them."""

    def attend(self, features_NPD: Tensor, tokens_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing that also returns the attention.

        Returns:
            Logits (N, T, V), and attention weights (N, T, P), which add up to 1 over the places. At [:, t] both belong
            to the prediction of the token after `tokens_NT[:, t]`.
        """
        state = self.start(features_NPD)
        words_NTE = self.dropout(self.words(tokens_NT))
        outputs, attention = [], []
        with one_sequence(self):
            for gates_NG in self.from_word(words_NTE).unbind(1):
                output_NO, weights_NP, carry = self.attend_step(gates_NG, state)
                state = State(carry, state.memory)
                outputs.append(output_NO)
                attention.append(weights_NP)
        return self.to_logits(torch.stack(outputs, dim=1), words_NTE), torch.stack(attention, dim=1)

    def forward(self, features_NPD: Tensor, tokens_NT: Tensor) -> Tensor:
        """See `Decoder.forward`."""
        return self.attend(features_NPD, tokens_NT)[0]

    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Decoder.step`."""
        words_RE = self.dropout(self.words(tokens_R))
        outputs_RO, _, carry = self.attend_step(self.from_word(words_RE), state)
        return self.to_logits(outputs_RO, words_RE), State(carry, state.memory)

    @torch.no_grad()
    def attention_maps(self, features_NPD: Tensor, tokens_NT: Tensor) -> Tensor:
        """Attention weights (N, T, P) for captions that were found, to be drawn over the images.

        Args:
            features_NPD: places row by row, as encoders give them.
            tokens_NT: the start marker and the caption's words; the last weights belong to the end marker.
        """
        return self.attend(features_NPD, tokens_NT)[1]


class AdditiveAttention(nn.Module):
    """Weights of places by a small network over place and query (Bahdanau et al. 2014, arXiv:1409.0473)."""

    def __init__(self, config: AttentionDecoder.Config, *, relu: bool = False) -> None:
        super().__init__()
        self.relu = relu
        self.keys = nn.Linear(config.context_size, config.attention_size)
        self.query = StepLinear(config.hidden_size, config.attention_size, bias=False)
        self.energy = nn.Linear(config.attention_size, 1, bias=False)

    def forward(self, query_RH: Tensor, keys_NPA: Tensor, grid_NPC: Tensor) -> tuple[Tensor, Tensor]:
        """The context (R, C), which is the weighted mean of the places, and the weights (R, P).

        The grid is read once for each image, whatever the number of its hypotheses.

        Args:
            query_RH: R is N or a multiple of it; those of an image are neighbours.
            keys_NPA: `self.keys(grid_NPC)`, the same for all steps.
        """
        images = len(keys_NPA)
        query_NbA = self.query(query_RH).view(images, len(query_RH) // max(1, images), keys_NPA.shape[2])
        # In place: this is the largest tensor of a training step, and allocating it takes time.
        hidden_NbPA = keys_NPA.unsqueeze(1) + query_NbA.unsqueeze(2)
        hidden_NbPA = hidden_NbPA.relu_() if self.relu else hidden_NbPA.tanh_()
        weights_NbP = torch.softmax(self.energy(hidden_NbPA).squeeze(3), dim=2)
        return torch.bmm(weights_NbP, grid_NPC).flatten(0, 1), weights_NbP.flatten(0, 1)
