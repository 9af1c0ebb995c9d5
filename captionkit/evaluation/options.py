"""Options of an evaluation. These dataclasses are the command line and the config file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from captionkit.config import as_tuple
from captionkit.corpus.options import CorpusFiles, CorpusFormat
from captionkit.errors import UsageError
from captionkit.metrics import METRICS
from captionkit.model.search.options import SearchOptions
from captionkit.storage.options import StorageOptions


@dataclass(frozen=True)
class JudgedCorpusOptions(CorpusFiles):
    """The images and their reference captions."""

    split: str = "test"
    """Split whose images are evaluated, or `all`."""
    split_list: str | None = None
    """A list of that split's images, one per line. Default: the corpus's own split, or Flickr8k's official lists."""
    train_split: str = "train"
    """Split of the training captions; captions that are not among these count as novel."""
    format: CorpusFormat = "auto"
    limit: int | None = None
    """Evaluate only this many images, the first of the split. CIDEr-D then has the document frequencies of these images
    alone."""


@dataclass(frozen=True)
class CandidateOptions:
    """The captions to evaluate."""

    model: tuple[str, ...] = ()
    """Address of a captioner bundle. Several, of one vocabulary, decode together: --model A --model B. Default: the
    embedded one, which knows drawn scenes and no photographs."""
    table: str | None = None
    """Address of a caption table to evaluate instead; rows are matched by address, else by file name. Or a results file
    in COCO's format, `[{"image_id": …, "caption": …}, …]`, with the corpus's ids."""
    beams: tuple[int, ...] = (1, 3, 5, 7, 10)
    """Beam widths to compare; 1 is greedy search."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network; `auto` is bfloat16 on devices with fast bfloat16, else float32."""
    batch_size: int = 64
    """Images per batch of the network."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_tuple(self.model))  # one can be given alone
        if not self.beams or min(self.beams) < 1 or len(set(self.beams)) < len(self.beams):
            raise UsageError(f"--beams must be different integers of at least 1, not {self.beams}")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, not {self.batch_size}")
        if self.model and self.table:
            raise UsageError("--model and --table exclude each other: evaluate one at a time")


@dataclass(frozen=True)
class ResultOptions:
    """Results."""

    output: str
    """Folder for score_card.md, score_card.json and page.html."""
    metrics: tuple[str, ...] = METRICS
    """Measures to compute."""
    acceptable: float = 0.75
    """A caption counts as acceptable whose CIDEr-D this share of people's captions reach, each measured against the
    others of its image."""
    judgements: tuple[str, ...] = ()
    """Flickr8k's ExpertAnnotations.txt or CrowdFlowerAnnotations.txt: a caption counts as acceptable by the CIDEr-D
    that agrees best with these judgements."""
    calibrate: str | None = None
    """Address of a folder for the captioner with a calibration by these images: its captions then have a confidence.
    The captioner's own folder will do. Give one beam width; dev images, not those of the test."""
    pictures: int = 24
    """Images of each kind on the page: best, worst and random."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise UsageError(f"--metrics: {', '.join(unknown) or 'none given'}; choose from {', '.join(METRICS)}")
        if not 0 < self.acceptable < 1:
            raise UsageError(f"--acceptable {self.acceptable}: a share between 0 and 1")
        if self.pictures < 0:
            raise UsageError(f"--pictures must be at least 0, not {self.pictures}")


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a captioner, or a caption table, against reference captions of the same images."""

    corpus: tyro.conf.OmitArgPrefixes[JudgedCorpusOptions]
    result: tyro.conf.OmitArgPrefixes[ResultOptions]
    candidates: tyro.conf.OmitArgPrefixes[CandidateOptions] = field(default_factory=CandidateOptions)
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)
    """How to search; `--beams` replaces `--beam`."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)
    config: str | None = None
    """Address of a YAML or JSON file of options, named as here. The command line takes precedence."""
