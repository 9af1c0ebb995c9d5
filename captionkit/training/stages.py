"""The stages of a training, and what a worker gets to train one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from captionkit.model.decoders import Decoder, build_decoder
from captionkit.model.search.options import SearchOptions
from captionkit.training.batches import BatchOrder, Examples
from captionkit.training.features import EncoderSpec
from captionkit.training.options import TrainOptions
from captionkit.vocabulary import Vocabulary

StageName = Literal["captions", "finetune", "scst"]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder's family and arguments, as they are sent to workers."""

    name: str
    config: dict[str, Any]

    @classmethod
    def of(cls, decoder: Decoder) -> DecoderSpec:
        return cls(decoder.name, asdict(decoder.config))

    def build(self) -> Decoder:
        return build_decoder(self.name, self.config)


@dataclass(frozen=True)
class Stage:
    """One stage: its loss (by name), length, batch size and learning rates."""

    name: StageName
    epochs: float
    batch_size: int
    """Captions per step, over all workers; images if `by_image`."""
    rate: float
    """Highest learning rate of the decoder."""
    encoder_rate: float = 0.0
    """Highest learning rate of the encoder."""
    accumulate: int = 1
    """Parts of a worker's share of a batch, for gradient accumulation."""

    @property
    def by_image(self) -> bool:
        """Whether a batch consists of images with all their captions: where an image costs more than a caption."""
        return self.name != "captions"

    def order(self, train: Examples, seed: int) -> BatchOrder:
        """The order of the training captions, or of the training images if `by_image`."""
        if self.by_image:
            return BatchOrder(len(train.images), self.batch_size, seed)
        return BatchOrder(len(train), self.batch_size, seed, train.lengths(np.arange(len(train))))


@dataclass(frozen=True)
class WorkerTask:
    """Everything that a worker needs for a stage, except the features, which it reads from their files."""

    options: TrainOptions
    stage: Stage
    train: Examples
    dev: Examples
    vocabulary: Vocabulary
    decoder: DecoderSpec
    encoder: EncoderSpec | None
    """None unless the encoder is trained too; then the features are pixels."""
    weights: Weights
    """The decoder's weights at the start of the stage."""
    files: tuple[str, ...]
    """Addresses of the features table's files."""
    rows: int
    """Rows of the features table, failed ones included."""
    shape: tuple[int, ...]
    """Shape of one image's features or pixels."""
    dtype: str
    """Their dtype, as NumPy names it."""
    cache: str
    """Name of the feature cache's folder on each machine."""
    threads: int
    """CPU threads of each worker."""

    @property
    def search(self) -> SearchOptions:
        return self.options.validate.search()


def make_stages(options: TrainOptions) -> list[Stage]:
    """The stages with at least a part of an epoch, in order."""
    steps, finetune, scst = options.steps, options.finetune, options.scst
    stages = [
        Stage("captions", steps.epochs, steps.batch_size, steps.learning_rate, accumulate=steps.accumulate),
        Stage(
            "finetune",
            finetune.finetune_epochs,
            finetune.finetune_batch,
            finetune.finetune_decoder_rate,
            finetune.finetune_rate,
            steps.accumulate,
        ),
        Stage("scst", scst.scst_epochs, scst.scst_batch, scst.scst_rate),
    ]
    return [stage for stage in stages if stage.epochs > 0]
