"""Protocol Buffers' wire format, read field by field: no generated classes, and no more of a message than is asked for.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from captionkit.adopt.errors import AdoptError

_LONGEST_VARINT = 10


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends.

    Raises:
        AdoptError: the data end within it, or it is longer than one can be.
    """
    value = 0
    for place in range(_LONGEST_VARINT):
        if at + place >= len(data):
            break
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + place + 1
    raise AdoptError("the file is damaged: a number in it does not end; fetch it anew")


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields in their order: whole numbers, or bytes (text, messages) as views.

    Raises:
        AdoptError: these bytes are no message.
    """
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = read_varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = read_varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise AdoptError("the file is damaged: it holds what is no message of Protocol Buffers; fetch it anew")
        if size > len(message) - at:
            raise AdoptError("the file is cut or damaged: a message in it is longer than the rest; fetch it anew")
        part = message[at : at + size]
        at += size
        yield number, part if kind == 2 else struct.unpack("<Q" if kind == 1 else "<I", part)[0]


def parts(message: memoryview, number: int) -> Iterator[memoryview]:
    """The fields of a number that are text or messages."""
    return (value for key, value in fields(message) if key == number and isinstance(value, memoryview))


def text(message: memoryview, number: int) -> str:
    """A field that is text; empty where it is absent."""
    return bytes(next(parts(message, number), b"")).decode("utf-8", "replace")


def integer(message: memoryview, number: int) -> int:
    """A field that is a number; 0 where it is absent."""
    return next((value for key, value in fields(message) if key == number and isinstance(value, int)), 0)
