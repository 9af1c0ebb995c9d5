"""Sequence-level distillation: training on another captioner's captions instead of the reference captions.

The five reference captions of an image differ, and a decoder trained on all of them prefers captions that fit many
images. A teacher's captions are more alike, and the best ones of its beam, by CIDEr-D against the references, are more
specific than its most likely one. This is sequence-level interpolation with CIDEr-D as the similarity (Kim and Rush
2016, "Sequence-Level Knowledge Distillation", arXiv:1606.07947, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from captionkit.errors import UsageError
from captionkit.metrics.cider import CiderD
from captionkit.storage import Storage, public_uri, redact
from captionkit.table.table import CaptionTable
from captionkit.training.corpus import Captions
from captionkit.vocabulary import tokenize


@dataclass(frozen=True)
class TeacherCaptions:
    """Captions to train on, in the order of the corpus' training images."""

    captions: Captions
    report: str
    """How many of them are the teacher's, and how good these are."""


def read_teacher_captions(train: Captions, tables: Sequence[str], count: int, storage: Storage) -> TeacherCaptions:
    """The teacher's best captions of each training image, by CIDEr-D against its reference captions.

    An image that is in none of the tables keeps its reference captions.

    Args:
        train: the reference captions.
        tables: addresses of caption tables; `caption` and `alternatives` are candidates alike.
        count: captions per image; fewer if the tables have fewer different ones.

    Raises:
        UsageError: a table is no caption table, or has no caption for any training image.
        StorageError: a table cannot be read.
    """
    candidates = _read_candidates(train, tables, storage)
    cider = CiderD([[tokenize(text) for text in texts] for _, texts in train])
    images = [image for image, texts in candidates.items() for _ in texts]
    scores = cider.score([tokenize(text) for texts in candidates.values() for text in texts], images)
    ends = np.cumsum([len(texts) for texts in candidates.values()])
    captions, chosen_scores = list(train), list[float]()
    for (image, texts), image_scores in zip(candidates.items(), np.split(scores, ends[:-1]), strict=True):
        best = np.argsort(-image_scores, kind="stable")[:count]
        captions[image] = (train[image][0], tuple(texts[place] for place in best))
        chosen_scores += image_scores[best].tolist()
    return TeacherCaptions(
        captions,
        f"{len(chosen_scores):,} captions of {len(candidates):,} of {len(train):,} training images, CIDEr-D "
        f"{100 * np.mean(chosen_scores):.1f} against the references; the other images keep their reference captions",
    )


def _read_candidates(train: Captions, tables: Sequence[str], storage: Storage) -> dict[int, list[str]]:
    """The different captions that the tables have of each training image, by its index, in the tables' order."""
    index = {public_uri(image): number for number, (image, _) in enumerate(train)}
    candidates: dict[int, dict[str, None]] = {}
    for table in tables:
        any_row = False
        for row in CaptionTable(table, storage).rows(["uri", "caption", "alternatives"]):
            if (image := index.get(row["uri"])) is not None and row["caption"]:
                any_row = True
                alternatives = (other["caption"] for other in row["alternatives"] or ())
                candidates.setdefault(image, {}).update(dict.fromkeys((row["caption"], *alternatives)))
        if not any_row:
            raise UsageError(
                f"--teacher {redact(table)} has no caption for any training image, such as {public_uri(train[0][0])}; "
                "make it by `captionkit caption --input IMAGES --model TEACHER --beam 10 --n-best 10 --output TABLE`"
            )
    return {image: list(texts) for image, texts in candidates.items()}
