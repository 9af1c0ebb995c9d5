"""Broken pictures with the kind they fail with, and odd but sound ones with what they show.

All made in code, small, the same bytes each time. Nothing here is read from files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

from captionkit.images import Limits


@dataclass(frozen=True)
class Broken:
    """Bytes that fail with `kind`, under `limits` (the default ones for most)."""

    name: str
    data: bytes
    kind: str
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Odd:
    """Bytes that show `shows` (RGB, upright). `tolerance`: mean absolute difference allowed, of 255."""

    name: str
    data: bytes
    shows: Image.Image
    tolerance: float = 1.0


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with the statistics of a photograph: smooth areas, edges and texture at every scale."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (3, 7, 16, 40, 110):
        small = rng.normal(0, 90 / cells**0.55, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(small[:, :, channel])
            total[:, :, channel] += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    """The image as a file's bytes."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG put together by hand: what Pillow cannot write (16-bit RGB) or nobody should (a bomb)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def oriented(orientation: int) -> bytes:
    """EXIF bytes that say this orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def broken() -> list[Broken]:
    """At least one of each kind of failure."""
    picture = photo(96, 64)
    jpeg, whole_png = encode(picture, "JPEG"), encode(picture, "PNG")
    damaged = bytearray(whole_png)
    damaged[len(damaged) // 2] ^= 0x55
    damaged_header = bytearray(whole_png)
    damaged_header[20] ^= 0x01
    bad_tables = bytearray(jpeg)
    bad_tables[jpeg.index(b"\xff\xdb") + 2 :] = b"\x00\x08" + bytes(50) + b"\xff\xd9"
    twelve_bits = bytearray(jpeg)
    twelve_bits[jpeg.index(b"\xff\xc0") + 4] = 12
    noise = np.random.default_rng(7).integers(0, 256, 4096, np.uint8).tobytes()
    cut = {
        "jpeg": jpeg,
        "progressive-jpeg": encode(picture, "JPEG", progressive=True),
        "png": whole_png,
        "gif": encode(picture, "GIF"),
        "webp": encode(picture, "WEBP"),
        "bmp": encode(picture, "BMP"),
        "tiff": encode(picture, "TIFF"),
        "lzw-tiff": encode(picture, "TIFF", compression="tiff_lzw"),
        "jpeg-tiff": encode(picture, "TIFF", compression="jpeg"),
        "jpeg2000": encode(picture, "JPEG2000"),
        "ppm": encode(picture, "PPM"),
    }
    if features.check("avif"):
        cut["avif"] = encode(picture, "AVIF")
    return [
        Broken("empty.jpg", b"", "empty"),
        Broken("text.jpg", b"Not Found: the image you asked for has moved.\n", "not_an_image"),
        Broken("error-page.jpg", b"\n<!DOCTYPE html><html><body>403 <svg></svg></body></html>", "not_an_image"),
        Broken("denied.jpg", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "not_an_image"),
        Broken("answer.png", b'{"error": "quota"}', "not_an_image"),
        Broken("document.jpg", b"PK\3\4" + noise, "not_an_image"),
        Broken("film.jpg", b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + noise, "not_an_image"),
        Broken("noise.jpg", b"\x07" + noise, "not_an_image"),
        Broken("zeros.jpg", bytes(5000), "not_an_image"),
        Broken("one-byte.jpg", b"\xff", "not_an_image"),
        Broken("bmw.jpg", b"BMW is a maker of cars and motorcycles.", "not_an_image"),
        Broken("layers.xcf", b"gimp xcf v011\0" + noise, "unsupported_format"),
        Broken("print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format"),
        Broken("favicon.ico", encode(picture.resize((32, 32)), "ICO"), "unsupported_format"),
        Broken("plain.ppm", b"P3\n# made by hand\n1 1\n255\n9 9 9\n", "unsupported_format"),
        Broken("cut-deep.ppm", b"P6\n2 2\n1000\n" + bytes(23), "truncated"),
        Broken("12-bit.jpg", bytes(twelve_bits), "unsupported_format"),
        *(
            Broken(f"cut-{where}.{name}", data[: int(len(data) * part)], "truncated")
            for name, data in cut.items()
            for where, part in (("early", 0.2), ("late", 0.8))
        ),
        Broken("only-magic.jpg", b"\xff\xd8\xff", "truncated"),
        Broken("only-magic.png", whole_png[:8], "truncated"),
        Broken("preallocated.jpg", jpeg[:-500] + bytes(40_000), "truncated"),
        Broken("damaged.png", bytes(damaged), "corrupt"),
        Broken("damaged-header.png", bytes(damaged_header), "corrupt"),
        Broken("damaged.jpg", bytes(bad_tables), "corrupt"),
        Broken("bomb.png", png(100_000, 100_000, 8, 2, b""), "too_many_pixels"),
        Broken("bomb.bmp", _bmp_header(100_000, 100_000), "too_many_pixels"),
        Broken("bomb.webp", _webp_header(16_384, 16_384), "too_many_pixels"),
        Broken("large.png", whole_png, "too_many_pixels", Limits(max_pixels=96 * 64 - 1)),
        Broken("heavy.png", whole_png, "too_many_bytes", Limits(max_bytes=len(whole_png) - 1)),
    ]


def _bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _webp_header(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size


def odd() -> list[Odd]:
    """Sound pictures of every kind that captionkit has a policy for."""
    picture = photo(96, 64, seed=1)
    grey = picture.convert("L")
    grey_shown = grey.convert("RGB")
    return [
        *_plain_formats(picture),
        *_turned(picture),
        *_coloured(picture),
        *_deep(grey),
        *_see_through(picture, grey),
        *_many_frames(picture),
        *_extreme(),
        Odd("grey.jpg", encode(grey, "JPEG", quality=95), grey_shown, 3),
        Odd("one-bit.png", encode(grey.convert("1"), "PNG"), grey.convert("1").convert("RGB")),
        Odd("palette.png", encode(picture.quantize(64), "PNG"), picture.quantize(64).convert("RGB")),
        Odd("no-end.png", encode(picture, "PNG")[:-12], picture),
        Odd("trailer.jpg", encode(picture, "JPEG", quality=95) + b"Samsung" + bytes(200), picture, 4),
        Odd("bad-exif.jpg", encode(picture, "JPEG", quality=95, exif=b"Exif\0\0II*\0garbage!!"), picture, 4),
    ]


def _plain_formats(picture: Image.Image) -> Iterator[Odd]:
    yield Odd("plain.jpg", encode(picture, "JPEG", quality=95), picture, 4)
    yield Odd("progressive.jpg", encode(picture, "JPEG", quality=95, progressive=True), picture, 4)
    yield Odd("plain.png", encode(picture, "PNG"), picture)
    yield Odd("plain.bmp", encode(picture, "BMP"), picture)
    yield Odd("plain.ppm", encode(picture, "PPM"), picture)
    for highest, stored in ((31, "u1"), (1023, ">u2"), (65535, ">u2")):
        values = (np.asarray(picture).astype(np.uint32) * highest // 255).astype(stored)
        header = f"P6 {picture.width} {picture.height} {highest}\n".encode()
        shown = Image.fromarray((values.astype(np.uint32) * 255 // highest).astype(np.uint8))
        yield Odd(f"to-{highest}.ppm", header + values.tobytes(), shown)
    yield Odd("lossless.webp", encode(picture, "WEBP", lossless=True), picture)
    yield Odd("lossy.webp", encode(picture, "WEBP", quality=95), picture, 6)
    yield Odd("plain.tiff", encode(picture, "TIFF"), picture)
    yield Odd("lzw.tiff", encode(picture, "TIFF", compression="tiff_lzw"), picture)
    yield Odd("plain.jp2", encode(picture, "JPEG2000"), picture)
    if features.check("avif"):
        yield Odd("plain.avif", encode(picture, "AVIF", quality=95), picture, 6)


def _turned(picture: Image.Image) -> Iterator[Odd]:
    # What the camera stored, for each orientation, so that the upright picture is always the same.
    turns = Image.Transpose
    stored = {
        1: None,
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    for orientation, turn in stored.items():
        turned = picture if turn is None else picture.transpose(turn)
        exif = oriented(orientation)
        yield Odd(f"exif-{orientation}.jpg", encode(turned, "JPEG", quality=95, exif=exif), picture, 4)
        yield Odd(f"exif-{orientation}.png", encode(turned, "PNG", exif=exif), picture)
        yield Odd(f"exif-{orientation}.tiff", encode(turned, "TIFF", tiffinfo={274: orientation}), picture)
    webp = encode(picture.transpose(turns.ROTATE_90), "WEBP", lossless=True, exif=oriented(6))
    yield Odd("exif-6.webp", webp, picture)
    yield Odd("exif-9.png", encode(picture, "PNG", exif=oriented(9)), picture)


def _coloured(picture: Image.Image) -> Iterator[Odd]:
    inks = picture.convert("CMYK")
    black = Image.fromarray((np.asarray(picture.convert("L")) // 4).astype(np.uint8))
    inks = Image.merge("CMYK", (*inks.split()[:3], black))
    shown = inks.convert("RGB")
    jpeg = encode(inks, "JPEG", quality=95)
    yield Odd("cmyk.jpg", jpeg, shown, 4)
    marker = jpeg.index(b"\xff\xee\x00\x0eAdobe")
    yield Odd("cmyk-unmarked.jpg", jpeg[:marker] + jpeg[marker + 16 :], shown, 4)
    # Pillow cannot write YCCK: write its channels as if they were inks, then say so in the Adobe marker.
    luma = Image.merge("RGB", inks.split()[:3]).convert("YCbCr").split()
    channels = [channel.point(lambda value: 255 - value) for channel in luma]
    ycck = bytearray(encode(Image.merge("CMYK", (*channels, black)), "JPEG", quality=97))
    ycck[ycck.index(b"\xff\xee\x00\x0eAdobe") + 15] = 2
    yield Odd("ycck.jpg", bytes(ycck), shown, 5)
    yield Odd("cmyk.tiff", encode(inks, "TIFF"), shown)


def _deep(grey: Image.Image) -> Iterator[Odd]:
    shown = grey.convert("RGB")
    values = np.asarray(grey).astype(np.uint16) * 256 + 77  # the low byte must not matter
    yield Odd("16-bit.png", encode(Image.fromarray(values), "PNG"), shown)
    yield Odd("16-bit.tiff", encode(Image.fromarray(values), "TIFF"), shown)
    yield Odd("16-bit-big-endian.tiff", _big_endian_tiff(values), shown)
    header = f"P5 {grey.width} {grey.height} 65535\n".encode()
    yield Odd("16-bit.pgm", header + values.astype(">u2").tobytes(), shown)
    colours = np.stack([np.asarray(grey), 255 - np.asarray(grey), np.asarray(grey) // 2], -1)
    rows = (colours.astype(">u2") * 256 + 77).astype(">u2")
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)
    yield Odd("16-bit-rgb.png", png(grey.width, grey.height, 16, 2, scanlines), Image.fromarray(colours))
    scaled = np.asarray(grey).astype(np.float32)
    stretched = np.round((scaled - scaled.min()) * (255 / (scaled.max() - scaled.min()))).astype(np.uint8)
    stretched_shown = Image.fromarray(stretched).convert("RGB")
    yield Odd("float.tiff", encode(Image.fromarray(scaled / 1000 - 3), "TIFF"), stretched_shown)
    yield Odd("int32.tiff", encode(Image.fromarray(scaled.astype(np.int32) * 70_000), "TIFF"), stretched_shown)
    holes = scaled.copy()
    holes[:4] = np.nan
    holes[4:8] = np.inf
    kept = np.asarray(grey).copy()  # within 0 to 255 and beyond half of it: shown as it is
    kept[:8] = 0
    yield Odd("nan.tiff", encode(Image.fromarray(holes), "TIFF"), Image.fromarray(kept).convert("RGB"), 2)


def _big_endian_tiff(values: NDArray[np.uint16]) -> bytes:
    height, width = values.shape
    pixels = values.astype(">u2").tobytes()
    tags = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (277, 3, 1),
        (278, 3, height),
    ]
    entries = b"".join(struct.pack(">HHIHH", tag, kind, 1, value, 0) for tag, kind, value in tags)
    entries += struct.pack(">HHII", 279, 4, 1, len(pixels))
    start = 8 + 2 + 12 * 9 + 4
    strip = struct.pack(">HHII", 273, 4, 1, start)
    entries = entries[: 12 * 5] + strip + entries[12 * 5 :]  # tags go in ascending order
    return b"MM\0*" + struct.pack(">IH", 8, 9) + entries + bytes(4) + pixels


def _see_through(picture: Image.Image, grey: Image.Image) -> Iterator[Odd]:
    alpha = Image.linear_gradient("L").resize(picture.size)
    white = Image.new("RGB", picture.size, "white")
    on_white = Image.composite(picture, white, alpha)
    with_alpha = picture.copy()
    with_alpha.putalpha(alpha)
    yield Odd("alpha.png", encode(with_alpha, "PNG"), on_white)
    yield Odd("alpha.webp", encode(with_alpha, "WEBP", lossless=True, exact=True), on_white)
    yield Odd("alpha.tiff", encode(with_alpha, "TIFF"), on_white)
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    yield Odd(
        "grey-alpha.png",
        encode(grey_alpha, "PNG"),
        Image.composite(grey, white.convert("L"), alpha).convert("RGB"),
    )
    palette = picture.quantize(32)
    shown = np.array(palette.convert("RGB"))
    one_clear = shown.copy()
    one_clear[np.asarray(palette) == 5] = 255
    yield Odd("palette-clear.png", encode(palette, "PNG", transparency=5), Image.fromarray(one_clear))
    yield Odd("palette-clear.gif", encode(palette, "GIF", transparency=5), Image.fromarray(one_clear))
    alphas = np.arange(32) * 8
    mixed = shown * (alphas / 255)[np.asarray(palette)][..., None]
    mixed += 255 * (1 - alphas / 255)[np.asarray(palette)][..., None]
    some_clear = encode(palette, "PNG", transparency=bytes(alphas.astype(np.uint8)))
    yield Odd("palette-alpha.png", some_clear, Image.fromarray(np.round(mixed).astype(np.uint8)))
    level = int(np.asarray(grey)[10, 10])
    cleared = np.where(np.asarray(grey) == level, 255, np.asarray(grey)).astype(np.uint8)
    yield Odd("grey-clear.png", encode(grey, "PNG", transparency=level), Image.fromarray(cleared).convert("RGB"))
    deep = b"".join(b"\0" + (row * np.uint16(256)).astype(">u2").tobytes() for row in np.asarray(grey))
    clear = (b"tRNS", struct.pack(">H", level * 256))
    yield Odd(
        "16-bit-clear.png",
        png(grey.width, grey.height, 16, 0, deep, clear),
        Image.fromarray(cleared).convert("RGB"),
    )


def _many_frames(picture: Image.Image) -> Iterator[Odd]:
    later = [Image.new("RGB", picture.size, "red"), Image.new("RGB", picture.size, "blue")]
    first = picture.quantize(200)
    frames = [frame.quantize(2) for frame in later]
    gif = encode(first, "GIF", save_all=True, append_images=frames, duration=50)
    yield Odd("animated.gif", gif, first.convert("RGB"))
    canvas = Image.new("RGB", (120, 90), "white")
    canvas.paste(first.convert("RGB"), (10, 20))
    still = bytearray(encode(first, "GIF"))
    at = still.index(b"\x2c\0\0\0\0")
    still[6:10], still[at + 1 : at + 5] = struct.pack("<HH", 120, 90), struct.pack("<HH", 10, 20)
    yield Odd("part-of-canvas.gif", bytes(still), canvas)
    yield Odd("animated.png", encode(picture, "PNG", save_all=True, append_images=later), picture)
    webp = encode(picture, "WEBP", save_all=True, append_images=later, lossless=True)
    yield Odd("animated.webp", webp, picture)
    yield Odd("pages.tiff", encode(picture, "TIFF", save_all=True, append_images=later), picture)
    yield Odd("camera.mpo", encode(picture, "MPO", save_all=True, append_images=later, quality=95), picture, 4)


def _extreme() -> Iterator[Odd]:
    for name, size in {"dot": (1, 1), "line": (60_000, 1), "pillar": (1, 60_000), "strip": (3, 7000)}.items():
        image = Image.new("RGB", size, (200, 100, 50))
        yield Odd(f"{name}.png", encode(image, "PNG"), image)
        yield Odd(f"{name}.jpg", encode(image, "JPEG", quality=95), image, 3)
