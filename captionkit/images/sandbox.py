"""Decoding in a child process, so that what a native decoder does to strangers' files it does not do to us.

A decoder that crashes, hangs or takes too much memory costs the image it did so on, and nothing else:

    sandbox = Sandbox(preprocessing, threads=4)
    for outcome in sandbox.decode_many(files):  # Decoded or ImageError, in their order

Images are decoded by threads of the child, a batch at a time. When the child dies, or no image of a batch is
finished within the time limit, a new child takes over; what had not become pixels by then is tried again one image
at a time, each with the limit to itself, and the one on which the child fails again gets "decoder_crashed" or
"decode_timeout". The same goes for what ran out of memory beside others.

Bytes and pixels go through files in memory (`memfd_create`), with one system call and one copy each on either side;
nothing is mapped, pickled or written to /dev/shm. What the child may take of memory: `child.memory_limit`.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from captionkit.images.decoder_process import CHANNELS, DecoderProcess
from captionkit.images.decoding import check_bytes
from captionkit.images.types import Decoded, ImageError, Limits, Preprocessing

DECODER = "captionkit.images.decoding:decode"
COUNTER = "captionkit.images.decoding:count_pages"
"""Counts pages and frames in a decoder's place."""

DECODE_SECONDS = 30.0
"""How long one image may take by default."""

_BATCH_BYTES = 64 * 2**20  # of encoded images in one batch; a larger image is a batch of its own
_BATCH_IMAGES = 256

# Reasons that another try will not change.
_FINAL = ("not_an_image", "unsupported_format")

_DEFAULT_LIMITS = Limits()


class Sandbox:
    """A child process that decodes, started when it is first needed and replaced when it fails.

    Safe to use from many threads: two batches are decoded at once (so that the child has work while the results of
    one are fetched), others wait.

    Args:
        threads: Images that the child decodes at once.
        seconds: Time limit of one image.
        decoder: What decodes, as "module:function" with the arguments of `captionkit.images.decoding.decode`.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        limits: Limits = _DEFAULT_LIMITS,
        threads: int = 4,
        seconds: float = DECODE_SECONDS,
        decoder: str = DECODER,
    ) -> None:
        if threads < 1 or seconds <= 0:
            raise ValueError(f"threads ({threads}) must be at least 1 and seconds ({seconds}) above 0")
        self.preprocessing, self.limits, self.threads, self.seconds = preprocessing, limits, threads, seconds
        self.decoder = decoder
        self._changed = threading.Condition()
        self._child: DecoderProcess | None = None
        self._used: set[int] = set()  # channels with a batch on its way
        self._wanting_alone = 0

    def decode_many(
        self, images: Sequence[bytes], frames: Sequence[int | None] | None = None
    ) -> list[Decoded | ImageError]:
        """What `decode` makes of each of these files, or the error it raises; never an exception for any bytes.

        Args:
            frames: Of each file the number of its page or frame, from 0; None for the one that the limits name.

        Raises:
            RuntimeError: the child cannot be started, which no image is to blame for.
        """
        results: list[Decoded | ImageError | None] = [_refusal(data, self.limits) for data in images]
        frames = frames if frames is not None and any(frame is not None for frame in frames) else None
        waiting = [index for index, result in enumerate(results) if result is None]
        for batch in _batches(images, waiting):
            with self._channel() as (child, channel):
                some = None if frames is None else [frames[index] for index in batch]
                found, trouble = child.decode(channel, [images[index] for index in batch], self.seconds, some)
            for index, result in zip(batch, found, strict=True):
                results[index] = result
            if trouble:
                again = [index for index in batch if _deserves_another(results[index])]
                self._one_by_one(images, again, results, frames)
        return [result for result in results if result is not None]

    @property
    def pid(self) -> int | None:
        """Process id of the child; None where there is none now."""
        child = self._child
        return None if child is None else child.pid

    def close(self) -> None:
        """Ends the child once its batches are done. The next batch would start another."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used)
            self._drop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one_by_one(
        self,
        images: Sequence[bytes],
        again: list[int],
        results: list[Decoded | ImageError | None],
        frames: Sequence[int | None] | None,
    ) -> None:
        with self._alone():
            for index in again:
                with self._changed:
                    child = self._living()
                some = None if frames is None else [frames[index]]
                (found,), _ = child.decode(0, [images[index]], self.seconds, some)
                results[index] = found or child.verdict(self.seconds)

    @contextmanager
    def _channel(self) -> Iterator[tuple[DecoderProcess, int]]:
        """A living child and a channel of it that nobody else uses."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wanting_alone and self._free() is not None)
            child, channel = self._living(), self._free()
            assert channel is not None
            self._used.add(channel)
        try:
            yield child, channel
        finally:
            self._leave(channel)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Every channel: nothing else is decoded in the meantime."""
        with self._changed:
            self._wanting_alone += 1
            self._changed.wait_for(lambda: not self._used)
            self._used.update(range(CHANNELS))
        try:
            yield
        finally:
            with self._changed:
                self._wanting_alone -= 1
            self._leave(*range(CHANNELS))

    def _leave(self, *channels: int) -> None:
        with self._changed:
            self._used.difference_update(channels)
            self._changed.notify_all()

    def _free(self) -> int | None:
        """A channel to be used now. A child that failed gets no new batch, and is kept till its last one is over."""
        if self._child is not None and self._child.failed and self._used:
            return None
        return next((channel for channel in range(CHANNELS) if channel not in self._used), None)

    def _living(self) -> DecoderProcess:
        """The child, or a new one. Called under the lock."""
        if self._child is not None and self._child.failed:
            self._drop()
        if self._child is None:
            self._child = DecoderProcess(self.preprocessing, self.limits, self.threads, self.decoder)
        return self._child

    def _drop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _refusal(data: bytes, limits: Limits) -> ImageError | None:
    """What can be told of a file without a decoder."""
    try:
        check_bytes(data, limits)
    except ImageError as err:
        return err
    return None


def _deserves_another(result: Decoded | ImageError | None) -> bool:
    return result is None or (isinstance(result, ImageError) and result.kind not in _FINAL)


def _batches(images: Sequence[bytes], indices: list[int]) -> Iterator[list[int]]:
    """The indices in batches that are small enough for the files in memory."""
    batch: list[int] = []
    held = 0
    for index in indices:
        size = len(images[index])
        if batch and (held + size > _BATCH_BYTES or len(batch) == _BATCH_IMAGES):
            yield batch
            batch, held = [], 0
        batch.append(index)
        held += size
    if batch:
        yield batch


_KEPT = 2
_sandboxes: OrderedDict[tuple[object, ...], Sandbox] = OrderedDict()
_lock = threading.Lock()


def shared_sandbox(
    preprocessing: Preprocessing,
    limits: Limits = _DEFAULT_LIMITS,
    threads: int = 4,
    seconds: float = DECODE_SECONDS,
    decoder: str = DECODER,
) -> Sandbox:
    """The one `Sandbox` of this process with these options.

    Two are kept. With a third set of options the child of the one that was longest out of use is ended.
    """
    options = (preprocessing, limits, threads, seconds, decoder)
    with _lock:
        sandbox = _sandboxes.pop(options, None) or Sandbox(*options)
        _sandboxes[options] = sandbox
        old = [_sandboxes.popitem(last=False)[1] for _ in range(len(_sandboxes) - _KEPT)]
    for each in old:
        each.close()
    return sandbox


def _forget() -> None:
    """After a fork: the children are the parent's."""
    global _lock
    _lock = threading.Lock()
    _sandboxes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
