"""A machine's copy of the features (or pixels), in a memory-mapped file that all its workers read.

Training reads images in random order, and in a different one every epoch. Parquet does not support that, and memory may
be smaller than the corpus. A memory-mapped file supports it, and the operating system keeps as much in memory as fits.
So each machine streams the features table once, into one file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from captionkit.storage import public_uri


class FeatureCache:
    """The features of a list of images.

    Args:
        folder: as `write_feature_cache` wrote it.
        images: addresses of the images that `gather` takes the indices of.

    Raises:
        KeyError: an address that is not in the cache.
    """

    def __init__(self, folder: Path, images: Sequence[str]) -> None:
        self._values: NDArray[np.generic] = np.load(folder / "values.npy", mmap_mode="r")
        names = (folder / "images.txt").read_text(encoding="utf-8").split("\n")
        row_of = {name: row for row, name in enumerate(names)}
        self._rows = np.array([row_of[public_uri(image)] for image in images], np.int64)

    def gather(self, images: NDArray[np.int64], device: torch.device) -> Tensor:
        """The features of images, by their indices: (n, …) on `device`, in the dtype of the cache."""
        rows = self._rows[images]
        # Read each row once and in the file's order: five captions share an image, and sequential reads are faster.
        unique, inverse = np.unique(rows, return_inverse=True)
        values = torch.from_numpy(self._values[unique]).to(device, non_blocking=True)
        return (
            values if len(unique) == len(rows) and (np.diff(inverse) == 1).all() else values[torch.from_numpy(inverse)]
        )


def write_feature_cache(
    batches: Iterable[pa.Table], count: int, shape: Sequence[int], dtype: str, folder: Path
) -> None:
    """Write features into a new folder, for `FeatureCache`. The folder appears only when it is complete.

    Args:
        batches: tables with the columns `uri` and `values` (bytes of `dtype`).
        count: upper bound of the number of rows.
        shape: of one image's values.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    names: list[str] = []
    values = np.lib.format.open_memmap(partial / "values.npy", mode="w+", dtype=dtype, shape=(count, *shape))
    for batch in batches:
        column = batch.column("values")
        rows = np.frombuffer(b"".join(column.to_pylist()), dtype).reshape(len(batch), *shape)
        values[len(names) : len(names) + len(batch)] = rows
        names += batch.column("uri").to_pylist()
    values.flush()
    (partial / "images.txt").write_text("\n".join(names), encoding="utf-8")
    partial.rename(folder)
