"""TensorFlow's checkpoints (TensorBundle), without TensorFlow: `X.index`, a sorted table in LevelDB's format that says
of each tensor where it lies, and `X.data-00000-of-00001` with the raw numbers.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/util/tensor_bundle/tensor_bundle.h
https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from captionkit.adopt.crc32c import masked_crc32c
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.protobuf import fields, integer, parts, read_varint
from captionkit.lfs import LFS_POINTER, is_lfs_pointer

TABLE_MAGIC: Final = 0xDB4775248B80FB57.to_bytes(8, "little")
"""What a table ends with."""
_FOOTER, _TRAILER = 48, 5
"""Bytes behind all blocks, and behind each: its compression and checksum."""
_MOST_KEYS, _MOST_KEY_BYTES = 100_000, 2**26
"""Of a table. Keys repeat the beginning of the one before in a few bytes, so a small table can hold many long ones."""
_MOST_SHARDS = 1_000
_STRING: Final = 7
_DTYPES: Final = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
"""numpy's types by TensorFlow's numbers (types.proto)."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `size` bytes from `offset` in a shard."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


@dataclass
class Checkpoint:
    """An index that was read, and the shards with its tensors.

    Attributes:
        entries: by the names of tensors.
        shards: names of the shards' files, as endings of the checkpoint's own.
    """

    entries: dict[str, Entry]
    shards: list[str]
    _data: list[memoryview] = field(default_factory=list)

    def load(self, read: Callable[[str], bytes]) -> None:
        """Read the shards.

        Args:
            read: gives the bytes of a shard by its ending.

        Raises:
            AdoptError: one is a pointer, or cut; what `read` raises.
        """
        for number, ending in enumerate(self.shards):
            data = read(ending)
            if is_lfs_pointer(data):
                raise AdoptError(f"its part {ending} is {LFS_POINTER}")
            needed = max((one.offset + one.size for one in self.entries.values() if one.shard == number), default=0)
            if needed > len(data):
                raise AdoptError(f"its part {ending} is cut: it needs {needed:,} bytes and has {len(data):,}")
            self._data.append(memoryview(data))

    def array(self, name: str) -> Any:
        """A tensor of numbers, in its own type.

        Raises:
            AdoptError: it is of another type, in slices, or damaged.
        """
        entry = self.entries[name]
        if entry.sliced:
            raise AdoptError(
                f"the variable {name} was saved in parts (partitioned), which captionkit does not join; load it in "
                "TensorFlow and save it without a partitioner"
            )
        dtype = np.dtype(_DTYPES.get(entry.dtype, "V"))
        if dtype.kind == "V":
            raise AdoptError(f"the variable {name} is of a type that captionkit does not read (number {entry.dtype})")
        if math.prod(entry.shape) * dtype.itemsize != entry.size:
            raise AdoptError(f"the index is damaged: {name} of {entry.shape} has {entry.size:,} bytes")
        return np.frombuffer(self._bytes(name, entry), dtype).reshape(entry.shape)

    def floats(self) -> Iterator[str]:
        """Names of the tensors of fractions."""
        return (name for name, entry in self.entries.items() if "f" in _DTYPES.get(entry.dtype, ""))

    def string(self, name: str) -> memoryview:
        """A tensor that is one string. Before it stand its length and that number's checksum.

        Raises:
            AdoptError: it is no such tensor.
        """
        entry = self.entries[name]
        if entry.dtype != _STRING or entry.shape:
            raise AdoptError(f"the index is damaged: {name} is no string")
        data = self._data[entry.shard][entry.offset : entry.offset + entry.size]
        size, at = read_varint(data, 0)
        if at + 4 + size != len(data):
            raise AdoptError(f"the checkpoint is damaged: {name} is not as long as it says")
        return data[at + 4 :]

    def _bytes(self, name: str, entry: Entry) -> memoryview:
        data = self._data[entry.shard][entry.offset : entry.offset + entry.size]
        if masked_crc32c(data) != entry.checksum:
            raise AdoptError(f"the checkpoint is damaged: the checksum of {name} is another; fetch its data anew")
        return data


def read_index(data: bytes) -> Checkpoint:
    """Read a checkpoint's index. `Checkpoint.load` reads the rest.

    Raises:
        AdoptError: it is cut, damaged, or another table.
    """
    table = dict(read_table(memoryview(data)))
    header = table.pop(b"", None)
    if header is None:
        raise AdoptError("a table in LevelDB's format that is no index of a TensorFlow checkpoint")
    if integer(header, 2):
        raise AdoptError("the checkpoint was written on a big-endian machine, which captionkit does not read")
    count = integer(header, 1)
    if not 0 < count <= _MOST_SHARDS:
        raise AdoptError(f"the index is damaged: it names {count:,} files of data")
    entries = {key.decode("utf-8", "replace"): _entry(value) for key, value in table.items()}
    if any(entry.shard >= count for entry in entries.values()):
        raise AdoptError("the index is damaged: a tensor lies in a file that is none of its own")
    return Checkpoint(entries, [f".data-{number:05d}-of-{count:05d}" for number in range(count)])


def _entry(message: memoryview) -> Entry:
    numbers = {key: value for key, value in fields(message) if isinstance(value, int)}
    dims = read_shape(next(parts(message, 2), memoryview(b"")))
    dtype, shard, offset, size, checksum = (numbers.get(key, 0) for key in (1, 3, 4, 5, 6))
    return Entry(dtype, dims, shard, offset, size, checksum, any(True for _ in parts(message, 7)))


def read_shape(message: memoryview) -> tuple[int, ...]:
    """A TensorShapeProto."""
    return tuple(integer(dim, 1) for dim in parts(message, 2))


def is_first_format(data: bytes) -> bool:
    """Whether a table is a checkpoint by itself (see `tensor_slices`), not an index: its first value is a message that
    describes all tensors, and not the number of shards.

    Raises:
        AdoptError: as `read_table`.
    """
    key, header = next(read_table(memoryview(data)), (b"-", memoryview(b"")))
    return key == b"" and next(parts(header, 1), None) is not None


def read_table(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a table in LevelDB's format: its last block names the others.

    Raises:
        AdoptError: it is cut, damaged, compressed, or too large.
    """
    if len(data) < _FOOTER or data[-8:] != TABLE_MAGIC:
        raise AdoptError(
            f"the index is cut or damaged: it lacks the end of a table ({len(data):,} bytes); fetch it anew"
        )
    footer = data[-_FOOTER:]
    _, at = read_varint(footer, 0)
    _, at = read_varint(footer, at)
    budget = [_MOST_KEYS, _MOST_KEY_BYTES]
    for _, handle in _read_block(data, footer[at:], budget):
        yield from _read_block(data, handle, budget)


def _read_block(data: memoryview, handle: memoryview, budget: list[int]) -> Iterator[tuple[bytes, memoryview]]:
    offset, at = read_varint(handle, 0)
    size, _ = read_varint(handle, at)
    end = offset + size
    if end + _TRAILER > len(data):
        raise AdoptError("the index is cut or damaged: a block lies beyond its end; fetch it anew")
    if data[end]:
        raise AdoptError("the index is compressed, as TensorFlow does not write it")
    if masked_crc32c(data[offset : end + 1]) != struct.unpack_from("<I", data, end + 1)[0]:
        raise AdoptError("the index is damaged: the checksum of a block is another; fetch it anew")
    block = data[offset:end]
    restarts = struct.unpack_from("<I", block, size - 4)[0] if size >= 4 else 0
    end = size - 4 - 4 * restarts
    if end < 0:
        raise AdoptError("the index is damaged: a block is shorter than it says; fetch it anew")
    key, at = b"", 0
    while at < end:
        shared, at = read_varint(block, at)
        added, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or at + added + length > end:
            raise AdoptError("the index is damaged: a key or value is longer than its block; fetch it anew")
        key = key[:shared] + bytes(block[at : at + added])
        at += added
        budget[0], budget[1] = budget[0] - 1, budget[1] - len(key)
        if min(budget) < 0:
            raise AdoptError(f"the index has more than {_MOST_KEYS:,} tensors, or names too long to be true")
        yield key, block[at : at + length]
        at += length
