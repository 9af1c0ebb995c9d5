"""What people said: the images to judge with their captions, and the captions that a captioner has learnt from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

from captionkit.corpus import read_corpus
from captionkit.errors import UsageError
from captionkit.evaluation.options import JudgedCorpusOptions
from captionkit.metrics import known_captions
from captionkit.storage import Storage


@dataclass(frozen=True)
class Judged:
    """The images to judge."""

    references: dict[str, tuple[str, ...]]
    """Captions by image address, in the corpus' order."""
    known: frozenset[str] | None
    """Training captions, for `captionkit.metrics.measure_usage`; None where the corpus has none."""
    report: str = ""
    """What the reader met, for people."""
    keys: dict[str, str] = field(default_factory=dict)
    """What the corpus calls an image (COCO's id, say), by address."""


def read_references(options: JudgedCorpusOptions, storage: Storage) -> Judged:
    """Read a corpus once.

    Raises:
        CorpusError: it cannot be understood.
        UsageError: none of its images is in the split.
        StorageError: storage that cannot be read.
    """
    splits = {options.split: options.split_list} if options.split_list else None
    corpus = read_corpus(options.corpus, options.images or None, format=options.format, splits=splits, storage=storage)
    found: dict[str, tuple[str, ...]] = {}
    keys: dict[str, str] = {}
    training: list[str] = []
    met: Counter[str] = Counter()
    for record in corpus:
        met[record.split or "none"] += 1
        if options.split in ("all", record.split):
            found[record.image] = record.captions
            keys[record.image] = record.key
        elif record.split == options.train_split:
            training += record.captions
    if not found:
        there = ", ".join(f"{name} ({count:,} images)" for name, count in met.most_common())
        raise UsageError(f"--split {options.split}: the corpus has {there}. `--split all` takes every image.")
    whole = judged(islice(found.items(), options.limit), training or None, str(corpus.report))
    return replace(whole, keys=keys)


def judged(
    pairs: Iterable[tuple[str, tuple[str, ...]]], training: Iterable[str] | None = None, report: str = ""
) -> Judged:
    """The same from pairs of an image's address and its captions."""
    return Judged(dict(pairs), None if training is None else known_captions(training), report)
