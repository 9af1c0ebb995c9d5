"""Failed rows say in plain words what is wrong with the file, and "corrupt" of damage only."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from captionkit.images import Decoded, ImageError, Limits, Preprocessing, Sandbox, decode
from tests.images.test_decoding import mutate
from tests.support.image_files import FOLDER
from tests.support.image_zoo import encode, odd, photo

SMALL = Preprocessing(size=48, resize=56)
PICTURE = photo(96, 64, seed=1)

# All that may be told of a damaged file: a new sentence is to be read by somebody before it is added here.
PLAIN = re.compile(
    r"the [\w ]+ is (cut short( after \d+ bytes)?|damaged: ("
    r"its (compressed pixels are|header is|quantization tables are) broken|there are no pixels in it"
    r"|its directory (gives no width and height|does not say where its pixels are)|its width or height is 0"
    r"|a part of its pixels lies outside the image|wrong checksum at byte \d+"
    r"|a strip or tile in it is not of the size that it should be|it is no well-formed XML|it cannot be drawn"
    r"|it does not begin with <svg> of SVG's namespace|its (structure|sensor's values|pixels) (is|are) broken"
    r"|a page of it is broken|there is no page in it)); fetch or copy it again"
)
UNREAD = re.compile(
    r"[\w\-(),.: ']+ (is not a format captionkit reads; convert it to JPEG or PNG first"
    r"|is not read; (convert it to|save it|leave it out).*|is read with an extra: pip install 'captionkit\[\w+\]')"
)


def tiff(values: object, **options: object) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def with_compression(number: int) -> bytes:
    """A TIFF that says its pixels are compressed in this way."""
    data = encode(PICTURE, "TIFF", compression="tiff_lzw")
    at = data.index(struct.pack("<HHIH", 259, 3, 1, 5)) + 8
    return changed(data, at, struct.pack("<H", number))


def test_what_is_not_read_is_named() -> None:
    jpeg, bmp = encode(PICTURE, "JPEG"), encode(PICTURE, "BMP")
    frame = jpeg.index(b"\xff\xc0")
    values = np.asarray(PICTURE)
    files = {
        "12 bits a sample": changed(jpeg, frame + 4, b"\x0c"),
        "JPEG-LS": changed(jpeg, frame, b"\xff\xf7"),
        "hierarchical": changed(jpeg, frame, b"\xff\xc5"),
        "BMP with 24 bits a pixel and the compression PNG": changed(bmp, 30, b"\5"),
        "BMP with 7 bits": changed(bmp, 28, b"\7"),
        "SGI with 5 channels": changed(encode(PICTURE, "SGI"), 10, b"\0\5"),
        "THUNDERSCAN": with_compression(32809),
        "JBIG": with_compression(34661),
        "complex": tiff(values[..., 0].astype("c8"), photometric="minisblack"),
        "5 channels": tiff(np.zeros((8, 8, 5), "u1"), photometric="minisblack", planarconfig="contig"),
        "YCBCR colours in 3 channels in planes apart": tiff(
            np.moveaxis(values, -1, 0), photometric="ycbcr", planarconfig="separate"
        ),
        "CMYK": tiff(np.zeros((8, 8, 4), "f4"), photometric="separated"),
        "CgBI": changed(encode(PICTURE, "PNG"), 12, b"CgBI"),
        "JPEG XR": b"II\xbc\x01" + bytes(100),
    }
    for feature, data in files.items():
        with pytest.raises(ImageError, match=re.escape(feature)) as caught:
            decode(data, SMALL)
        assert caught.value.kind == "unsupported_format"
        assert UNREAD.fullmatch(str(caught.value)), str(caught.value)


def seeds() -> list[bytes]:
    files = [picture.data for picture in odd() if len(picture.data) < 60_000]
    files += [encode(PICTURE, format) for format in ("TGA", "PCX", "DIB", "SGI", "GIF")]
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files.append(encode(PICTURE, "TIFF", compression=compression))
    files.append(encode(PICTURE.convert("1"), "TIFF", compression="group4"))
    values = np.asarray(PICTURE)
    files += [tiff(values, photometric="rgb", compression=kind) for kind in ("lzma", "zstd")]
    files += [tiff(values.astype(kind), photometric="rgb") for kind in ("f2", "f4", "u4")]
    files.append(tiff(values, photometric="rgb", byteorder=">", bigtiff=True))
    return files


def check_words(change: Callable[[bytes, random.Random], bytes], tries: int) -> None:
    """Decodes so many changed files: whatever is said of them is one of the sentences above."""
    rng = random.Random(0)
    files = seeds()
    found = [attempt(change(rng.choice(files), rng)) for _ in range(tries)]
    errors = [error for error in found if error is not None]
    assert len(errors) > tries / 4
    for error in errors:
        words = {"corrupt": PLAIN, "truncated": PLAIN, "unsupported_format": UNREAD}.get(error.kind)
        assert words is None or words.fullmatch(str(error)), str(error)


def attempt(data: bytes) -> ImageError | None:
    try:
        decode(data, SMALL, Limits(max_pixels=4_000_000))
    except ImageError as error:
        return error
    return None


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(12, len(data))]


def test_words_about_damaged_files() -> None:
    check_words(mutate, 500)


def test_words_about_cut_files() -> None:
    check_words(cut, 300)


def test_words_about_other_libraries_files() -> None:
    """In a sandbox: what a native decoder does to such files is its own affair."""
    rng = random.Random(0)
    whole = [file.read_bytes() for file in sorted(FOLDER.iterdir()) if file.suffix != ".md"]
    files = [change(data, rng) for data in whole for change in (cut, cut, mutate, mutate)]
    with Sandbox(SMALL, Limits(max_pixels=4_000_000), threads=2) as sandbox:
        outcomes = sandbox.decode_many([*files, whole[0]])
    assert isinstance(outcomes.pop(), Decoded)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ImageError)]
    assert len(errors) > len(files) / 4
    for error in errors:
        words = {"corrupt": PLAIN, "truncated": PLAIN, "unsupported_format": UNREAD}.get(error.kind)
        assert words is None or words.fullmatch(str(error)), str(error)


@pytest.mark.slow
def test_words_about_many_damaged_files() -> None:
    check_words(mutate, 30_000)
    check_words(cut, 5_000)


def test_pillows_own_limit_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"6144 pixels, Pillow's limit is 2000 \(twice PIL\.Image\.MAX_IMAGE_PIXELS"):
        decode(encode(PICTURE, "TIFF"), SMALL)
