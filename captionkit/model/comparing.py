"""What `Captioner.show` needs beside the captioner: images with their pictures, and BLEU of each caption."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from PIL import Image

from captionkit.drawing.comparison import ComparedImage, Told
from captionkit.drawing.thumbnails import thumbnail
from captionkit.images import ImageError, Limits, Preprocessing, decode
from captionkit.inputs.kinds import limits_of
from captionkit.metrics.errors import MetricError
from captionkit.metrics.scores import BLEU, Scorer
from captionkit.model.image_reader import ImageLike
from captionkit.model.tuning import READER_THREADS
from captionkit.storage import Storage, StorageError, redact

SIDE: Final = 256
"""Longer side of a picture that is shown, in pixels."""


def look_at(
    images: Sequence[tuple[str, ImageLike]], preprocessing: Preprocessing, storage: Storage, limits: Limits
) -> list[ComparedImage]:
    """Images by name, with a small picture of each and its pixels at a captioner's geometry; no captions yet.

    An image that cannot be read has the reason.

    Raises:
        StorageError: storage fails in a way that would fail every image.
    """

    def look(named: tuple[str, ImageLike]) -> ComparedImage:
        name, image = named
        try:
            data, of = _data(image, storage), limits
            if isinstance(image, str | os.PathLike):
                of = limits_of(os.fspath(image), limits)
            return ComparedImage(name, thumbnail(data, SIDE, of), decode(data, preprocessing, of).pixels)
        except (ImageError, StorageError) as err:
            if isinstance(err, StorageError) and err.fatal:
                raise
            return ComparedImage(name, error=f"{err.kind}: {err}")

    with ThreadPoolExecutor(READER_THREADS, thread_name_prefix="captionkit-read") as pool:
        return list(pool.map(look, images))


def name_of(image: ImageLike, number: int) -> str:
    """An image's address without credentials, or its number, from 1."""
    return f"image {number}" if isinstance(image, (bytes, Image.Image)) else redact(os.fspath(image))


def _data(image: ImageLike, storage: Storage) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, Image.Image):
        return storage.read(storage.normalize(os.fspath(image)))
    file = io.BytesIO()
    try:
        # All that a picture can be in memory, in a format that has it whole.
        (image if image.mode in ("RGB", "RGBA", "L", "LA", "P", "1") else image.convert("RGB")).save(file, "PNG")
    except (OSError, ValueError) as err:
        raise ImageError("corrupt", f"the image's pixels cannot be read: {err}") from err
    return file.getvalue()


def add_figures(
    images: Sequence[ComparedImage],
) -> tuple[list[ComparedImage], dict[str, dict[str, float]], str]:
    """Images with BLEU for each caption, BLEU over all images by search, and why there is none or not papers' own.

    Images without references, or that could not be read, take no part.
    """
    references = {
        str(number): image.references for number, image in enumerate(images) if image.references and image.captions
    }
    if not references:
        return list(images), {}, ""
    captions: dict[str, dict[str, str]] = defaultdict(dict)
    for number in references:
        for told in images[int(number)].captions:
            captions[told.search][number] = told.text
    try:
        with Scorer(references, BLEU) as scorer:
            scores = {search: scorer.score(candidates) for search, candidates in captions.items()}
    except (MetricError, ValueError) as err:
        return list(images), {}, f"BLEU is absent: {err}"
    each = {search: scored.images for search, scored in scores.items()}
    measured = [_measured(image, str(number), each) for number, image in enumerate(images)]
    warning = next(iter(scores.values())).warning
    note = f"BLEU is not comparable with published figures: {warning}" if warning else ""
    return measured, {search: scored.corpus for search, scored in scores.items()}, note


def _measured(
    image: ComparedImage, key: str, figures: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> ComparedImage:
    def figured(told: Told) -> Told:
        return replace(told, figures=figures.get(told.search, {}).get(key, {}))

    return replace(image, captions=tuple(map(figured, image.captions)))
