"""What `captionkit plan` looks at: all of the listing, a sample of the images, a few batches of captions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from random import Random

import numpy as np
from numpy.typing import NDArray

from captionkit.errors import UsageError
from captionkit.images import COUNTER, ImageError, Preprocessing, Sandbox
from captionkit.inputs.containers import ContainerOptions, encoded_images
from captionkit.inputs.ids import IdSet, image_id
from captionkit.inputs.kinds import InputItem, content_key, suffix_of
from captionkit.inputs.listing import Inputs
from captionkit.model.captioner import Captioner
from captionkit.plan.options import PlanOptions
from captionkit.storage import AddressError, Storage, StorageError, has_pages, split_member

CHUNK = 8192
"""Inputs looked at together."""


@dataclass
class Archive:
    """What listing found."""

    images: int = 0
    """Images, those in shards estimated from the sample."""
    shards: int = 0
    shard_bytes: int = 0
    listed_bytes: int = 0
    """Of those images whose size the listing gives."""
    sized: int = 0
    """Number of those."""
    copies: int = 0
    """Images whose contents are those of others, as far as the listing tells; not among `images` with `--dedupe`."""
    untold: int = 0
    """Images of whose contents the listing tells nothing, so that only a run finds copies among them."""
    paged: int = 0
    """Files of which each page is an image (`--frame each`), each counted once until the sample says how many."""
    existing: int = 0
    """Images in lists that bring a caption, and are not captioned with `--existing skip`; not among `images` then."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Images and containers by suffix."""
    buckets: Counter[str] = field(default_factory=Counter)
    """Objects to read by the S3 bucket that they lie in."""


@dataclass
class Sample:
    """What the sample took. Seconds are of one core, but for `wait`."""

    images: int = 0
    unread: int = 0
    """Of those, images without a byte to decode."""
    failed: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    wait_seconds: float = 0.0
    """Of one read after another; a fetch task has many in flight."""
    decode_seconds: float = 0.0
    pages: list[int] = field(default_factory=list)
    """Of each file of pages (`--frame each`) the number of these."""
    pixels: list[int] = field(default_factory=list)
    caption_seconds: float = 0.0
    captioned: int = 0
    device: str = "cpu"
    gpu: str = ""
    """The GPU's name."""
    threads: int = 1

    @property
    def decode_rate(self) -> float:
        """Images a second that one core fetches and decodes. Those that could not be read took no time, and do not
        count."""
        return (self.images - self.unread) / max(1e-9, self.decode_seconds)

    @property
    def caption_rate(self) -> float:
        """Images a second: of the GPU, or of one core."""
        rate = self.captioned / max(1e-9, self.caption_seconds)
        return rate if self.device == "cuda" else rate / self.threads


def list_archive(
    options: PlanOptions, storage: Storage, progress: Callable[[int], None]
) -> tuple[Archive, list[InputItem]]:
    """Count everything; keep an even sample of it (Vitter's algorithm R)."""
    archive, chosen, random = Archive(), list[InputItem](), Random(0)
    items, contents, number = Inputs(options.inputs, storage).items(), IdSet(), 0
    skip = options.inputs.existing_stored() if options.inputs.existing == "skip" else None
    while chunk := list(islice(items, CHUNK)):
        progress(number)
        keys = [content_key(item) for item in chunk]
        archive.untold += sum(key is None and item.kind == "image" for key, item in zip(keys, chunk, strict=True))
        copies = _copies(keys, contents)
        archive.copies += int(copies.sum())
        if options.inputs.dedupe:
            chunk = [item for item, copy in zip(chunk, copies.tolist(), strict=True) if not copy]
        if skip:
            before = len(chunk)
            chunk = [item for item in chunk if not (item.carried.get(skip) or "").strip()]
            archive.existing += before - len(chunk)
        for item in chunk:
            archive.kinds[suffix_of(split_member(item.uri)[0])] += 1
            if item.uri.startswith(("s3://", "s3a://")):
                archive.buckets[item.uri.split("/", 3)[2]] += 1
            if item.kind == "tar":
                archive.shards += 1
                archive.shard_bytes += item.size or 0
            else:
                archive.images += sum(item.row_groups) if item.kind == "parquet" else 1
            archive.paged += options.inputs.frame == "each" and item.kind == "image" and has_pages(item.name)
            if item.kind == "image" and item.size is not None:
                archive.listed_bytes += item.size
                archive.sized += 1
            if len(chosen) < options.budget.sample:
                chosen.append(item)
            elif (place := int(random.random() * (number + 1))) < len(chosen):
                chosen[place] = item
            number += 1
    random.shuffle(chosen)
    return archive, chosen


def _copies(keys: list[str | None], contents: IdSet) -> NDArray[np.bool_]:
    """Of each item, by its `content_key`, whether it has the contents of one before: (n,)."""
    copies = np.zeros(len(keys), np.bool_)
    known = [number for number, key in enumerate(keys) if key is not None]
    copies[known] = ~contents.add(np.array([image_id(key, "") for key in keys if key is not None], np.int64))
    return copies


def measure(
    options: PlanOptions, storage: Storage, captioner: Captioner, archive: Archive, chosen: list[InputItem]
) -> Sample:
    sample = Sample(device=captioner.device.type)
    limits = options.inputs.limits()
    images: list[NDArray[np.uint8]] = []
    inside = members = 0
    start = time.perf_counter()
    containers = ContainerOptions(limits, options.inputs.image_column)
    seconds = options.inputs.decode_seconds
    if archive.paged:
        with Sandbox(Preprocessing(1, 1), limits, threads=1, seconds=seconds, decoder=COUNTER) as counter:
            sample.pages = list(_pages(storage, containers, chosen, counter))
        archive.images += round(archive.paged * (sum(sample.pages) / max(1, len(sample.pages)) - 1))
    with Sandbox(captioner.preprocessing, limits, threads=1, seconds=seconds) as sandbox:
        for in_container, data in islice(
            _bytes(storage, containers, chosen, options.budget.sample, sample), options.budget.sample
        ):
            sample.wait_seconds += time.perf_counter() - start
            sample.images += 1
            sample.bytes += len(data)
            # A tar's member takes a header and whole blocks, of 512 bytes each.
            inside += in_container * 512 * (1 - -len(data) // 512)
            members += in_container
            (outcome,) = sandbox.decode_many([data])
            if isinstance(outcome, ImageError):
                sample.failed[outcome.kind] += 1
            else:
                images.append(outcome.pixels)
                sample.pixels.append(outcome.width * outcome.height)
            sample.decode_seconds += outcome.seconds
            start = time.perf_counter()
    if archive.shards and members:
        # What else a shard holds (texts) makes this an upper bound.
        archive.images += round(archive.shard_bytes / (inside / members))
    if not images:
        kinds = ", ".join(f"{count:,} × {kind}" for kind, count in sample.failed.most_common())
        raise UsageError(f"nothing can be planned: no image of the sample could be decoded ({kinds or 'it is empty'})")
    _caption(options, captioner, images, sample)
    return sample


def _pages(storage: Storage, containers: ContainerOptions, chosen: list[InputItem], counter: Sandbox) -> Iterator[int]:
    """Pages of each of the sample's files of pages that can be read."""
    for item in chosen:
        if item.kind == "image" and has_pages(item.name):
            with suppress(ImageError, AddressError):
                try:
                    [counted] = counter.decode_many([next(encoded_images(item, storage, containers))])
                except StorageError as err:
                    if err.fatal:
                        raise
                    continue
                yield 1 if isinstance(counted, ImageError) else counted.width


def _bytes(
    storage: Storage, containers: ContainerOptions, chosen: list[InputItem], wanted: int, sample: Sample
) -> Iterator[tuple[bool, bytes]]:
    """Encoded images of the sample, and whether they lie in a tar shard; a few of each container."""
    each = max(8, wanted // max(1, len(chosen)))
    for item in chosen:
        try:
            for data in islice(encoded_images(item, storage, containers), each):
                yield item.kind == "tar", data
        except (StorageError, ImageError, AddressError) as err:
            if isinstance(err, StorageError) and err.fatal:
                raise
            sample.images += 1
            sample.unread += 1
            sample.failed[err.kind] += 1


def _caption(options: PlanOptions, captioner: Captioner, images: list[NDArray[np.uint8]], sample: Sample) -> None:
    import torch

    sample.threads = torch.get_num_threads()
    sample.gpu = torch.cuda.get_device_name() if sample.device == "cuda" else ""
    size = options.captioner.images_at_once(sample.device == "cuda")
    batch = np.stack((images * (size // len(images) + 1))[:size])

    def once() -> float:
        start = time.perf_counter()
        captioner.caption_pixels(batch, options.search, banned=options.words.banned, prefix=options.words.prefix)
        return time.perf_counter() - start

    once()  # the first call allocates and compiles
    rounds = [once() for _ in range(3)]
    sample.caption_seconds, sample.captioned = min(rounds), size
