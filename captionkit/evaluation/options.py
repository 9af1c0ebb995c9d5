"""What an evaluation can be told. These dataclasses are the command line and the config file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from captionkit.errors import UsageError
from captionkit.metrics import METRICS
from captionkit.model.search.options import SearchOptions
from captionkit.storage.options import StorageOptions


@dataclass(frozen=True)
class JudgedCorpusOptions:
    """What to judge by."""

    corpus: tuple[str, ...]
    """Addresses of the captions: Flickr token files, Kaggle's captions.txt or results.csv, COCO's or Karpathy's JSON,
    or your own CSV, TSV, JSON or Parquet with an address and a caption in each row."""
    images: tuple[str, ...] = ()
    """Where the photos lie: folders, patterns, tar shards; found by name. By itself beside the captions."""
    split: str = "test"
    """The images to judge: those of this split, or `all`."""
    split_list: str | None = None
    """A list of the images of that split, one a line. By itself what the corpus says, or Flickr8k's own lists."""
    train_split: str = "train"
    """Captions of this split count as known: others are novel."""
    format: str = "auto"
    """The corpus's format, where it should not be told from its name and contents."""
    limit: int | None = None
    """Judge the first so many images only. Document frequencies, and so CIDEr-D, are then of these alone."""


@dataclass(frozen=True)
class CandidateOptions:
    """What is judged."""

    model: str | None = None
    """Address of a captioner bundle. By itself the embedded one, which knows drawn scenes and no photographs."""
    table: str | None = None
    """Address of a caption table to judge instead: its rows are found by address, else by file name. Or a
    results file of COCO's form, `[{"image_id": …, "caption": …}, …]`, whose ids are the corpus's."""
    beams: tuple[int, ...] = (1, 3, 5, 7, 10)
    """Widths of the beam to compare; 1 is greedy."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network; `auto` is bfloat16 where the chip has it, float32 elsewhere."""
    batch_size: int = 64
    """Images that the network looks at together."""

    def __post_init__(self) -> None:
        if not self.beams or min(self.beams) < 1 or len(set(self.beams)) < len(self.beams):
            raise UsageError(f"--beams are different whole numbers of at least 1, not {self.beams}")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size is at least 1, not {self.batch_size}")
        if self.model and self.table:
            raise UsageError("--model and --table: judge one of them at a time")


@dataclass(frozen=True)
class ResultOptions:
    """What comes out."""

    output: str
    """Folder for score_card.md, score_card.json and page.html."""
    metrics: tuple[str, ...] = METRICS
    """Measures to compute."""
    pictures: int = 24
    """Pictures of each kind on the page: best, worst and random."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise UsageError(f"--metrics: {', '.join(unknown) or 'none'}; there are {', '.join(METRICS)}")
        if self.pictures < 0:
            raise UsageError(f"--pictures is at least 0, not {self.pictures}")


@dataclass(frozen=True)
class EvaluateOptions:
    """Judge a captioner, or a caption table, by what people said of the same images."""

    corpus: tyro.conf.OmitArgPrefixes[JudgedCorpusOptions]
    result: tyro.conf.OmitArgPrefixes[ResultOptions]
    candidates: tyro.conf.OmitArgPrefixes[CandidateOptions] = field(default_factory=CandidateOptions)
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)
    """How to search; `--beams` takes the place of `--beam`."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)
    config: str | None = None
    """Address of a YAML or JSON file of options, named as here; those given here come first."""
