"""What another captioner says of the training images, to be learnt in the place of what people said.

Five people say five things of an image, and a decoder that learns them all hedges: its likeliest caption fits many
images. A captioner's captions are more alike, and those of its beam that agree best with people's say more of the image
than its likeliest. To learn them is sequence-level interpolation, with CIDEr-D as the similarity (Kim and Rush 2016,
"Sequence-Level Knowledge Distillation", arXiv:1606.07947, section 3.3).
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
class Taught:
    """Captions to learn, image by image in the corpus' order."""

    captions: Captions
    report: str = ""
    """How many are a teacher's, for people; nothing where there is none."""


def read_taught(train: Captions, tables: Sequence[str], count: int, storage: Storage) -> Taught:
    """Of each training image those captions of the tables that agree best with people's; people's where there are none.

    Args:
        train: people's captions, by whose CIDEr-D the table's are chosen.
        tables: their addresses; `caption` and `alternatives` are heard alike.
        count: how many of an image, at most; fewer where the tables have fewer different ones.

    Raises:
        UsageError: a table has no caption for any training image, or is none.
        StorageError: one cannot be read.
    """
    place = {public_uri(image): number for number, (image, _) in enumerate(train)}
    heard: dict[int, dict[str, None]] = {}
    for table in tables:
        known = False
        for row in CaptionTable(table, storage).rows(["uri", "caption", "alternatives"]):
            if (number := place.get(row["uri"])) is not None and row["caption"]:
                known = True
                others = (other["caption"] for other in row["alternatives"] or ())
                heard.setdefault(number, {}).update(dict.fromkeys((row["caption"], *others)))
        if not known:
            raise UsageError(
                f"--teacher {redact(table)} has no caption for any training image, such as {public_uri(train[0][0])}; "
                "make it by `captionkit caption --input IMAGES --model TEACHER --beam 10 --n-best 10 --output TABLE`"
            )
    people = CiderD([[tokenize(text) for text in texts] for _, texts in train])
    numbers = [number for number, texts in heard.items() for _ in texts]
    rewards = people.score([tokenize(text) for texts in heard.values() for text in texts], numbers)
    ends = np.cumsum([len(texts) for texts in heard.values()])
    captions, chosen = list(train), list[float]()
    for (number, said), mine in zip(heard.items(), np.split(rewards, ends[:-1]), strict=True):
        texts, best = list(said), np.argsort(-mine, kind="stable")[:count]
        captions[number] = (train[number][0], tuple(texts[one] for one in best))
        chosen += mine[best].tolist()
    return Taught(
        captions,
        f"{len(chosen):,} captions of {len(heard):,} of {len(train):,} training images, "
        f"CIDEr-D {100 * np.mean(chosen):.1f} by people's; of the others people's own are learnt",
    )
