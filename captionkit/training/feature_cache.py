"""From Ray Data to a training worker: what an encoder made of every image, in a file of this machine's own.

Training reads images in random order, every epoch in another. Parquet cannot be read like that, and memory would have
to hold the whole corpus; a memory-mapped file can, and the operating system keeps in memory what fits. So each machine
streams the whole dataset once, into one file for all its workers.
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

from captionkit.storage import public


class Rows:
    """Values of images, (n, …), in a memory-mapped file, and where in it each image is.

    Args:
        folder: what `ingest` wrote.
        images: the addresses that will be asked for, by their index.

    Raises:
        KeyError: an address that is not there.
    """

    def __init__(self, folder: Path, images: Sequence[str]) -> None:
        self._values: NDArray[np.generic] = np.load(folder / "values.npy", mmap_mode="r")
        names = (folder / "images.txt").read_text(encoding="utf-8").split("\n")
        place = {name: row for row, name in enumerate(names)}
        self._rows = np.array([place[public(image)] for image in images], np.int64)

    def gather(self, images: NDArray[np.int64], device: torch.device) -> Tensor:
        """The values of some images, by their indices: (n, …) on `device`, in the dtype they are stored in."""
        rows = self._rows[images]
        # Each row once and in the file's order: five captions share an image, and the disk is read forwards.
        unique, where = np.unique(rows, return_inverse=True)
        values = torch.from_numpy(self._values[unique]).to(device, non_blocking=True)
        return values if len(unique) == len(rows) and (np.diff(where) == 1).all() else values[torch.from_numpy(where)]


def ingest(batches: Iterable[pa.Table], count: int, shape: Sequence[int], dtype: str, folder: Path) -> None:
    """Write a dataset's rows into a folder, for `Rows`. The folder is complete once it is there.

    Args:
        batches: tables with the columns `uri` and `values` (bytes of `dtype`).
        count: how many rows will come at most.
        shape: of one row's values.
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
