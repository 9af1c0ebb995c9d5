"""What an input is called in the table, and sets of such names that stay small."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def image_id(uri: str, version: str) -> int:
    """The join key of one input: the first 64 bits of BLAKE2b over address and version, as a signed integer.

    A cryptographic hash, since an archive's addresses may be chosen by somebody else: two inputs with one id
    would be captioned once. By chance that happens once in 370,000 tables of ten million rows.
    """
    digest = blake2b(f"{uri}\0{version}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def image_ids(uris: pa.Array, versions: pa.Array | str) -> Ids:
    """`image_id` of each of some addresses (n,), of their versions (n,) or of one for all: (n,)."""
    empty, digests = blake2b(digest_size=8), []
    for text in _bytes(uris, versions):
        hashed = empty.copy()  # a quarter cheaper than a new one, whose options are parsed again
        hashed.update(text)
        digests.append(hashed.digest())
    return np.frombuffer(b"".join(digests), ">i8").astype(np.int64)


def address_hashes(uris: pa.Array) -> Ids:
    """Hashes of addresses (n,) for look-ups within this process: (n,). Never to be stored, or told another process.

    Python's own, at a quarter of what `image_id` costs. Each process has its own secret key for it, so that nobody can
    choose addresses whose hashes are the same.
    """
    return np.fromiter(map(hash, _bytes(uris, "")), np.int64, len(uris))


def _bytes(uris: pa.Array, versions: pa.Array | str) -> list[bytes]:
    versions = pa.scalar(versions) if isinstance(versions, str) else versions
    joined: list[bytes] = pc.binary_join_element_wise(uris, versions, "\0").cast(pa.binary()).to_pylist()
    return joined


class IdSet:
    """A growing set of 64-bit ids in about 8 bytes each, where a Python set takes over 60.

    Sorted arrays whose sizes at least double from one to the next older, merged as they grow (the log-structured
    merge of databases): adding n ids costs O(n log n) in all, a look-up one binary search per array.
    """

    def __init__(self, ids: Iterable[Ids] = ()) -> None:
        """Of some arrays of ids, all at once: in twice their size."""
        self._runs: list[Ids] = []
        chunks = [*ids]
        if chunks:
            every = np.concatenate(chunks)
            chunks.clear()
            every.sort()
            self._runs.append(_distinct(every))

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def contains(self, ids: Ids) -> NDArray[np.bool_]:
        """For each of ``ids`` (n,), whether it is in the set: (n,)."""
        is_member = np.zeros(len(ids), dtype=np.bool_)
        order = np.argsort(ids)
        is_member[order] = self._holds(ids[order])
        return is_member

    def _holds(self, ids: Ids) -> NDArray[np.bool_]:
        """`contains` of sorted ids, whose binary searches go the same ways: a tenth of the time in ten million."""
        is_member = np.zeros(len(ids), dtype=np.bool_)
        for run in self._runs:
            at = np.searchsorted(run, ids)
            at[at == len(run)] = 0
            is_member |= run[at] == ids
        return is_member

    def add(self, ids: Ids) -> NDArray[np.bool_]:
        """Add ``ids`` (n,); for each, whether it was new: (n,). Of equal ids in one call the first is new."""
        fresh = np.zeros(len(ids), dtype=np.bool_)
        order = np.argsort(ids)
        unique = ids[order]
        if (unique[1:] == unique[:-1]).any():
            unique, order = np.unique(ids, return_index=True)  # four times the time
        new = ~self._holds(unique)
        fresh[order[new]] = True
        self._push(unique if new.all() else unique[new])
        return fresh

    def _push(self, run: Ids) -> None:
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            newer, older = self._runs.pop(), self._runs.pop()
            merged = np.concatenate((older, newer))
            merged.sort(kind="stable")  # two sorted runs: timsort merges them in one pass
            self._runs.append(merged)


def _distinct(ids: Ids) -> Ids:
    """Sorted ids without those that come again."""
    again = ids[1:] == ids[:-1]
    return ids[np.concatenate(([True], ~again))] if again.any() else ids


class IdMap:
    """A growing map from 64-bit ids to the first value each was given with, in 16 bytes each.

    Kept as `IdSet` is.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Ids, Ids]] = []

    def setdefault(self, ids: Ids, values: Ids) -> Ids:
        """Add what is new of ids (n,) with values (n,); for each id, the value it was first given with: (n,)."""
        unique, first, back = np.unique(ids, return_index=True, return_inverse=True)
        earlier, known = values[first], np.zeros(len(unique), dtype=np.bool_)
        for keys, kept in self._runs:
            at = np.searchsorted(keys, unique)
            at[at == len(keys)] = 0
            here = keys[at] == unique
            earlier = np.where(here, kept[at], earlier)
            known |= here
        self._push(unique[~known], earlier[~known])
        given: Ids = earlier[back]
        return given

    def _push(self, keys: Ids, values: Ids) -> None:
        if not len(keys):
            return
        self._runs.append((keys, values))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            (newer, new), (older, old) = self._runs.pop(), self._runs.pop()
            merged = np.concatenate((older, newer))
            order = np.argsort(merged, kind="stable")
            self._runs.append((merged[order], np.concatenate((old, new))[order]))
