"""A corpus split into training and dev images, and its vocabulary."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from captionkit.corpus import read_corpus
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.storage import Storage, redact
from captionkit.training.batches import Examples
from captionkit.training.options import CorpusOptions
from captionkit.vocabulary import Vocabulary, tokenize

DEV_SHARE = 20
"""In a corpus without dev images, one in this many training images becomes one."""

Captions = list[tuple[str, tuple[str, ...]]]
"""Pairs of an image's address and its captions."""


@dataclass(frozen=True)
class TrainingCorpus:
    """Training and dev images with their captions."""

    train: Captions
    dev: Captions
    report: str
    """What the reader found, as text for users."""
    counts: Counter[str]
    """How often each word occurs in the training captions."""
    rehearsal: Captions = field(default_factory=list)
    """Training images of other corpora, learnt along with those of `train`."""

    @property
    def learnt(self) -> Captions:
        """All images that are trained on."""
        return self.train + self.rehearsal

    def vocabulary(self, min_count: int) -> Vocabulary:
        """The words that occur at least `min_count` times in the training captions.

        Raises:
            UsageError: there is no such word.
        """
        commonest, count = max(self.counts.items(), key=lambda item: item[1], default=("", 0))
        if count < min_count:
            raise UsageError(
                f"--min-count {min_count}: no word occurs that often in the training captions; "
                + (f"the commonest, {commonest!r}, occurs {counted(count, 'time')}" if count else "they have no words")
            )
        return Vocabulary.build((text for _, texts in self.train for text in texts), min_count)


def read_training_corpus(options: CorpusOptions, storage: Storage) -> TrainingCorpus:
    """Read a corpus and split it.

    Raises:
        CorpusError: it cannot be understood.
        UsageError: no image to train on.
        StorageError: storage that cannot be read.
    """
    lists = {"train": options.train_list, "val": options.dev_list}
    splits = {split: uri for split, uri in lists.items() if uri}
    corpus = read_corpus(
        options.corpus, options.images or None, format=options.format, splits=splits or None, storage=storage
    )
    train: Captions = []
    dev: Captions = []
    unassigned: Captions = []
    for record in corpus:
        part = {"train": train, "val": dev, None: unassigned}.get(record.split)
        if part is not None:
            part.append((record.image, record.captions))
    for option, address, images in (
        ("--train-list", options.train_list, train),
        ("--dev-list", options.dev_list, dev),
    ):
        if address and not images:
            raise UsageError(
                f"{option} {redact(address)}: no image of this list was found, or all of them are in another list; "
                f"check --images and the report:\n{corpus.report}"
            )
    train = train or unassigned
    if not dev:
        chosen = _dev_images([image for image, _ in train])
        dev = [pair for pair in train if pair[0] in chosen]
        train = [pair for pair in train if pair[0] not in chosen]
    if not train or not dev:
        raise UsageError(
            f"the corpus has {counted(len(train), 'training image')} and {counted(len(dev), 'dev image')}; at least "
            f"one of each is needed (--train-list, --dev-list):\n{corpus.report}"
        )
    counts = Counter(word for _, texts in train for text in texts for word in tokenize(text))
    rehearsal, report = _rehearsal(options, train, dev, storage)
    return TrainingCorpus(train, dev, f"{corpus.report}{report}", counts, rehearsal)


def _rehearsal(options: CorpusOptions, train: Captions, dev: Captions, storage: Storage) -> tuple[Captions, str]:
    """Training images of `--rehearsal`, chosen by a hash of their names, and a report of them."""
    if not options.rehearsal:
        return [], ""
    corpus = read_corpus(options.rehearsal, options.rehearsal_images or None, storage=storage)
    own = {image for image, _ in (*train, *dev)}
    others = [(record.image, record.captions) for record in corpus if record.split in ("train", None)]
    others = sorted(
        ((image, texts) for image, texts in others if image not in own),
        key=lambda pair: (_number(pair[0]), pair[0]),
    )
    if not others:
        raise UsageError(f"--rehearsal: no training image that is not in the corpus itself:\n{corpus.report}")
    chosen = others[: round(options.rehearsal_ratio * len(train))]
    return chosen, f"\nrehearsal: {len(chosen):,} of {counted(len(others), 'image')} of\n{corpus.report}"


def _number(image: str) -> int:
    """A hash of the file's name. Not a CRC, which is much the same for names that differ in a digit: of twelve pictures
    in a row six became dev images."""
    name = image.rpartition("/")[2].encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def _dev_images(images: Sequence[str]) -> set[str]:
    """Dev images, chosen by a hash of their file names, so that they do not depend on the corpus' address.

    If the hash selects no image, or all of them, the one with the lowest remainder is taken.
    """
    numbers = {image: _number(image) for image in images}
    chosen = {image for image, number in numbers.items() if number % DEV_SHARE == 0}
    if not 0 < len(chosen) < len(numbers) and len(numbers) > 1:
        chosen = {min(numbers, key=lambda image: (numbers[image] % DEV_SHARE, numbers[image], image))}
    return chosen


def make_examples(captions: Sequence[tuple[str, Sequence[str]]], vocabulary: Vocabulary, max_words: int) -> Examples:
    """Captions as token ids, truncated to `max_words`. Captions without a word, and images without captions, are left
    out."""
    pairs = []
    for image, texts in captions:
        ids = [ids[:max_words] for text in texts if (ids := vocabulary.encode(text))]
        if ids:
            pairs.append((image, ids))
    return Examples.make(pairs)
