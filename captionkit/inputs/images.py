"""Images of a listing as columns: what millions of them are put through, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from captionkit.inputs.kinds import InputItem


@dataclass(frozen=True)
class Images:
    """The columns of `InputItem` for images, no containers. Each (n,)."""

    uris: pa.StringArray
    names: pa.StringArray
    """`InputItem.name`; the very array `uris` where none of them holds a secret."""
    versions: pa.StringArray
    sizes: pa.Int64Array
    carried: Sequence[dict[str, Any]] | None = None
    """None where there is nothing to carry."""

    @classmethod
    def of(cls, items: Sequence[InputItem]) -> Images:
        """The same images as columns."""
        uris, names = [item.uri for item in items], [item.name for item in items]
        column = pa.array(uris, pa.string())
        return cls(
            column,
            column if names == uris else pa.array(names, pa.string()),
            pa.array([item.version for item in items], pa.string()),
            pa.array([item.size for item in items], pa.int64()),
            [item.carried for item in items] if any(item.carried for item in items) else None,
        )

    def __len__(self) -> int:
        return len(self.uris)

    def take(self, places: NDArray[np.int64]) -> Images:
        """Those at some places, in that order."""
        if len(places) == len(self) and (places == np.arange(len(self))).all():
            return self
        at = pa.array(places)
        uris = self.uris.take(at)
        carried = None if self.carried is None else [self.carried[place] for place in places.tolist()]
        names = uris if self.names is self.uris else self.names.take(at)
        return Images(uris, names, self.versions.take(at), self.sizes.take(at), carried)

    def items(self) -> Iterator[InputItem]:
        """One by one."""
        columns = (column.to_pylist() for column in (self.uris, self.versions, self.sizes))
        if self.carried is None:
            yield from (InputItem(uri, version, size) for uri, version, size in zip(*columns, strict=True))
            return
        for uri, version, size, carried in zip(*columns, self.carried, strict=True):
            yield InputItem(uri, version, size, carried=carried)


Batch = Images | Sequence[InputItem]
"""A part of a listing."""


def one_by_one(pieces: Iterable[Images | InputItem]) -> Iterator[InputItem]:
    """The items of a listing."""
    for piece in pieces:
        if isinstance(piece, Images):
            yield from piece.items()
        else:
            yield piece


def in_batches(pieces: Iterable[Images | InputItem], size: int) -> Iterator[Images | list[InputItem]]:
    """A listing in the same order, single items in lists of up to `size`."""
    items: list[InputItem] = []
    for piece in pieces:
        if not isinstance(piece, Images):
            items.append(piece)
            if len(items) < size:
                continue
        if items:
            yield items
            items = []
        if isinstance(piece, Images):
            yield piece
    if items:
        yield items
