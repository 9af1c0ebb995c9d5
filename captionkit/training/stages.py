"""What a training worker is told: the stage, its data, and where it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from captionkit.model.decoders import Decoder, build_decoder
from captionkit.model.search.options import SearchOptions
from captionkit.training.batches import Examples, Order
from captionkit.training.features import EncoderSpec
from captionkit.training.options import TrainOptions
from captionkit.vocabulary import Vocabulary

StageName = Literal["captions", "finetune", "scst"]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder as it travels to workers."""

    name: str
    config: dict[str, Any]

    @classmethod
    def of(cls, decoder: Decoder) -> DecoderSpec:
        return cls(decoder.name, dict(decoder.config))

    def build(self) -> Decoder:
        return build_decoder(self.name, self.config)


@dataclass(frozen=True)
class Stage:
    """One stage of a training: what is learnt, for how long, how fast."""

    name: StageName
    epochs: float
    batch_size: int
    """Captions a step, of all workers; images where `by_image`."""
    rate: float
    encoder_rate: float = 0.0
    accumulate: int = 1

    @property
    def by_image(self) -> bool:
        """Whether a step is of images with all their captions: where an image costs more than a caption."""
        return self.name != "captions"

    def order(self, train: Examples, seed: int) -> Order:
        """Rows are captions, or images."""
        if self.by_image:
            return Order(len(train.images), self.batch_size, seed)
        return Order(len(train), self.batch_size, seed, train.lengths(np.arange(len(train))))


@dataclass(frozen=True)
class Work:
    """All that a worker needs, but for the features, which Ray Data brings."""

    options: TrainOptions
    stage: Stage
    train: Examples
    dev: Examples
    vocabulary: Vocabulary
    decoder: DecoderSpec
    encoder: EncoderSpec | None
    """Given where the encoder is trained along; features are pixels then."""
    weights: Weights
    """The decoder's, where the stage starts."""
    rows: int
    shape: tuple[int, ...]
    dtype: str
    cache: str
    """Name of the features' folder on each machine."""
    threads: int

    @property
    def search(self) -> SearchOptions:
        return self.options.validate.search()


def stages(options: TrainOptions) -> list[Stage]:
    """The stages asked for, in order."""
    found = [
        Stage(
            "captions",
            options.steps.epochs,
            options.steps.batch_size,
            options.steps.learning_rate,
            accumulate=options.steps.accumulate,
        ),
        Stage(
            "finetune",
            options.finetune.finetune_epochs,
            options.finetune.finetune_batch,
            options.finetune.finetune_decoder_rate,
            options.finetune.finetune_rate,
            options.steps.accumulate,
        ),
        Stage("scst", options.scst.scst_epochs, options.scst.scst_batch, options.scst.scst_rate),
    ]
    return [stage for stage in found if stage.epochs > 0]
