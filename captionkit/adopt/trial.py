"""The captions of a few images, and whether they look like captions.

A vocabulary of the right size can still be the wrong one: the words are the same, and the numbers are not. The pair
loads, and what it says is nonsense. Captions of a fitting pair begin mostly alike ("a …") and end by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from captionkit.model.captioner import Captioner
from captionkit.model.image_reader import ImageLike
from captionkit.scenes import draw, random_scene
from captionkit.storage import Storage

MAX_WORDS = 19
"""Greedy search takes this many words at most: the tutorial's 20 steps, the first of which gives the start marker."""
SCENES = 12
_SEED = 20_000_000
_SHARE = 0.5
"""Below this share of captions that begin with the commonest first word, or that end, there is a warning."""


@dataclass(frozen=True)
class Trial:
    """Captions of the images that could be read, and what is odd about them."""

    captions: list[tuple[str, str]]
    """Name of the image and caption."""
    warnings: list[str]


def drawn_scenes() -> list[tuple[str, ImageLike]]:
    """Scenes of the package with names, for who has no images at hand."""
    return [(f"scene {seed}", draw(random_scene(seed), 320)) for seed in range(_SEED, _SEED + SCENES)]


def try_out(captioner: Captioner, images: Sequence[tuple[str, ImageLike]], storage: Storage) -> Trial:
    """Caption images greedily, and judge the captions by their beginnings and ends."""
    results = captioner.caption([image for _, image in images], beam=1, max_length=MAX_WORDS, storage=storage)
    captions, warnings = [], []
    for (name, _), result in zip(images, results, strict=True):
        if result.text is None:
            warnings.append(f"{name}: no caption: {result.error}")
        else:
            captions.append((name, result.text))
    return Trial(captions, warnings + judge([text for _, text in captions]))


def judge(captions: Sequence[str]) -> list[str]:
    """What is odd about the captions of different images."""
    if len(captions) < 4:
        return []
    warnings = []
    firsts = Counter(caption.split()[0] for caption in captions)
    word, count = firsts.most_common(1)[0]
    if count < _SHARE * len(captions):
        warnings.append(
            f"captions do not begin alike, as captions do ({count} of {len(captions)} with {word!r}): the vocabulary "
            "may be another captioner's, with the same words numbered otherwise"
        )
    ended = sum(len(caption.split()) < MAX_WORDS for caption in captions)
    if ended < _SHARE * len(captions):
        warnings.append(
            f"captions do not end ({len(captions) - ended} of {len(captions)} stop only at {MAX_WORDS} words): the end "
            "marker may be another word (--markers end=WORD), or the vocabulary another captioner's"
        )
    if len(set(captions)) == 1:
        warnings.append(
            "every image has the same caption: the encoder may be another captioner's, or the preprocessing wrong "
            "(pixels that are divided by 255 twice are all black)"
        )
    return warnings
