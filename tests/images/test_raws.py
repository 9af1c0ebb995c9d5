"""Camera raws: the preview that is large enough, upright, else the sensor's values; never the thumbnail."""

from __future__ import annotations

import struct
import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from captionkit.images import ImageError, Limits, Preprocessing, Sandbox, decode
from tests.support.image_zoo import encode, oriented, photo

MODEL = Preprocessing(size=64, resize=64, mode="squash")
UPRIGHT = photo(240, 320, seed=3)
LYING = UPRIGHT.transpose(Image.Transpose.ROTATE_90)  # as the camera held it: EXIF orientation 6
THUMBNAIL = Image.new("RGB", (160, 120), "red")
PREVIEW = encode(LYING, "JPEG", quality=95)


def alike(data: bytes, shown: Image.Image = UPRIGHT, preprocessing: Preprocessing = MODEL) -> float:
    """How far the pixels are from what should be shown, of 255."""
    found = decode(data, preprocessing)
    assert (found.width < found.height) == (shown.width < shown.height)
    return float(np.abs(found.pixels.astype(int) - decode(encode(shown, "PNG"), preprocessing).pixels).mean())


def directory(at: int, *entries: tuple[int, int, int], following: int = 0) -> bytes:
    """A TIFF directory of numbers (tag, type, value), little-endian, that lies at this place."""
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(entries))
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def cr2(preview: bytes = PREVIEW) -> bytes:
    """Canon's first directory has the whole picture as a JPEG in a strip."""
    head = b"II*\0\x10\0\0\0CR\2\0" + bytes(4)
    entries = [(256, 3, 320), (257, 3, 240), (259, 3, 6), (274, 3, 6), (273, 4, 200), (279, 4, len(preview))]
    return (head + directory(16, *entries)).ljust(200, b"\0") + preview + bytes(5000)


def rw2() -> bytes:
    """Panasonic's has it under a tag of its own."""
    entries = struct.pack("<HHHII", 2, 0x2E, 7, len(PREVIEW), 200) + struct.pack("<HHII", 274, 3, 1, 6) + bytes(4)
    return (b"IIU\0\x08\0\0\0" + entries).ljust(200, b"\0") + PREVIEW + bytes(5000)


def orf() -> bytes:
    """Olympus hides it in its maker note."""
    return b"IIRO\x08\0\0\0" + directory(8, (274, 3, 6)) + b"maker note" + PREVIEW + bytes(5000)


def raf() -> bytes:
    """Fujifilm begins with a whole JPEG, which says itself how it lies."""
    jpeg = encode(LYING, "JPEG", quality=95, exif=oriented(6))
    return b"FUJIFILMCCD-RAW 0201FF389501X-T1".ljust(160, b"\0") + jpeg + bytes(5000)


def cr3() -> bytes:
    """Canon's newer ones are films of boxes; one of them is a TIFF's head."""
    tiff = b"II*\0\x08\0\0\0" + directory(8, (274, 3, 6))
    cmt1 = struct.pack(">I", 8 + len(tiff)) + b"CMT1" + tiff
    moov = struct.pack(">I", 8 + len(cmt1)) + b"moov" + cmt1
    small = encode(THUMBNAIL, "JPEG")
    mdat = struct.pack(">I", 8 + len(small + PREVIEW)) + b"mdat" + small + PREVIEW
    return b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + moov + mdat


def tiff_raw(preview: Image.Image | None, dng: bool = False, orientation: int = 6) -> bytes:
    """A TIFF as NEF and DNG are: first a thumbnail, below it a preview and the sensor's."""
    linear = ((np.asarray(LYING) / 255.0) ** 2.2 * 4000).astype(np.uint16)
    sensor = np.empty(linear.shape[:2], np.uint16)
    for (row, column), channel in {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 2}.items():
        sensor[row::2, column::2] = linear[row::2, column::2, channel]
    to_camera = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570)
    matrix = [part for value in to_camera for part in (round(value * 10000), 10000)]
    camera: list[Any] = [(271, "s", 0, "Nobody", True), (272, "s", 0, "One", True), (274, "H", 1, orientation, True)]
    if dng:
        camera += [(50706, "B", 4, (1, 4, 0, 0), True), (50708, "s", 0, "Nobody One", True)]
        camera += [(50721, "2i", 9, matrix, True), (50728, "2I", 3, [1] * 6, True), (50778, "H", 1, 21, True)]
    pattern: list[Any] = [
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, (0, 1, 1, 2), True),
        (50717, "H", 1, 4000, True),
    ]
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        below = 1 if preview is None else 2
        writer.write(
            np.asarray(THUMBNAIL), photometric="rgb", subifds=below, subfiletype=1, extratags=camera, metadata=None
        )
        if preview is not None:
            shape = (preview.height, preview.width, 3)
            jpeg = iter([encode(preview, "JPEG", quality=95)])
            writer.write(
                jpeg, shape=shape, dtype="u1", photometric="ycbcr", compression=7, subfiletype=1, metadata=None
            )
        writer.write(sensor, photometric=32803, extratags=pattern, metadata=None)
    return file.getvalue()


@pytest.mark.parametrize("make", [cr2, rw2, orf, raf, cr3, lambda: tiff_raw(LYING), lambda: tiff_raw(LYING, dng=True)])
def test_the_preview_is_shown_upright(make: Any) -> None:
    data = make()
    assert alike(data) < 3
    assert (decode(data, MODEL).width, decode(data, MODEL).height) == (240, 320)


def test_of_several_previews_the_smallest_that_has_twice_the_side() -> None:
    sizes = {(100, 100): "red", (150, 140): "lime", (400, 400): "blue", (900, 900): "white"}
    files = [encode(Image.new("RGB", size, colour), "JPEG", quality=95) for size, colour in sizes.items()]
    data = b"FUJIFILMCCD-RAW ".ljust(160, b"\0") + b"".join(files)
    shown = {side: decode(data, Preprocessing(side, side)).pixels[0, 0] for side in (40, 60, 180, 500)}
    assert [int(pixel.argmax()) for pixel in list(shown.values())[:3]] == [0, 1, 2]
    assert shown[500].min() > 250


def test_too_small_a_preview_is_developed_instead() -> None:
    pytest.importorskip("rawpy")
    for preview in (None, THUMBNAIL):
        found = decode(tiff_raw(preview, dng=True), Preprocessing(200, 200, mode="squash"))
        assert (found.width, found.height) == (240, 320)
        truth = decode(encode(UPRIGHT, "PNG"), Preprocessing(200, 200, mode="squash")).pixels
        assert np.corrcoef(found.pixels.ravel(), truth.ravel())[0, 1] > 0.97


def test_without_libraw_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(
        ImageError, match=r"without a preview of 200 pixels .* pip install 'captionkit\[raw\]'"
    ) as caught:
        decode(tiff_raw(None, dng=True), Preprocessing(200, 200))
    assert caught.value.kind == "unsupported_format"
    assert alike(cr2()) < 3  # a preview needs none


def test_a_tile_of_a_lossy_raw_is_no_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lossy DNG is tiles of JPEG: shown alone, one would be a corner of the photo."""
    monkeypatch.setitem(sys.modules, "rawpy", None)
    jpeg = encode(UPRIGHT, "JPEG")
    entries = [(254, 3, 0), (259, 3, 34892), (262, 3, 34892), (324, 4, 200), (325, 4, len(jpeg)), (50706, 4, 1)]
    data = (b"II*\0\x08\0\0\0" + directory(8, *entries)).ljust(200, b"\0") + jpeg
    with pytest.raises(ImageError, match="without a preview"):
        decode(data, MODEL)


def test_damaged_raws() -> None:
    pytest.importorskip("rawpy")
    noise = np.random.default_rng(7).integers(0, 256, 4096, np.uint8).tobytes()
    for start in (
        b"II*\0\x10\0\0\0CR\2\0",
        b"\0\0\0\x18ftypcrx \0\0\0\0crx isom",
        b"FUJIFILMCCD-RAW ",
        b"IIU\0",
        b"FOVb",
    ):
        with pytest.raises(ImageError) as caught:
            decode(start + noise, MODEL)
        assert caught.value.kind in ("unsupported_format", "corrupt")
    with pytest.raises(ImageError) as caught:
        decode(cr2()[: 200 + len(PREVIEW) // 2], MODEL)
    assert caught.value.kind in ("truncated", "corrupt", "unsupported_format")
    with pytest.raises(ImageError) as caught:
        decode(cr2(), MODEL, Limits(max_pixels=1000))
    assert caught.value.kind == "too_many_pixels"


def test_directories_that_go_round_in_circles_end() -> None:
    loop = b"II*\0\x08\0\0\0" + directory(8, (330, 4, 8), (254, 4, 1), following=8)
    with pytest.raises(ImageError):
        decode(loop, MODEL)


def test_in_the_sandbox() -> None:
    with Sandbox(MODEL, threads=1) as sandbox:
        outcomes = sandbox.decode_many([cr2(), tiff_raw(None, dng=True), b"IIU\0" + bytes(100)])
    assert [type(outcome).__name__ for outcome in outcomes] == ["Decoded", "Decoded", "ImageError"]
