"""CRC-32C (Castagnoli), which TensorFlow's files have over their blocks and tensors. By numpy, as a loop over the bytes
of 100 MB would take minutes: the data are cut into pieces whose checksums are computed side by side and then joined."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL: Final = 0x82F63B78
_MASK_DELTA: Final = 0xA282EAD8
_SMALLEST, _LARGEST = 4, 11
"""Bytes of a piece, as powers of two."""

Words = NDArray[np.uint32]


def _make_table() -> Words:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(_POLYNOMIAL), values >> 1)
    return values


_TABLE: Final = _make_table()


def masked_crc32c(data: bytes | memoryview) -> int:
    """As files store it: rotated, and with a number added."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of some bytes."""
    size = len(data)
    if size < 4:
        crc = 0xFFFFFFFF
        for byte in bytes(data):
            crc = int(_TABLE[(crc ^ byte) & 0xFF]) ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    power = min(max((size.bit_length() + 1) // 2, _SMALLEST), _LARGEST)
    length = 1 << power
    count = -(-size // length)
    # Zeros before the data change nothing, as the register begins at 0: its usual first value is in the first bytes.
    padded = np.zeros(count * length, np.uint8)
    padded[-size:] = np.frombuffer(data, np.uint8)
    first = count * length - size
    padded[first : first + 4] ^= 0xFF
    columns = np.ascontiguousarray(padded.reshape(count, length).T)
    crcs = np.zeros(count, np.uint32)
    for column in columns:
        crcs = _TABLE[(crcs ^ column) & 0xFF] ^ (crcs >> 8)
    shift = _one_byte()
    for _ in range(power):
        shift = _apply(shift, shift)
    while len(crcs) > 1:  # pairs of neighbours: that before is moved by the length of that behind
        if len(crcs) % 2:
            crcs = np.concatenate([np.zeros(1, np.uint32), crcs])
        crcs = _apply(shift, crcs[::2]) ^ crcs[1::2]
        shift = _apply(shift, shift)
    return int(crcs[0]) ^ 0xFFFFFFFF


def _one_byte() -> Words:
    """What a byte of zeros makes of each bit of the register."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    return np.asarray(_TABLE[bits & 0xFF] ^ (bits >> np.uint32(8)))


def _apply(shift: Words, crcs: Words) -> Words:
    """Registers after as many bytes of zeros as `shift` stands for."""
    moved = np.zeros_like(crcs)
    for bit in range(32):
        moved ^= np.where((crcs >> np.uint32(bit)) & 1, shift[bit], np.uint32(0))
    return moved
