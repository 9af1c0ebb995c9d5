"""TensorFlow's first checkpoint format (before 0.12): one file, a table in LevelDB's format that holds the tensors
themselves. im2txt's oldest checkpoints have it.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/util/saved_tensor_slice.proto
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.protobuf import integer, parts, text
from captionkit.adopt.tensor_bundle import read_shape, read_table

_FLOATS: Final = {1: (5, "<f4"), 2: (6, "<f8")}
"""Of types of fractions: the field of a TensorProto that has the values, and numpy's type."""


def read_slices(data: bytes) -> dict[str, Any]:
    """The tensors of fractions in a checkpoint, by name.

    Raises:
        AdoptError: it is damaged, or a tensor is in parts.
    """
    table = dict(read_table(memoryview(data)))
    known: dict[str, tuple[int, tuple[int, ...]]] = {}  # types and shapes
    for meta in parts(table.pop(b"", memoryview(b"")), 1):
        for one in parts(meta, 1):
            if integer(one, 3) in _FLOATS:
                name = text(one, 1)
                if sum(1 for _ in parts(one, 4)) != 1:
                    raise AdoptError(
                        f"the variable {name} was saved in parts (partitioned), which captionkit does not join"
                    )
                known[name] = integer(one, 3), read_shape(next(parts(one, 2), memoryview(b"")))
    slices: dict[str, Any] = {}
    for message in table.values():
        for saved in parts(message, 2):
            name = text(saved, 1)
            if name in known:
                slices[name] = _values(name, next(parts(saved, 3), memoryview(b"")), *known[name])
    if missing := sorted(known.keys() - slices.keys()):
        raise AdoptError(f"the checkpoint is damaged: it lacks the values of {', '.join(missing[:3])}")
    return slices


def _values(name: str, tensor: memoryview, kind: int, shape: tuple[int, ...]) -> Any:
    field, dtype = _FLOATS[kind]
    values = b"".join(parts(tensor, field))
    if len(values) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise AdoptError(f"the checkpoint is damaged: {name} of {shape} has {len(values):,} bytes")
    return np.frombuffer(values, dtype).reshape(shape)
