"""What a training job can be told. These dataclasses are the command line, the config file and the training record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from captionkit.model.search.options import SearchOptions
from captionkit.storage.options import StorageOptions

DecoderName = Literal["show_tell", "merge", "par_inject", "one_shot", "soft_attention", "top_down"]


@dataclass(frozen=True)
class CorpusOptions:
    """What to learn from."""

    corpus: tuple[str, ...]
    """Addresses of the captions: Flickr token files, Kaggle's captions.txt or results.csv, COCO's or Karpathy's JSON,
    or your own .csv, .jsonl or .parquet with an address and a caption in each row."""
    images: tuple[str, ...] = ()
    """Where the photos lie: folders, patterns, brace ranges, tar shards; found by name. By itself beside the
    captions."""
    train_list: str | None = None
    """A list of the training images, one a line. By itself what the corpus says, or Flickr8k's own lists beside it."""
    dev_list: str | None = None
    """The same for the images that choose the best checkpoint. Where nothing says which, one image in twenty of those
    to train on, chosen by a hash of its name."""
    format: str = "auto"
    """The corpus's format, where it should not be told from its name and contents."""
    min_count: int = 5
    """Words that come less often become `<unk>`."""
    max_words: int = 20
    """Longer captions are cut."""
    teacher: tuple[str, ...] = ()
    """Caption tables of the training images, made with `--beam 10 --n-best 10`: their captions are learnt in the place
    of people's, by which CIDEr is measured all the same (Kim and Rush 2016)."""
    teacher_captions: int = 2
    """Of each image so many of the tables' captions, those that agree best with people's."""
    glove: str | None = None
    """Address of a GloVe text file; the decoder's word vectors start from it."""


@dataclass(frozen=True)
class NetworkOptions:
    """What is trained."""

    decoder: DecoderName = "top_down"
    """The family: show_tell, merge, par_inject, one_shot, soft_attention, top_down."""
    decoder_options: dict[str, float] = field(default_factory=dict)
    """Arguments of the decoder other than its defaults, as in `hidden_size 512 dropout 0.5`."""
    encoder: str = "resnet50"
    """The convolutional network, by torchvision's name."""
    encoder_weights: str = "pretrained"
    """`pretrained` (torchvision's, downloaded), `none`, or the address of a state dict (.pth, .safetensors)."""
    image_size: int | None = None
    """Side of the images as the encoder sees them, other than its own."""
    whole_image: bool = False
    """Show the encoder the whole image, squashed to a square, where its own preprocessing would cut the edges off."""
    grid: int | None = None
    """Places a side that the encoder's grid is averaged to, for decoders that attend: fewer learn faster."""
    frozen_words: bool = False
    """Keep the word vectors of --glove as they are."""
    init: str | None = None
    """Start from the captioner in this bundle: its encoder, decoder and vocabulary take the place of those above."""


@dataclass(frozen=True)
class StepOptions:
    """How it is trained."""

    epochs: float = 15.0
    """Times that every training caption is seen."""
    batch_size: int = 64
    """Captions of a step, of all workers together."""
    accumulate: int = 1
    """Parts in which each worker goes through its share of a batch, for networks that do not fit otherwise."""
    learning_rate: float = 1e-3
    """Its highest value."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls after the warm-up."""
    warmup: float = 0.05
    """Share of the steps in which it rises from 0."""
    weight_decay: float = 0.01
    """AdamW's, on weight matrices and kernels only."""
    clip: float = 5.0
    """Largest norm of the gradient."""
    average: float = 0.998
    """What is judged and kept is the moving average of the weights, with this decay a step (Polyak and Juditsky 1992);
    0 takes the weights as they are."""
    label_smoothing: float = 0.0
    """Probability given to all other words alike (Szegedy et al. 2016)."""
    scheduled_sampling: float = 0.0
    """Probability, reached at the end, with which the decoder reads its own last word instead of the true one (Bengio
    et al. 2015)."""
    attention_penalty: float = 1.0
    """Weight of the doubly stochastic loss (Xu et al. 2015), for decoders that attend."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` computes in bfloat16 (autocast) where the chip has it."""
    seed: int = 0
    """Of weights, order and dropout."""


@dataclass(frozen=True)
class ScstOptions:
    """Self-critical sequence training (Rennie et al. 2017), after the captions have been learnt."""

    scst_epochs: float = 0.0
    """Times that every training image is seen; 0 leaves it out."""
    scst_samples: int = 5
    """Captions drawn of each image; each one's baseline is the mean reward of the others (Luo 2020). With 1 it is the
    greedy caption's."""
    scst_batch: int = 32
    """Images of a step, of all workers together."""
    scst_rate: float = 5e-5
    """Learning rate."""


@dataclass(frozen=True)
class FinetuneOptions:
    """Training the encoder too, from pixels, after the decoder has learnt on its features."""

    finetune_epochs: float = 0.0
    """Times that every training image is seen, with all its captions; 0 leaves it out."""
    finetune_rate: float = 1e-5
    """The encoder's highest learning rate; the decoder's is `finetune_decoder_rate`."""
    finetune_decoder_rate: float = 1e-4
    finetune_layers: tuple[str, ...] = ()
    """Parts of the encoder to train, by torchvision's names (`layer3 layer4`); by itself all. The first ones, which see
    edges and colours, cost most and have least to learn."""
    finetune_batch: int = 16
    """Images of a step, of all workers together."""
    crop: float = 0.85
    """Augmentation: the smallest side of a random crop, as a share of the image's."""
    mirror: bool = False
    """Augmentation: mirror half of the images. Off, since captions speak of left and right."""


@dataclass(frozen=True)
class ValidateOptions:
    """How checkpoints are judged."""

    validate_every: float = 1.0
    """Epochs between two judgements on the dev images."""
    patience: int = 4
    """Stop after so many judgements without a better CIDEr."""
    keep: int = 2
    """Best checkpoints that are kept."""
    beam: int = 3
    """Width of the beam."""
    max_length: int = 20
    """Most words of a caption."""

    def search(self) -> SearchOptions:
        """The search that dev captions are made with."""
        return SearchOptions(beam=self.beam, max_length=self.max_length)


@dataclass(frozen=True)
class WorkerOptions:
    """Ray."""

    workers: int = 1
    """Training workers; each has a share of every batch."""
    gpus_per_worker: float | None = None
    """By itself 1 where the cluster has a GPU, else 0."""
    threads: int | None = None
    """CPU threads of each worker; by itself the cluster's cores divided by the workers."""
    max_failures: int = 3
    """Times that workers are started again from the last checkpoint after one died."""
    address: str | None = None
    """Ray cluster to join; by itself the one named by RAY_ADDRESS, else a Ray of its own for this run."""
    cache: str | None = None
    """Folder for features, to be shared by runs. By itself `features` in the output folder."""
    progress_seconds: float = 30.0
    """Seconds between two lines of progress."""


@dataclass(frozen=True)
class ResultOptions:
    """What is left behind."""

    output: str
    """Folder for checkpoints, learning curve and, in `bundle`, the captioner. The same command goes on where it was
    stopped."""
    neighbours: bool = False
    """Keep features and captions of the training images in the bundle, for `--consensus` of captioning and judging.
    The captions can be read from it: mind whose they are."""
    track: Literal["none", "mlflow", "wandb"] = "none"
    """Also send metrics to MLflow or Weights & Biases, where installed; TensorBoard files are always written."""


@dataclass(frozen=True)
class TrainOptions:
    """Train a captioner on a corpus of captioned images."""

    corpus: tyro.conf.OmitArgPrefixes[CorpusOptions]
    result: tyro.conf.OmitArgPrefixes[ResultOptions]
    network: tyro.conf.OmitArgPrefixes[NetworkOptions] = field(default_factory=NetworkOptions)
    steps: tyro.conf.OmitArgPrefixes[StepOptions] = field(default_factory=StepOptions)
    scst: tyro.conf.OmitArgPrefixes[ScstOptions] = field(default_factory=ScstOptions)
    finetune: tyro.conf.OmitArgPrefixes[FinetuneOptions] = field(default_factory=FinetuneOptions)
    validate: tyro.conf.OmitArgPrefixes[ValidateOptions] = field(default_factory=ValidateOptions)
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)
    cluster: tyro.conf.OmitArgPrefixes[WorkerOptions] = field(default_factory=WorkerOptions)
    config: str | None = None
    """Address of a YAML or JSON file of options, named as here; those given here come first."""
