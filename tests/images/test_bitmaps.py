"""Run-length encoded BMP: every kind of run, and rows that go on beyond their end."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from captionkit.images import ImageError, Preprocessing, decode

COLOURS = np.random.default_rng(1).integers(0, 256, (16, 3), np.uint8)
WIDTH, HEIGHT = 8, 4


def bitmap(runs: bytes, bits: int) -> bytes:
    """A BMP of 8 × 4 pixels and 16 colours with these runs."""
    palette = b"".join(bytes((*colour[::-1], 0)) for colour in COLOURS.tolist())
    start = 54 + len(palette)
    compression = {8: 1, 4: 2}[bits]
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, compression, len(runs), 0, 0, 16, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + palette + runs


def shown(data: bytes) -> np.ndarray:
    square = Preprocessing(size=8, resize=8, mode="squash", interpolation="nearest")
    return decode(data, square).pixels[::2]  # 4 rows of the 8, each of which is there twice


def expected(*rows: list[int]) -> np.ndarray:
    """Rows from the top."""
    return COLOURS[np.asarray(rows)]


def test_runs_of_8_bits() -> None:
    runs = (
        b"\x08\x03\x00\x00"  # a run
        b"\x00\x05\x01\x02\x03\x04\x05\x00\x03\x07\x00\x00"  # five as they are and padding, then a run
        b"\x02\x09\x00\x02\x02\x01\x04\x0a\x00\x00"  # a run, a step right and up, a run: what was stepped over is 0
        b"\x00\x01"
    )
    rows = ([0, 0, 0, 0, 10, 10, 10, 10], [9, 9, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 7, 7, 7], [3] * 8)
    assert np.array_equal(shown(bitmap(runs, 8)), expected(*rows))


def test_runs_of_4_bits_that_go_beyond_their_row() -> None:
    runs = (
        b"\x08\x12\x00\x00"  # 1 and 2 in turn
        b"\x00\x0a\x12\x34\x56\x78\x9a\x00\x00\x00"  # ten pixels in a row of eight
        b"\x04\x56\x0b\x78\x00\x00"  # fifteen
        b"\x08\x99\x00\x01"
    )
    rows = ([9] * 8, [5, 6, 5, 6, 7, 8, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2] * 4)
    assert np.array_equal(shown(bitmap(runs, 4)), expected(*rows))


@pytest.mark.parametrize("bits", [4, 8])
def test_cut_runs(bits: int) -> None:
    whole = bitmap({4: b"\x08\x11\0\0", 8: b"\x08\x01\0\0"}[bits] * 4, bits)
    assert np.array_equal(shown(whole), expected(*[[1] * 8] * 4))
    for length in range(54, len(whole) - 3):
        with pytest.raises(ImageError) as caught:
            decode(whole[:length], Preprocessing(size=8, resize=8))
        assert caught.value.kind == "truncated"
