"""What every decoder family offers: `forward` to train with, `start` and `step` to search with.

The names of tensors end in the letters of their axes (Noam Shazeer's shape suffixes): `features_NPD` is (N, P, D).

    N  images                      D  values of a feature vector, `feature_size`
    R  rows of a search            P  places of a grid, in grid features only
    T  tokens of a caption         E  values of a word's vector, `embed_size`
    V  words of the vocabulary     H  values of an LSTM's hidden state, `hidden_size`
                                   G  values of an LSTM's four gates, 4 × H

Search has one row for each hypothesis; those of an image are neighbours. A family's file adds letters of its own.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from captionkit.model.decoders.dropout import Dropout
from captionkit.model.decoders.output import OutputLayer
from captionkit.model.tuning import EMBEDDING_RANGE, MAX_DEVIATIONS, MIN_RELATIVE_SPREAD, MIN_SPREAD

Tensors = dict[str, Tensor]
FeatureKind = Literal["pooled", "grid"]
"""Features are "pooled" (N, D), one vector for the image, or a "grid" (N, P, D), one vector for each place."""

PADDING = 0
"""The id of padding, equal to `captionkit.vocabulary.PAD`: decoders know ids, but do not import the vocabulary."""


class State(NamedTuple):
    """What a decoder remembers between two steps. The first axis of every tensor is the row."""

    carry: Tensors
    """What a step changes: hidden and cell states, a mask of the words used, a position. Search reorders it after
    every step, as it does the hypotheses."""
    memory: Tensors
    """What stays the same for an image: projected features, or all logits of a one-shot decoder. Search repeats it for
    the hypotheses of an image, but for what is in `Decoder.shared_memory`, and never reorders it, so large tensors
    belong here."""


class Decoder(nn.Module, ABC):
    """Predicts a caption's tokens from an image's features, one after another.

    A family is one file with a subclass that sets `name` and `Config`, and has an entry in `DECODERS`. It must keep
    two promises: teacher forcing and stepping agree, so that `forward(features, tokens)[:, t]` is what `step` gives
    after `tokens[:, : t + 1]`; and a row's result does not depend on the other rows.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What a decoder is built from. Bundles keep it as JSON, by `dataclasses.asdict`.

        Raises:
            ValueError: a size or count below 1, or a dropout outside [0, 1).
        """

        vocab_size: int
        """V, words of the vocabulary, the special ones included."""
        feature_size: int
        """D, length of a feature vector."""
        dropout: float = 0.5
        """Share of values that training sets to 0. The family says of which tensors."""

        def __post_init__(self) -> None:
            for field in fields(self):
                value = getattr(self, field.name)
                is_size = field.type in (int, "int") or (field.type == int | None and value is not None)
                if is_size and (not isinstance(value, int) or value < 1):
                    raise ValueError(f"{field.name} must be a whole number of at least 1, not {value!r}")
            if not 0 <= self.dropout < 1:
                raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}")

    name: ClassVar[str]
    """The family's name in `DECODERS` and in bundles."""
    feature_kind: ClassVar[FeatureKind] = "pooled"
    """The features it reads."""
    predicts_padding: ClassVar[bool] = False
    """Whether it must learn to predict "no word" after the end of a caption, since it cannot know that it has ended.

    The loss then counts every position: the target of those after the end marker is the end marker, not padding. In a
    search, the probability that a position is the end or lies behind it ends hypotheses.
    """
    shared_memory: ClassVar[frozenset[str]] = frozenset()
    """Names of the tensors in a state's memory that search need not repeat: `step` also takes them with one row for
    each image, whose hypotheses are neighbours and equally many. For large tensors that would be read once for each
    hypothesis."""
    config: Config
    max_steps: int | None = None
    """The most steps that it can take after `start`; None for no limit."""
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.feature_size = config.vocab_size, config.feature_size
        self.dropout = Dropout(config.dropout)
        # Buffers, so that checkpoints and bundles keep them: they belong to the encoder that training used.
        self.register_buffer("feature_mean", torch.zeros(config.feature_size))
        self.register_buffer("feature_scale", torch.ones(config.feature_size))

    @torch.no_grad()
    def set_feature_statistics(self, features: Tensor) -> None:
        """Make `standardize` bring each of the D values to mean 0 and variance 1.

        The magnitudes of encoders' features differ a hundredfold, and what all images share hides how they differ.
        Unlike a batch norm on the image (in the PyTorch tutorial of Show and Tell), the result does not depend on
        batches, so any number of workers learns the same.

        Args:
            features: (N, …, D), of training images; some thousand are enough.
        """
        flat = features.float().flatten(0, -2)
        spread_D = flat.std(dim=0, correction=0)
        self.feature_mean.copy_(flat.mean(dim=0))
        # The added spread keeps values that hardly vary small.
        self.feature_scale.copy_(1 / (spread_D + MIN_RELATIVE_SPREAD * spread_D.mean()).clamp(min=MIN_SPREAD))

    def to_dtype(self, dtype: torch.dtype) -> "Decoder":
        """Compute in another number format from now on, but for the output layers, which stay as they are."""
        kept = [(layer, layer.state_dict()) for layer in self.modules() if isinstance(layer, OutputLayer)]
        self.to(dtype)
        for layer, state in kept:
            layer.to(next(iter(state.values())).dtype).load_state_dict(state)
        return self

    def standardize(self, features: Tensor) -> Tensor:
        """Features (…, D) by the statistics of `set_feature_statistics`; unchanged where it was never called.

        Values are clipped at `MAX_DEVIATIONS`: after a ReLU features have long tails.
        """
        # Limits as long as a vector, which a CPU clips with in a quarter of the time that limits of one value take it;
        # in place, since a training step would write the largest of its tensors once more.
        limit_D = torch.full_like(self.feature_scale, MAX_DEVIATIONS)
        limit_D.masked_fill_((self.feature_scale == 1).all(), torch.inf)
        return (features - self.feature_mean).mul_(self.feature_scale).clamp_(-limit_D, limit_D)

    def project_image(self, layer: nn.Linear, features_ND: Tensor) -> Tensor:
        """A hidden layer over the features: dropout, `layer`, ReLU."""
        return torch.relu(layer(self.dropout(self.standardize(features_ND))))

    def make_embedding(self, size: int, *, frozen: bool = False) -> nn.Embedding:
        """A vector for each word, (V, size). PyTorch's N(0, 1) would outweigh the image."""
        embedding = nn.Embedding(self.vocab_size, size)
        nn.init.uniform_(embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        embedding.weight.requires_grad_(not frozen)
        return embedding

    def set_embeddings(self, vectors: Tensor, *, frozen: bool) -> None:
        """Begin with given word vectors, GloVe's for example.

        Args:
            vectors: (V, E), copied into the decoder's dtype.
            frozen: keep them in training as they are, those of the markers too. Kept in the config.

        Raises:
            ValueError: vectors of another shape, or a decoder that reads no words.
        """
        raise ValueError(f"{self.name} reads no words, and so takes no word vectors")

    @abstractmethod
    def forward(self, features: Tensor, tokens_NT: Tensor) -> Tensor:
        """Teacher forcing.

        Args:
            features: (N, D) or (N, P, D).
            tokens_NT: int64, beginning with the start marker.

        Returns:
            Logits (N, T, V); those at [:, t] predict the token after `tokens_NT[:, t]`.
        """

    @abstractmethod
    def start(self, features: Tensor) -> State:
        """The state of N rows that have read the features, (N, D) or (N, P, D), and no token yet."""

    @abstractmethod
    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token for each row, int64, the start marker first.

        Returns:
            Logits (R, V), and the new state with the same `memory`. The state given and its tensors stay unchanged.
            Logits may be -inf for words that cannot come, but not for all of them.
        """
