"""Files of every format, and what accidents and enemies make of them."""

from __future__ import annotations

import random
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, features

from tests.support.image_zoo import broken, encode, odd, photo

SMALL_FILE = 60_000


def seeds() -> list[tuple[str, bytes]]:
    """(name, bytes) of real files: the zoo's, sound and broken, and kinds of each format that it has no use for."""
    zoo = [(picture.name, picture.data) for picture in odd()] + [(bad.name, bad.data) for bad in broken()]
    return [(name, data) for name, data in [*zoo, *_more()] if 0 < len(data) < SMALL_FILE]


def _more() -> list[tuple[str, bytes]]:
    picture = photo(50, 37, seed=3)
    grey, two = picture.convert("L"), picture.convert("1")
    files = [
        ("restarts.jpg", encode(picture, "JPEG", restart_marker_blocks=2)),
        ("444.jpg", encode(picture, "JPEG", subsampling=0, optimize=True)),
        ("grey-progressive.jpg", encode(grey, "JPEG", progressive=True)),
        ("profile.jpg", encode(picture, "JPEG", icc_profile=bytes(3000), comment=b"hello")),
        ("interlaced.gif", encode(picture.quantize(16), "GIF", interlace=1)),
        ("os2.bmp", _os2_bitmap(picture)),
        ("palette.bmp", encode(picture.quantize(16), "BMP")),
        ("one-bit.bmp", encode(two, "BMP")),
        ("bitmap.pbm", encode(two, "PPM")),
        ("tiles.jp2", encode(picture, "JPEG2000", tile_size=(16, 16), quality_layers=[20, 5], irreversible=True)),
        ("alpha.jp2", encode(picture.convert("RGBA"), "JPEG2000")),
        ("stream.j2k", encode(grey, "JPEG2000", no_jp2=True)),
        ("lossy-alpha.webp", encode(picture.convert("RGBA"), "WEBP", quality=40)),
        *((f"{kind}.tiff", encode(image, "TIFF", compression=kind)) for kind, image in _compressions(picture, two)),
        ("planes.tiff", encode(picture.convert("LAB"), "TIFF")),
        ("ycbcr.tiff", encode(picture.convert("YCbCr"), "TIFF", compression="tiff_lzw")),
        ("big.tiff", encode(picture, "TIFF", big_tiff=True)),
    ]
    if features.check("avif"):
        files.append(("alpha.avif", encode(picture.convert("RGBA"), "AVIF", subsampling="4:4:4")))
    return files


def _compressions(picture: Image.Image, two: Image.Image) -> list[tuple[str, Image.Image]]:
    fax = [(kind, two) for kind in ("group3", "group4", "tiff_ccitt")]
    kinds = ("packbits", "tiff_adobe_deflate", "tiff_lzw", "jpeg", "zstd", "webp", "lzma")
    usable = []
    for kind, image in [*fax, *((kind, picture) for kind in kinds)]:
        try:
            image.save(BytesIO(), "TIFF", compression=kind)
        except (OSError, RuntimeError):
            continue  # this Pillow was built without it
        usable.append((kind, image))
    return usable


def _os2_bitmap(picture: Image.Image) -> bytes:
    rows = np.asarray(picture)[::-1, :, ::-1]
    padding = bytes(-rows.shape[1] * 3 % 4)
    body = b"".join(row.tobytes() + padding for row in rows)
    header = (12).to_bytes(4, "little") + b"".join(n.to_bytes(2, "little") for n in (*picture.size, 1, 24))
    return b"BM" + (26 + len(body)).to_bytes(4, "little") + bytes(4) + (26).to_bytes(4, "little") + header + body


def damage(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One damaged file: flipped bytes, a cut, a splice with another file, an edited header, or several of these."""
    mutant = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        if len(mutant) < 4:
            break
        rng.choice([_flip, _flip, _edit_header, _edit_header, _cut, _lose, _double, _splice])(mutant, other, rng)
    if mutant.startswith(b"\x89PNG") and rng.random() < 0.7:
        _sign(mutant)
    return bytes(mutant)


def _sign(mutant: bytearray) -> None:
    """Puts the checksums of a PNG right, without which its decoder would not look at what is damaged."""
    at = 8
    while at + 12 <= len(mutant):
        end = at + 8 + int.from_bytes(mutant[at : at + 4], "big")
        if end + 4 > len(mutant):
            return
        mutant[end : end + 4] = zlib.crc32(mutant[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


_TELLING = [0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 127, 128, 192, 216, 217, 218, 254, 255]


def _flip(mutant: bytearray, _: bytes, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 3, 30])):
        at = rng.randrange(len(mutant))
        mutant[at] = rng.choice([mutant[at] ^ 1 << rng.randrange(8), rng.randrange(256), *_TELLING[:4]])


def _edit_header(mutant: bytearray, _: bytes, rng: random.Random) -> None:
    """A number of one, two or four bytes near the front, made extreme."""
    at = rng.randrange(min(len(mutant), rng.choice([32, 64, 256, 700])))
    size = rng.choice([1, 2, 2, 4, 4])
    value = rng.choice(
        [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 65535, 32768, 255, rng.choice(_TELLING), rng.randrange(2**32)]
    )
    number = (value % 256**size).to_bytes(size, rng.choice(["big", "little"]))
    mutant[at : at + size] = number


def _cut(mutant: bytearray, _: bytes, rng: random.Random) -> None:
    del mutant[rng.randrange(2, len(mutant)) :]


def _lose(mutant: bytearray, _: bytes, rng: random.Random) -> None:
    at = rng.randrange(len(mutant))
    del mutant[at : at + rng.choice([1, 2, 16, 500])]


def _double(mutant: bytearray, _: bytes, rng: random.Random) -> None:
    at, length = rng.randrange(len(mutant)), rng.choice([1, 4, 40, 400])
    mutant[at:at] = mutant[at : at + length]


def _splice(mutant: bytearray, other: bytes, rng: random.Random) -> None:
    at, start = rng.randrange(len(mutant)), rng.randrange(len(other))
    length = rng.choice([2, 8, 64, 1000])
    if rng.random() < 0.5:
        mutant[at : at + length] = other[start : start + length]
    else:
        del mutant[at:]
        mutant += other[start:]
