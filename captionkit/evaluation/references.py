"""The reference captions of an evaluation, and the training captions that novelty is measured against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from captionkit.corpus import read_corpus
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.evaluation.options import JudgedCorpusOptions
from captionkit.metrics import caption_set
from captionkit.storage import Storage


@dataclass(frozen=True)
class ReferenceSet:
    """The images to evaluate, with their reference captions."""

    references: dict[str, tuple[str, ...]]
    """Reference captions by image address, in the corpus' order."""
    training_captions: frozenset[str] | None
    """Training captions, as `captionkit.metrics.measure_usage` takes them; None if the corpus has none."""
    report: str = ""
    """The corpus reader's report, for users."""
    keys: dict[str, str] = field(default_factory=dict)
    """The corpus' own name of each image (COCO's id, say), by address."""


def read_references(options: JudgedCorpusOptions, storage: Storage) -> ReferenceSet:
    """The images of the evaluated split, from one reading of the corpus.

    Raises:
        CorpusError: the corpus cannot be read as a whole.
        UsageError: none of its images is in the split.
        StorageError: storage cannot be read.
    """
    splits = {options.split: options.split_list} if options.split_list else None
    corpus = read_corpus(options.corpus, options.images or None, format=options.format, splits=splits, storage=storage)
    references: dict[str, tuple[str, ...]] = {}
    keys: dict[str, str] = {}
    training: list[str] = []
    splits_found: Counter[str] = Counter()
    for image in corpus:
        splits_found[image.split or "none"] += 1
        if options.split in ("all", image.split):
            references[image.image] = image.captions
            keys[image.image] = image.key
        elif image.split == options.train_split:
            training += image.captions
    if not references:
        counts = ", ".join(f"{name} ({counted(count, 'image')})" for name, count in splits_found.most_common())
        raise UsageError(f"--split {options.split}: the corpus has {counts}. `--split all` takes every image.")
    pairs = islice(references.items(), options.limit)
    return make_reference_set(pairs, training or None, str(corpus.report), keys)


def make_reference_set(
    pairs: Iterable[tuple[str, tuple[str, ...]]],
    training: Iterable[str] | None = None,
    report: str = "",
    keys: dict[str, str] | None = None,
) -> ReferenceSet:
    """A reference set from pairs of an image's address and its reference captions.

    Args:
        training: the training captions, if known.
        report: as of `ReferenceSet`.
        keys: as of `ReferenceSet`.
    """
    return ReferenceSet(dict(pairs), None if training is None else caption_set(training), report, keys or {})
