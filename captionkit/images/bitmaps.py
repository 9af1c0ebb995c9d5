"""Run-length encoded BMP, 4 and 8 bits a pixel.

Pillow's reader loses its place where an absolute run goes beyond the end of its row, and everything after is skewed.
https://learn.microsoft.com/en-us/windows/win32/gdi/bitmap-compression
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from captionkit.images.structure import cut_short


def is_run_length_encoded(image: BmpImageFile) -> bool:
    """Of an image that is not loaded yet."""
    return bool(image.tile) and image.tile[0][0] == "bmp_rle"


def read_runs(image: BmpImageFile, data: bytes) -> Image.Image:
    """The pixels of such an image; those that no run reaches have the first colour.

    Raises ImageError "truncated" where the file ends before the image does.
    """
    tile = image.tile[0]
    assert isinstance(tile.args, tuple)
    width, height = image.size
    numbers = _numbers(data, tile.offset, width, height, four_bits=bool(tile.args[1]))
    if image.mode == "1":
        return Image.fromarray(np.minimum(numbers, 1) * np.uint8(255))
    picture = Image.fromarray(numbers)
    if image.mode == "P" and image.palette is not None:
        picture.putpalette(bytes(image.palette.palette), image.palette.rawmode or image.palette.mode)
    return picture


def _numbers(data: bytes, at: int, width: int, height: int, four_bits: bool) -> NDArray[np.uint8]:
    """Numbers of colours, uint8 (height, width), from the top. What lies beyond a row's end is left out.

    Raises ImageError "truncated".
    """
    numbers = bytearray(width * height)
    x = y = 0
    while y < height:
        if at + 2 > len(data):
            if y == height - 1 and x >= width:
                break  # only the end marker is missing
            raise cut_short("BMP", data)
        count, value = data[at], data[at + 1]
        at += 2
        if count:  # a run of one colour, or of two in turn
            run = bytes((value >> 4, value & 15)) * (count + 1 >> 1) if four_bits else bytes((value,)) * count
            run = run[:count]
        elif value == 0:
            x, y = 0, y + 1
            continue
        elif value == 1:
            break
        elif value == 2:
            x, y = x + int.from_bytes(data[at : at + 1], "big"), y + int.from_bytes(data[at + 1 : at + 2], "big")
            at += 2
            continue
        else:  # pixels as they are, padded to 16 bits
            length = value + 1 >> 1 if four_bits else value
            run = data[at : at + length]
            if four_bits:
                run = bytes(half for byte in run for half in (byte >> 4, byte & 15))[:value]
            at += length + length % 2
        if x < width:
            run = run[: width - x]
            numbers[y * width + x : y * width + x + len(run)] = run
        x += count or value
    upside_down: NDArray[np.uint8] = np.frombuffer(numbers, np.uint8).reshape(height, width)
    return np.ascontiguousarray(upside_down[::-1])
