"""The candidate captions: made by a captioner with several searches, or read from a table or a results file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from captionkit.corpus.record import id_text
from captionkit.errors import UsageError
from captionkit.inputs.tables import ARRAY, array_rows, open_text
from captionkit.model.captioner import Captioner
from captionkit.model.image_reader import ReadResult, read_batches
from captionkit.model.search.options import SearchOptions
from captionkit.progress import Meter
from captionkit.schema import CAPTIONED, CONFIDENCE
from captionkit.storage import Storage, redact
from captionkit.table.table import CaptionTable


@dataclass
class Candidates:
    """A caption per image, by one search or several. An image without a caption has the empty one."""

    captions: dict[str, dict[str, str]]
    """[name of the search][address of the image]."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """[name of the search][address of the image]: mean log-probability per token, of images with a caption."""
    confidences: dict[str, dict[str, float]] = field(default_factory=dict)
    """As `scores`: the chance that people would accept the caption; empty without a calibration."""
    missing: dict[str, str] = field(default_factory=dict)
    """Reasons why images have no caption, by address."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Total seconds of each search, without reading and encoding the images, which all searches share."""


class _Row(NamedTuple):
    """A row of a caption table; `reason` says why there is no caption, and is empty where there is one."""

    caption: str
    reason: str
    score: float | None = None
    confidence: float | None = None


def make_captions(
    captioner: Captioner,
    images: Sequence[str],
    searches: Mapping[str, SearchOptions],
    storage: Storage,
    batch_size: int = 64,
) -> Candidates:
    """Caption images by several searches, one after the other on the same features.

    Raises:
        StorageError: storage fails in a way that would fail every image.
    """
    candidates = Candidates({name: {} for name in searches}, seconds=dict.fromkeys(searches, 0.0))
    start = 0
    with Meter("captioning", "images", len(images)) as meter:
        for batch in read_batches(images, captioner.preprocessing, batch_size, storage):
            names = images[start : start + batch_size]
            _caption_batch(captioner, dict(zip(names, batch, strict=True)), searches, candidates)
            start += len(batch)
            meter.update(start)
    return candidates


def _caption_batch(
    captioner: Captioner,
    batch: Mapping[str, ReadResult],
    searches: Mapping[str, SearchOptions],
    candidates: Candidates,
) -> None:
    for captions in candidates.captions.values():
        captions |= dict.fromkeys(batch, "")
    pixels = {name: read for name, read in batch.items() if isinstance(read, np.ndarray)}
    errors = {name: read for name, read in batch.items() if not isinstance(read, np.ndarray)}
    candidates.missing |= {name: f"{error.kind}: {error}" for name, error in errors.items()}
    if not pixels:
        return
    features = captioner.encode(np.stack(list(pixels.values())))
    # A GPU computes the features asynchronously, and its first search is slow: this search is not measured.
    captioner.caption_features(features[:1], SearchOptions(beam=1))
    for name, options in searches.items():
        start = time.perf_counter()
        best = [first for first, *_ in captioner.caption_features(features, options)]
        candidates.captions[name] |= {image: one.text for image, one in zip(pixels, best, strict=True)}
        candidates.seconds[name] += time.perf_counter() - start
        scores = {image: one.score for image, one in zip(pixels, best, strict=True) if one.text}
        candidates.scores.setdefault(name, {}).update(scores)
        if captioner.calibration:
            chances = captioner.calibration.chance(list(scores.values())).tolist()
            candidates.confidences.setdefault(name, {}).update(zip(scores, chances, strict=True))


def read_captions(table: CaptionTable, images: Iterable[str], name: str = "table") -> Candidates:
    """Captions from a table. An image's row is found by its address, else by its file name, if that is unambiguous.

    Raises:
        UsageError: no row matches, or a file name matches several addresses.
    """
    wanted = dict.fromkeys(images)
    by_name: dict[str, list[str]] = {}
    for image in wanted:
        by_name.setdefault(_file_name(image), []).append(image)
    exact: dict[str, _Row] = {}
    similar: dict[str, dict[str, _Row]] = {}
    sure = [CONFIDENCE.name] if CONFIDENCE.name in table.schema.names else []
    for row in table.rows(["uri", "status", "caption", "score", "error_kind", "error", *sure]):
        caption = row["caption"] or "" if row["status"] == CAPTIONED else ""
        reason = "" if caption else f"{row['error_kind']}: {row['error']}" if row["error_kind"] else "an empty caption"
        if row["uri"] in wanted:
            exact[row["uri"]] = _Row(caption, reason, row["score"], row.get(CONFIDENCE.name))
        elif _file_name(row["uri"]) in by_name:
            candidate = _Row(caption, reason, row["score"], row.get(CONFIDENCE.name))
            similar.setdefault(_file_name(row["uri"]), {})[row["uri"]] = candidate
    candidates = Candidates({name: dict.fromkeys(wanted, "")})
    for image in wanted:
        matches = {} if image in exact else similar.get(_file_name(image), {})
        if len(matches) > 1 or (matches and len(by_name[_file_name(image)]) > 1):
            raise UsageError(
                f"{table.uri}: the file name {_file_name(image)!r} is ambiguous: {', '.join(matches)} "
                f"in the table, {', '.join(by_name[_file_name(image)])} in the corpus"
            )
        one = exact.get(image) or next(iter(matches.values()), _Row("", "not in the table"))
        candidates.captions[name][image] = one.caption
        if one.reason:
            candidates.missing[image] = one.reason
        if one.score is not None:
            candidates.scores.setdefault(name, {})[image] = one.score
        if one.confidence is not None:
            candidates.confidences.setdefault(name, {})[image] = one.confidence
    if len(candidates.missing) == len(wanted):
        raise UsageError(f"{table.uri} has no caption for any image of the corpus, such as {next(iter(wanted))}")
    return candidates


def read_results(uri: str, keys: Mapping[str, str], storage: Storage, name: str = "table") -> Candidates | None:
    """Captions from a results file in COCO's format, `[{"image_id": 42, "caption": "A dog."}, …]`.

    None if the file is not a JSON array. Its ids are the corpus' ids.

    Args:
        keys: the corpus' id of each image, by address.

    Raises:
        UsageError: the file is malformed or truncated, or has no caption of any image.
        StorageError: it cannot be read.
    """
    candidates = Candidates({name: dict.fromkeys(keys, "")})
    images = {key: image for image, key in keys.items()}
    with open_text(storage, uri) as text:
        if not ARRAY.match(text.head.decode("utf-8", "replace")):
            return None
        try:
            for number, row in array_rows(text.file):
                key, caption = (row.get("image_id"), row.get("caption")) if isinstance(row, dict) else (None, None)
                if not isinstance(caption, str) or key is None:
                    expected = "an object with `image_id` and a string `caption`"
                    raise UsageError(f"--table {redact(uri)}, item {number}: expected {expected}")
                image = images.get(key if isinstance(key, str) else id_text(key))
                if image is not None:
                    candidates.captions[name][image] = caption
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"--table {redact(uri)}: invalid or truncated JSON ({error}); fetch the file again"
            ) from error
    candidates.missing |= {
        image: "not in the results" for image, caption in candidates.captions[name].items() if not caption
    }
    if len(candidates.missing) == len(keys):
        example = next(iter(images), "")
        raise UsageError(f"--table {redact(uri)} has no caption for any image of the corpus, such as {example!r}")
    return candidates


def _file_name(address: str) -> str:
    return address.rpartition("#")[2].rpartition("/")[2]
