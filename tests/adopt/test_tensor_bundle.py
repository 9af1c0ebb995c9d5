"""TensorFlow's checkpoints: read by their index, with checksums, and refused in the right words where damaged."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.crc32c import crc32c as plain_crc32c

from captionkit.adopt.contents import look
from captionkit.adopt.crc32c import crc32c
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.tensor_bundle import Checkpoint, read_index
from captionkit.adopt.tensor_slices import read_slices
from tests.adopt.tensor_bundles import entry, field, table, varint, write_checkpoint, write_slices


def test_the_checksum_is_that_of_the_castagnoli_polynomial() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the usual check value
    numbers = random.Random(0)
    for size in [*range(70), 255, 256, 257, 1000, 4095, 5000, 70_001]:
        data = numbers.randbytes(size)
        assert crc32c(data) == plain_crc32c(data), size


def read(index: Path) -> Checkpoint:
    checkpoint = read_index(index.read_bytes())
    checkpoint.load(lambda ending: index.with_name(index.stem + ending).read_bytes())
    return checkpoint


def some_tensors() -> dict[str, Any]:
    random = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        f"InceptionV3/Mixed_{n}/Branch_{n % 4}/weights": random.normal(size=(n % 5, 3)).astype(np.float32)
        for n in range(300)
    }
    tensors |= {"step": np.int64(7), "half": np.ones(3, np.float16), "double": np.arange(4.0), "text": b"a dog runs"}
    return tensors


@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_are_read_from_every_block_and_shard(tmp_path: Path, shards: int) -> None:
    tensors = some_tensors()
    checkpoint = read(write_checkpoint(tmp_path / "model.ckpt-5", tensors, shards))
    assert checkpoint.entries.keys() == tensors.keys()
    for name, value in tensors.items():
        if isinstance(value, bytes):
            assert bytes(checkpoint.string(name)) == value
            continue
        found = checkpoint.array(name)
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
    assert set(checkpoint.floats()) == tensors.keys() - {"step", "text"}


def test_an_index_cut_or_changed_anywhere_is_refused(tmp_path: Path) -> None:
    data = write_checkpoint(tmp_path / "c", some_tensors()).read_bytes()
    for size in [*range(0, 200, 7), *range(200, len(data), 1009), len(data) - 1]:
        with pytest.raises(AdoptError, match="cut or damaged"):
            read_index(data[:size])
    whole = read_index(data).entries
    for at in range(0, len(data), 257):
        changed = bytearray(data)
        changed[at] ^= 0x55
        try:
            assert read_index(bytes(changed)).entries == whole  # in padding, or the unused metaindex
        except AdoptError:
            continue


def test_data_that_are_cut_or_changed_are_told(tmp_path: Path) -> None:
    index = write_checkpoint(tmp_path / "c", {"a": np.zeros(100, np.float32), "b": np.ones(50, np.float32)})
    data = tmp_path / "c.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:500])
    with pytest.raises(AdoptError, match=r"data-00000-of-00001 is cut: it needs 600 bytes and has 500"):
        read(index)
    data.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 600\n")
    with pytest.raises(AdoptError, match=r"data-00000-of-00001 is a Git LFS pointer"):
        read(index)
    data.write_bytes(whole[:8] + b"x" + whole[9:])
    checkpoint = read(index)
    checkpoint.array("b")
    with pytest.raises(AdoptError, match="checksum of a is another"):
        checkpoint.array("a")


HEADER = (b"", field(1, 1))
DAMAGED: list[tuple[list[tuple[bytes, bytes]], str]] = [
    ([(b"a", field(1, 1))], "no index of a TensorFlow checkpoint"),
    ([(b"", field(1, 1) + field(2, 1))], "big-endian"),
    ([(b"", field(1, 0))], "names 0 files"),
    ([(b"", field(1, 10**9))], "1,000,000,000 files"),
    ([HEADER, (b"a", entry(1, [2], 1, 0, b"8" * 8, b"0000"))], "none of its own"),
    ([HEADER, (b"a", b"\x0f")], "no message"),
    ([HEADER, (b"a", field(2, b"abc")[:-1])], "longer than the rest"),
    ([HEADER, (b"a", b"\xff" * 12)], "a number in it does not end"),
]


@pytest.mark.parametrize(("pairs", "complaint"), DAMAGED, ids=[complaint for _, complaint in DAMAGED])
def test_tables_of_other_things_are_called_what_they_are(pairs: list[tuple[bytes, bytes]], complaint: str) -> None:
    with pytest.raises(AdoptError, match=complaint):
        read_index(table(pairs))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (entry(1, [2], 0, 0, b"8" * 8, b"0000", field(7, field(1, b""))), "saved in parts"),
        (entry(1, [3], 0, 0, b"8" * 8, b"0000"), "index is damaged: a of"),
        (entry(1, [2**62, 4], 0, 0, b"8" * 8, b"0000"), "index is damaged: a of"),
        (entry(20, [2], 0, 0, b"8" * 8, b"0000"), "type that captionkit does not read"),
    ],
    ids=["slices", "size", "huge", "type"],
)
def test_a_tensor_that_cannot_be_read_is_told(value: bytes, complaint: str) -> None:
    checkpoint = read_index(table([HEADER, (b"a", value)]))
    checkpoint.load(lambda _: bytes(8))
    with pytest.raises(AdoptError, match=complaint):
        checkpoint.array("a")
    with pytest.raises(AdoptError, match="no string"):
        checkpoint.string("a")


def test_keys_that_repeat_a_long_beginning_do_not_fill_the_memory() -> None:
    """Three bytes each, and a megabyte once they are put together."""
    from tests.adopt import tensor_bundles

    key = varint(0) + varint(2**20) + varint(0) + b"k" * 2**20
    body = key + b"".join(varint(2**20) + varint(0) + varint(0) for _ in range(50_000))
    inner = body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    handle = varint(0) + varint(len(inner))
    index = tensor_bundles.block([(b"z", handle)])
    data = inner + b"\0" + tensor_bundles.checksum(inner + b"\0")
    at = len(data)
    data += index + b"\0" + tensor_bundles.checksum(index + b"\0")
    footer = (varint(0) + varint(0) + varint(at) + varint(len(index))).ljust(40, b"\0")
    with pytest.raises(AdoptError, match="too long to be true"):
        read_index(data + footer + bytes.fromhex("57fb808b247547db"))


def test_the_first_format_is_one_file(tmp_path: Path) -> None:
    tensors = {name: value for name, value in some_tensors().items() if name not in ("text", "half")}
    data = write_slices(tmp_path / "model.ckpt-5", tensors).read_bytes()
    found = look(data, "model.ckpt-5").tensors
    assert found.keys() == tensors.keys() - {"step"}
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.numpy(), tensors[name].astype(np.float32))
    for size in range(10, len(data), 4999):
        with pytest.raises(AdoptError):
            read_slices(data[:size])
    described = field(1, field(1, "a") + field(2, field(2, field(1, 3))) + field(3, 1) + field(4, b""))
    values = field(2, field(1, "a") + field(3, field(5, bytes(8))))
    with pytest.raises(AdoptError, match=r"a of \(3,\) has 8 bytes"):
        read_slices(table([(b"", field(1, described)), (b"a", values)]))
    with pytest.raises(AdoptError, match="lacks the values of a"):
        read_slices(table([(b"", field(1, described))]))
    halves = field(1, field(1, "a") + field(2, field(2, field(1, 3))) + field(3, 1) + field(4, b"") + field(4, b""))
    with pytest.raises(AdoptError, match="saved in parts"):
        read_slices(table([(b"", field(1, halves))]))
