"""Reading images of any kind in threads, one batch ahead of the network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captionkit.images import ImageError, Limits, Preprocessing, decode, prepare
from captionkit.inputs.kinds import limits_of
from captionkit.model.tuning import READER_THREADS
from captionkit.storage import Storage, StorageError

ImageLike = str | os.PathLike[str] | bytes | Image.Image
"""An address, a path, encoded bytes, or a PIL image."""
Pixels = NDArray[np.uint8]
"""(size, size, 3), RGB."""
ReadResult = Pixels | ImageError | StorageError
"""An image's pixels, or why there are none."""

_PIL_LOCK = Lock()
"""One PIL image may be given twice, and reading its pixels changes it."""


def read_batches(
    images: Sequence[ImageLike],
    preprocessing: Preprocessing,
    batch_size: int,
    storage: Storage | None = None,
    limits: Limits | None = None,
) -> Iterator[list[ReadResult]]:
    """Read and decode images, batch by batch. While a batch is used, the next one is read.

    Yields:
        For each of `batch_size` images in turn its pixels, or the error that is its own.

    Raises:
        StorageError: storage fails in a way that would fail every image.
    """
    storage, limits = storage or Storage(), limits or Limits()
    with ThreadPoolExecutor(READER_THREADS, thread_name_prefix="captionkit-read") as pool:

        def submit(start: int) -> list[Future[ReadResult]]:
            batch = images[start : start + batch_size]
            return [pool.submit(_read, image, preprocessing, storage, limits) for image in batch]

        ahead = submit(0)
        try:
            for start in range(0, len(images), batch_size):
                batch = [future.result() for future in ahead]
                ahead = submit(start + batch_size)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nobody needs the others


def _read(image: ImageLike, preprocessing: Preprocessing, storage: Storage, limits: Limits) -> ReadResult:
    try:
        if isinstance(image, Image.Image):
            with _PIL_LOCK:
                return prepare(image, preprocessing)
        if isinstance(image, bytes):
            return decode(image, preprocessing, limits).pixels
        uri = os.fspath(image)
        return decode(storage.read(uri), preprocessing, limits_of(uri, limits)).pixels
    except (ImageError, StorageError) as err:
        if isinstance(err, StorageError) and err.fatal:
            raise
        return err
