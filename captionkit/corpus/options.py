"""The options that every command with a corpus has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

CorpusFormat = Annotated[str, tyro.conf.arg(help="The corpus's format. Default: detected from its name and contents.")]
"""A key of `captionkit.corpus.READERS`, or "auto". A type of its own, since it is not the first option of its group."""


@dataclass(frozen=True)
class CorpusFiles:
    """Where the captions and their images are."""

    corpus: tuple[str, ...]
    """Addresses of the captions: Flickr token files, Kaggle's captions.txt or results.csv, COCO's or Karpathy's JSON,
    or your own CSV, TSV, JSON, JSON lines or Parquet with an address and a caption in each row."""
    images: tuple[str, ...] = ()
    """Where the images are: folders, patterns, brace ranges, tar shards; they are found by name. Default: beside the
    captions."""
