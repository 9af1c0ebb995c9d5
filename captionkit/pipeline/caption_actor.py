"""The captioner actors: rows of pixels in, rows of the caption table out."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray

from captionkit.model.search.options import SearchOptions
from captionkit.pipeline.machines import CaptionerNotBuilt
from captionkit.pipeline.options import WordOptions
from captionkit.progress import log_line
from captionkit.schema import BROUGHT, CAPTIONED, CONFIDENCE, FAILED, MODEL_ERROR, TRANSIENT, schema_with

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captionkit.model.captioner import Captioner, Hypothesis
    from captionkit.model.engines import Engine

CAPTION_COLUMNS = ("caption", "score", "alternatives", "caption_s", "batch")
"""What captioning adds to a row that has pixels."""


@dataclass(frozen=True)
class ActorOptions:
    """All that a captioner actor needs to know."""

    search: SearchOptions
    words: WordOptions
    dtype: str
    engine: Engine
    device: str
    threads: int
    run_id: str
    carry: tuple[tuple[str, pa.DataType], ...]
    confidence: bool = False
    """Whether the table has a column for it."""
    existing: str | None = None
    """The carried column with captions that images bring, and which are theirs (`--existing keep` or `skip`)."""
    skip: bool = False
    """Whether images that bring one come without pixels, and get no other."""


class CaptionActor:
    """One captioner actor, built by Ray Data once and called with batches.

    Args:
        bundle: Reference to the bundle's files. The driver has read them once; a thousand actors starting up
            get them through Ray's object store instead of asking the bucket a thousand times.
    """

    def __init__(self, bundle: ray.ObjectRef, options: ActorOptions) -> None:
        try:
            self.captioner = self.build(bundle, options)
        except Exception as err:
            raise CaptionerNotBuilt.here(err) from None  # its words are in it, and Ray prints each link
        self.options = options
        self.part: int | None = None  # images at once, where memory held no whole batch
        added = {CONFIDENCE.name: CONFIDENCE.type} if options.confidence else {}
        self.schema = pa.schema([*schema_with(added | dict(options.carry)), *TRANSIENT])

    def build(self, bundle: ray.ObjectRef, options: ActorOptions) -> Captioner:
        """The captioner, on the device of this actor."""
        import torch

        from captionkit.model.captioner import Captioner
        from captionkit.model.device import explain_dtype

        torch.set_num_threads(options.threads)
        captioner = Captioner.from_files(
            ray.get(bundle), device=options.device, dtype=options.dtype, engine=options.engine
        )
        _, why = explain_dtype(options.dtype, captioner.device)
        # Ray shows it in the job's log, once for all actors that say the same.
        dtype = str(captioner.dtype).removeprefix("torch.")
        log_line(f"computing by {captioner.engine} in {dtype} on {captioner.device}: {why}")
        return captioner

    def __call__(self, batch: pa.Table) -> pa.Table:
        start = time.perf_counter()
        pixels = pixels_of(batch.column("pixels"), self.captioner.preprocessing.size)
        search, words = self.options.search, self.options.words
        each, self.part = caption_with_smaller_batches(self.captioner, pixels, search, words, self.part)
        part = min(self.part or len(pixels), len(pixels))
        seconds = (time.perf_counter() - start) / max(1, len(pixels))
        made: dict[str, list[Any]] = {name: [None] * len(batch) for name in CAPTION_COLUMNS}
        kinds, errors = batch["error_kind"].to_pylist(), batch["error"].to_pylist()
        brought = _texts(batch[self.options.existing]) if self.options.existing else [""] * len(batch)
        skipped = brought if self.options.skip else [""] * len(batch)
        same_as = batch["same_as"].to_pylist()  # these have no pixels; the driver finds their captions
        fine = [at for at, kind in enumerate(kinds) if kind is None and not skipped[at] and same_as[at] is None]
        for at, hypotheses in zip(fine, each, strict=True):
            made["caption_s"][at], made["batch"][at] = seconds, part
            if not hypotheses:
                kinds[at], errors[at] = MODEL_ERROR, "out of memory over this one image"
            elif (best := hypotheses[0]).text:
                made["caption"][at], made["score"][at] = words.say_before + best.text, best.score
                made["alternatives"][at] = [
                    {"caption": words.say_before + other.text, "score": other.score} for other in hypotheses[1:]
                ]
            else:
                kinds[at], errors[at] = MODEL_ERROR, "the captioner gave an empty caption"
        if self.options.confidence:
            calibration = self.captioner.calibration
            made[CONFIDENCE.name] = [
                None if score is None or calibration is None else calibration.chance([score])[0]
                for score in made["score"]
            ]
        if self.options.existing:
            _keep(made, brought, kinds)
            made["model"] = [
                BROUGHT if text and kind is None else self.captioner.fingerprint
                for text, kind in zip(brought, kinds, strict=True)
            ]
        made |= {"error_kind": kinds, "error": errors}
        made["status"] = [CAPTIONED if kind is None else FAILED for kind in kinds]
        same = {
            "model": self.captioner.fingerprint,
            "run_id": self.options.run_id,
            "captioned_at": datetime.now(timezone.utc),
        }
        columns = [
            pa.array(made[name], kind)
            if name in made
            else pa.repeat(pa.scalar(same[name], kind), len(batch))
            if name in same
            else batch[name]
            for name, kind in zip(self.schema.names, self.schema.types, strict=True)
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Captions that images bring, "" for none."""
    return [(text or "").strip() for text in column.to_pylist()]


def _keep(made: dict[str, list[Any]], brought: list[str], kinds: list[str | None]) -> None:
    """Put captions that images bring in the place of the captioner's, which come first among the alternatives."""
    for at, (text, kind) in enumerate(zip(brought, kinds, strict=True)):
        if text and kind is None:
            if made["caption"][at] is not None:
                own = {"caption": made["caption"][at], "score": made["score"][at]}
                made["alternatives"][at] = [own, *made["alternatives"][at]]
            made["caption"][at], made["score"][at] = text, None
            if CONFIDENCE.name in made:
                made[CONFIDENCE.name][at] = None


def caption_with_smaller_batches(
    captioner: Captioner, pixels: NDArray[np.uint8], search: SearchOptions, words: WordOptions, part: int | None
) -> tuple[list[list[Hypothesis]], int | None]:
    """Captions of each image, with the batch halved as often as memory does not suffice.

    Args:
        part: Images at once; None for all.

    Returns:
        For each image its captions (none where memory does not suffice for it even alone), and the part that held.
    """
    hypotheses: list[list[Hypothesis]] = []
    while len(hypotheses) < len(pixels):
        some = pixels[len(hypotheses) :][:part]
        try:
            hypotheses += captioner.caption_pixels(some, search, banned=words.banned, prefix=words.prefix)
        except (MemoryError, RuntimeError) as err:
            if not _is_out_of_memory(err):
                raise
            _free_memory()
            if len(some) == 1:
                hypotheses.append([])
            else:
                part = len(some) // 2
    return hypotheses, part


def _is_out_of_memory(error: Exception) -> bool:
    # torch.OutOfMemoryError of a GPU is a RuntimeError; of a CPU torch has none of its own, and oneDNN does not say why
    # it could not set up a convolution.
    message = str(error)
    return isinstance(error, MemoryError) or any(
        words in message for words in ("out of memory", "can't allocate memory", "could not create a primitive")
    )


def _free_memory() -> None:
    import torch

    gc.collect()  # the failed batch hangs in the error's frames
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pixels_of(column: pa.ChunkedArray, size: int) -> NDArray[np.uint8]:
    """The images of a column of pixels, null ones left out: (n, size, size, 3) uint8.

    Without a copy where the batch lies in one block of Ray's shared memory and none failed.
    """
    views = []
    for chunk in column.drop_null().chunks:
        if len(chunk):
            _, offsets, data = chunk.buffers()
            bounds = np.frombuffer(offsets, np.int32)[chunk.offset :]
            views.append(np.frombuffer(data, np.uint8)[bounds[0] : bounds[len(chunk)]])
    flat = views[0] if len(views) == 1 else np.concatenate([*views, np.empty(0, np.uint8)])
    return flat.reshape(-1, size, size, 3)
