"""What every decoder family offers: `forward` to train with, `start` and `step` to search with.

Shapes: N images, R rows (an image's hypotheses lie next to each other), T tokens, V words, D features,
P places of a grid.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]

PADDING = 0
"""The id of padding, `captionkit.vocabulary.PAD`: this floor knows ids, but no words."""

FARTHEST = 8.0
"""Standard deviations from the mean at which standardised features are cut off."""

_COUNTS = ("layers", "length", "positions")


@torch.no_grad()
def remember(gates: Tensor) -> None:
    """Let an LSTM begin by remembering: add 1 to the bias (4 × hidden_size,) of its forget gate.

    With PyTorch's 0 it begins by halving its cell at every step (Jozefowicz et al. 2015,
    http://proceedings.mlr.press/v37/jozefowicz15.html).
    """
    hidden_size = len(gates) // 4
    gates[hidden_size : 2 * hidden_size] += 1


class State(NamedTuple):
    """Where the rows of a search stand. The first axis of every tensor is the row.

    carry: what a step changes and the next one needs: hidden and cell state, a mask of words said, a
        position. Search reorders it after every step, as hypotheses overtake each other.
    memory: what stays the same for an image: projected features, or all logits of a one-shot decoder.
        Search repeats it for the hypotheses of an image and never reorders it: large tensors belong here.
    """

    carry: Tensors
    memory: Tensors


class Decoder(nn.Module, ABC):
    """Turns an image's features into words, one after another.

    A family is one file with a subclass that sets `name` and `wants`, and has an entry in `DECODERS`. It
    passes its constructor's arguments on to `Decoder.__init__`, which keeps them as `config`;
    `DECODERS[name](**config)` builds its like. Teacher forcing and stepping must agree:
    `forward(features, tokens)[:, t]` is what `step` gives after `tokens[:, :t + 1]`. A row's result must not
    depend on the rows beside it.
    """

    name: ClassVar[str]
    """The family's name in `DECODERS` and in bundles."""
    wants: ClassVar[Literal["pooled", "grid"]]
    """The features it reads: "pooled" (N, D), or "grid" (N, P, D)."""
    max_steps: int | None = None
    """The most steps it can take after `start`; None where there is no end (a one-shot decoder has one)."""
    predicts_padding: ClassVar[bool] = False
    """Whether "no word" after a caption's end is a thing it has to learn, as it cannot know that it has ended.

    The loss then counts every position: those after the end marker have the end marker as their target, not padding.
    That a place is the end or lies behind it is one event, whose probability ends hypotheses in a search.
    """
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, *, vocab_size: int, feature_size: int, **config: Any) -> None:
        """Remember the constructor's arguments. Raises ValueError for sizes below 1 and a dropout outside [0, 1)."""
        super().__init__()
        self.vocab_size = vocab_size
        self.feature_size = feature_size
        self.config: dict[str, Any] = {"vocab_size": vocab_size, "feature_size": feature_size, **config}
        for key, value in self.config.items():
            if (key.endswith("_size") or key in _COUNTS) and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{self.name}: {key} must be a whole number of at least 1, not {value!r}")
            if key == "dropout" and not 0 <= value < 1:
                raise ValueError(f"{self.name}: dropout must be at least 0 and below 1, not {value!r}")

        # Beside the weights, in checkpoints and bundles: they belong to the encoder the decoder was trained with.
        self.register_buffer("feature_mean", torch.zeros(feature_size))
        self.register_buffer("feature_scale", torch.ones(feature_size))

    @torch.no_grad()
    def set_feature_statistics(self, features: Tensor) -> None:
        """Have features brought to mean 0 and variance 1, value by value, before anything reads them.

        Encoders' magnitudes differ a hundredfold, and what all images have in common drowns what tells them apart.
        Unlike a batch norm on the image (which the PyTorch tutorial of Show and Tell has), it knows no batches, so any
        number of workers learns the same.

        Args:
            features: (N, …, D) of images as they come in training; some thousand are enough.
        """
        found = features.float().flatten(0, -2)
        spread = found.std(dim=0, correction=0)
        self.feature_mean.copy_(found.mean(dim=0))
        # A value that hardly varies is not blown up.
        self.feature_scale.copy_(1 / (spread + 0.01 * spread.mean()).clamp(min=1e-4))

    def standardised(self, features: Tensor) -> Tensor:
        """Features (…, D) as `set_feature_statistics` wants them; unchanged where it was never called.

        Rectified features have long tails (some of SqueezeNet's lie 50 standard deviations out), which are cut off.
        """
        farthest = torch.where((self.feature_scale == 1).all(), torch.inf, FARTHEST)
        return ((features - self.feature_mean) * self.feature_scale).clamp(-farthest, farthest)

    def _embedding(self, embed_size: int, frozen: bool) -> nn.Embedding:
        """What a family that reads words calls `self.words`."""
        words = nn.Embedding(self.vocab_size, embed_size)
        # PyTorch's N(0, 1) would drown the image's vector; the code of Show and Tell draws from ±0.08.
        nn.init.uniform_(words.weight, -0.08, 0.08)
        words.weight.requires_grad_(not frozen)
        return words

    @torch.no_grad()
    def set_embeddings(self, vectors: Tensor, *, frozen: bool) -> None:
        """Begin with given word vectors (V, embed_size), GloVe's for example, copied into the decoder's dtype.

        Args:
            frozen: keep them as they are in training, those of the markers too; a bundle remembers it.

        Raises:
            ValueError: vectors of another shape, or a decoder that reads no words.
        """
        words = getattr(self, "words", None)
        if not isinstance(words, nn.Embedding):
            raise ValueError(f"{self.name} reads no words, and so takes no word vectors")
        if vectors.shape != words.weight.shape:
            wanted = f"{tuple(words.weight.shape)} (words, embed_size)"
            raise ValueError(f"{self.name}: word vectors are {wanted}, not {tuple(vectors.shape)}")
        words.weight.copy_(vectors)
        words.weight.requires_grad_(not frozen)
        self.config["frozen_words"] = frozen

    @abstractmethod
    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: features (N, D) or (N, P, D), tokens (N, T) beginning with the start marker.

        Returns logits (N, T, V); `logits[:, t]` predicts the token after `tokens[:, t]`.
        """

    @abstractmethod
    def start(self, features: Tensor) -> State:
        """The state of N rows that have read the image and no token yet."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token per row, (R,) int64, the start marker first; return logits (R, V) and the new state.

        Neither the state given nor its tensors are changed, and the same `memory` is handed on. Logits may be
        -inf for words that cannot come, but not for all of them.
        """
