"""A small writer of TensorFlow's checkpoints and SavedModels, from the descriptions of their formats."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.crc32c import crc32c as plain_crc32c  # a loop over the bytes

from captionkit.adopt.crc32c import masked_crc32c

_BLOCK, _RESTART, _LARGE = 4096, 16, 2**16
_NUMBERS = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9, "<f2": 19}


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a message: a number, or text or a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def checksum(data: bytes) -> bytes:
    """Masked, as it is stored. That of large tensors by captionkit's own, which is tested by itself."""
    if len(data) > _LARGE:
        return struct.pack("<I", masked_crc32c(data))
    crc = plain_crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def block(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Keys share their beginnings with those before them; every sixteenth is whole."""
    out, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % _RESTART:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    out = b""

    def add(data: bytes) -> bytes:
        nonlocal out
        handle = varint(len(out)) + varint(len(data))
        out += data + b"\0" + checksum(data + b"\0")
        return handle

    index, waiting, size = [], [], 0
    for key, value in sorted(pairs):
        waiting.append((key, value))
        size += len(key) + len(value)
        if size > _BLOCK:
            index.append((key, add(block(waiting))))
            waiting, size = [], 0
    if waiting:
        index.append((waiting[-1][0], add(block(waiting))))
    handles = add(block([])) + add(block(index))
    return out + handles.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def entry(
    dtype: int, shape: Sequence[int], shard: int, offset: int, data: bytes, crc: bytes, more: bytes = b""
) -> bytes:
    dims = b"".join(field(2, field(1, size)) for size in shape)
    found = field(1, dtype) + field(2, dims)
    found += (field(3, shard) if shard else b"") + (field(4, offset) if offset else b"")
    return found + field(5, len(data)) + varint(6 << 3 | 5) + crc + more


def write_checkpoint(stem: Path, tensors: Mapping[str, Any], shards: int = 1, header: bytes = b"") -> Path:
    """`X.index` and its data; strings may be among the tensors. Returns the index's path.

    Args:
        header: fields to add to the header.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    data = [bytearray() for _ in range(shards)]
    pairs = [(b"", field(1, shards) + header + field(3, field(1, 1)))]
    for number, (name, value) in enumerate(sorted(tensors.items())):
        shard = number % shards
        if isinstance(value, bytes):
            length = struct.pack("<I", len(value))
            before = varint(len(value)) + checksum(length)
            raw, crc, dtype, shape = before + value, checksum(length + before[-4:] + value), 7, ()
        else:
            array = np.asarray(value)
            raw, dtype, shape = array.tobytes(), _NUMBERS[array.dtype.str], array.shape
            crc = checksum(raw)
        pairs.append((name.encode(), entry(dtype, shape, shard, len(data[shard]), raw, crc)))
        data[shard] += raw
    for number, one in enumerate(data):
        stem.with_name(f"{stem.name}.data-{number:05d}-of-{shards:05d}").write_bytes(one)
    index = stem.with_name(f"{stem.name}.index")
    index.write_bytes(table(pairs))
    return index


def write_slices(path: Path, tensors: Mapping[str, Any]) -> Path:
    """The format before TensorFlow 0.12: one file. Of a slice that is all of a tensor each extent is empty."""
    described, pairs = b"", []
    for name, value in tensors.items():
        array = np.asarray(value)
        kind = _NUMBERS[array.dtype.str]
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        whole = b"".join(field(1, b"") for _ in array.shape)
        described += field(1, field(1, name) + field(2, shape) + field(3, kind) + field(4, whole))
        number = {1: 5, 2: 6, 3: 7, 9: 10}[kind]
        raw = b"".join(map(varint, array.ravel().tolist())) if array.dtype.kind == "i" else array.tobytes()
        saved = field(1, name) + field(2, whole) + field(3, field(number, raw))
        pairs.append((b"\0" + name.encode() + b"\0\1", field(2, saved)))
    path.write_bytes(table([(b"", field(1, described + field(2, field(1, 1)))), *pairs]))
    return path


def object_graph(names: Mapping[str, str]) -> bytes:
    """The graph of objects that Keras puts into checkpoints. names: of variables in full, by their keys."""
    children = b"".join(field(1, field(1, number) + field(2, f"v{number}")) for number in range(1, len(names) + 1))
    nodes = field(1, children)
    for key, full in names.items():
        nodes += field(1, field(2, field(1, "VARIABLE_VALUE") + field(2, full) + field(3, key)))
    return nodes


def keras_checkpoint(layers: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Variables as Keras names them in a checkpoint: by the place of their layer, an LSTM's by the model's list; beside
    them what an optimizer remembers."""
    tensors: dict[str, Any] = {}
    full: dict[str, str] = {}
    count = 0
    for place, (layer, arrays) in enumerate(layers.items()):
        parts = {1: ("embeddings",), 2: ("kernel", "bias"), 3: ("kernel", "recurrent_kernel", "bias")}[len(arrays)]
        for part, array in zip(parts, arrays, strict=True):
            inner = f"{layer}_cell/{part}" if len(arrays) == 3 else part
            where = f"variables/{count}" if len(arrays) == 3 else f"layer_with_weights-{place}/{part}"
            key = f"{where}/.ATTRIBUTES/VARIABLE_VALUE"
            tensors[key], full[key] = array, f"{layer}/{inner}"
            slot = f"layer_with_weights-{place}/{part}/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE"
            tensors[slot], full[slot] = array * 0, f"{layer}/{part}"
            count += 1
    tensors["save_counter/.ATTRIBUTES/VARIABLE_VALUE"] = np.int64(3)
    return {**tensors, "_CHECKPOINTABLE_OBJECT_GRAPH": object_graph(full)}


def write_saved_model(
    folder: Path, layers: Mapping[str, Sequence[Any]], metadata: str | None, old: bool = False
) -> Path:
    """A SavedModel of a Keras network.

    Args:
        metadata: JSON of the network.
        old: whether saved_model.pb has it, as before TensorFlow 2.5.
    """
    index = write_checkpoint(folder / "variables" / "variables", keras_checkpoint(layers))
    root = field(4, field(1, "_tf_keras_network") + (field(3, metadata) if old and metadata else b""))
    graph = field(1, root) + field(1, field(4, field(1, "_tf_keras_layer") + field(3, "{}")))
    info, body = field(5, "2.4.0"), field(2, field(1, b"\x0a\x03abc"))
    (folder / "saved_model.pb").write_bytes(field(1, 1) + field(2, field(1, info) + body + field(7, graph)))
    if metadata and not old:
        nodes = [(0, "root", metadata), (1, "root.layer-0", "{}")]
        described = [
            field(1, field(2, n) + field(3, path) + field(4, "_k") + field(5, text)) for n, path, text in nodes
        ]
        (folder / "keras_metadata.pb").write_bytes(b"".join(described))
    (folder / "fingerprint.pb").write_bytes(field(1, 7))
    return index.parent.parent
