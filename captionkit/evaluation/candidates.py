"""The captions to judge: made by a captioner, in several ways at once, or taken from a caption table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from captionkit.corpus.record import id_text
from captionkit.errors import UsageError
from captionkit.inputs.tables import ARRAY, array_rows, open_text
from captionkit.model.captioner import Captioner
from captionkit.model.image_reader import ReadResult, read_batches
from captionkit.model.search.options import SearchOptions
from captionkit.progress import Meter
from captionkit.schema import CAPTIONED
from captionkit.storage import Storage, redact
from captionkit.table.table import CaptionTable


@dataclass
class Candidates:
    """One caption for each image, in one way or several. An image without one has the empty caption in all of them."""

    captions: dict[str, dict[str, str]]
    """[name of the way][address of the image]."""
    missing: dict[str, str] = field(default_factory=dict)
    """Images without a caption, and why."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each way's search took in all; what all share, pictures and features, is not in it."""


def make_captions(
    captioner: Captioner,
    images: Sequence[str],
    ways: Mapping[str, SearchOptions],
    storage: Storage,
    batch_size: int = 64,
) -> Candidates:
    """Caption images in several ways. Features are computed once, and searched in each way in turn.

    Raises:
        StorageError: storage fails in a way that would fail every image alike.
    """
    made = Candidates({name: {} for name in ways}, seconds=dict.fromkeys(ways, 0.0))
    start = 0
    with Meter("captioning", "images", len(images)) as meter:
        for batch in read_batches(images, captioner.preprocessing, batch_size, storage):
            names = images[start : start + batch_size]
            _caption_batch(captioner, dict(zip(names, batch, strict=True)), ways, made)
            start += len(batch)
            meter.update(start)
    return made


def _caption_batch(
    captioner: Captioner,
    batch: Mapping[str, ReadResult],
    ways: Mapping[str, SearchOptions],
    made: Candidates,
) -> None:
    for captions in made.captions.values():
        captions |= dict.fromkeys(batch, "")
    pixels = {name: read for name, read in batch.items() if isinstance(read, np.ndarray)}
    errors = {name: read for name, read in batch.items() if not isinstance(read, np.ndarray)}
    made.missing |= {name: f"{error.kind}: {error}" for name, error in errors.items()}
    if not pixels:
        return
    features = captioner.encode(np.stack(list(pixels.values())))
    # The device works on features until someone asks, and is slow the first time: neither is the first way's doing.
    search_captions(captioner, features[:1], SearchOptions(beam=1))
    for way, options in ways.items():
        start = time.perf_counter()
        made.captions[way] |= dict(zip(pixels, search_captions(captioner, features, options), strict=True))
        made.seconds[way] += time.perf_counter() - start


def search_captions(captioner: Captioner, features: torch.Tensor, options: SearchOptions) -> list[str]:
    """The best caption for each image's features, (N, D) or (N, P, D)."""
    return [best.text for best, *_ in captioner.caption_features(features, options)]


def read_captions(table: CaptionTable, images: Iterable[str], name: str = "table") -> Candidates:
    """Take captions from a table: an image's row has its address, or else, alone in the table, its file name.

    Raises:
        UsageError: no row fits, or an image's file name fits rows of several addresses.
    """
    wanted = dict.fromkeys(images)
    by_name: dict[str, list[str]] = {}
    for image in wanted:
        by_name.setdefault(_file_name(image), []).append(image)
    exact: dict[str, tuple[str, str]] = {}
    similar: dict[str, dict[str, tuple[str, str]]] = {}
    for row in table.rows(["uri", "status", "caption", "error_kind", "error"]):
        said = row["caption"] or "" if row["status"] == CAPTIONED else ""
        why = "" if said else f"{row['error_kind']}: {row['error']}" if row["error_kind"] else "an empty caption"
        if row["uri"] in wanted:
            exact[row["uri"]] = (said, why)
        elif _file_name(row["uri"]) in by_name:
            similar.setdefault(_file_name(row["uri"]), {})[row["uri"]] = (said, why)
    made = Candidates({name: dict.fromkeys(wanted, "")})
    for image in wanted:
        fitting = {} if image in exact else similar.get(_file_name(image), {})
        if len(fitting) > 1 or (fitting and len(by_name[_file_name(image)]) > 1):
            raise UsageError(
                f"{table.uri}: rows cannot be told apart by file name: {_file_name(image)!r} is {', '.join(fitting)} "
                f"there and {', '.join(by_name[_file_name(image)])} in the corpus"
            )
        said, why = exact.get(image) or next(iter(fitting.values()), ("", "not in the table"))
        made.captions[name][image] = said
        if why:
            made.missing[image] = why
    if len(made.missing) == len(wanted):
        raise UsageError(f"{table.uri} has no caption for any image of the corpus, such as {next(iter(wanted))}")
    return made


def read_results(uri: str, keys: Mapping[str, str], storage: Storage, name: str = "table") -> Candidates | None:
    """Take captions from a results file of COCO's form, `[{"image_id": 42, "caption": "A dog."}, …]`, in which an image
    is called as the corpus calls it. None where the file is no JSON array.

    Args:
        keys: what the corpus calls each image, by address.

    Raises:
        UsageError: it is not whole, or has no caption of any image.
        StorageError: it cannot be read.
    """
    made = Candidates({name: dict.fromkeys(keys, "")})
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
                    made.captions[name][image] = caption
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"--table {redact(uri)}: not whole JSON ({error}); fetch the file again") from error
    made.missing |= {image: "not in the results" for image, caption in made.captions[name].items() if not caption}
    if len(made.missing) == len(keys):
        example = next(iter(images), "")
        raise UsageError(f"--table {redact(uri)} has no caption for any image of the corpus, such as {example!r}")
    return made


def _file_name(address: str) -> str:
    return address.rpartition("#")[2].rpartition("/")[2]
