"""Bytes → `Decoded`. The one place that talks to Pillow's readers."""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PcxImagePlugin import PcxImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.SgiImagePlugin import SgiImageFile
from PIL.TgaImagePlugin import TgaImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from captionkit.images import bitmaps, colours, frames, geometry, jpeg2000, profiles, raws, sampling, tiffs
from captionkit.images.formats import RAW, identify, webp_size
from captionkit.images.metadata import jpeg_frame, without_metadata
from captionkit.images.picture import Picture, Reserve
from captionkit.images.reasons import explain
from captionkit.images.structure import check_structure, cut_short, ends_early
from captionkit.images.types import FRAMES, TENSORFLOW_BILINEAR, Decoded, ImageError, Limits, Preprocessing

# Plugins are called directly rather than through Image.open: no other format is tried, Pillow's process-wide
# pixel limit (and its warning) stays out of the way of the limits given here, and a JPEG with a broken
# multi-image index is still the JPEG it is.
_READERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "JPEG 2000": Jpeg2KImageFile,
    "AVIF": AvifImageFile,
    "Netpbm": PpmImageFile,
    "SGI": SgiImageFile,
    "PCX": PcxImageFile,
    "DIB": DibImageFile,
    "TGA": TgaImageFile,
}

# Formats that Pillow does not read, or not as they should be: modules of this package, each with a function `read`,
# imported when there is such a file.
_OWN_READERS: dict[str, str] = {
    "HEIF": "heif",
    "JPEG XL": "jpegxl",
    "Photoshop": "photoshop",
    "SVG": "drawings",
    "DICOM": "dicom",
    "PDF": "documents",
}

_PAGED = ("TIFF", "GIF", "WebP", "PNG", "AVIF")
"""Those of Pillow's formats that may have several pages or frames."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Pillow resizes by an integer first when the image is more than this many times too large.
_REDUCING_GAP = 3.0

_LOSSLESS = 0xC3  # marker of a JPEG's frame

_DEFAULT_LIMITS = Limits()

Admit = Callable[[int], AbstractContextManager[object]]
"""Called with the number of pixels before they are decoded; held while they are."""


def decode(
    data: bytes, preprocessing: Preprocessing, limits: Limits = _DEFAULT_LIMITS, admit: Admit = nullcontext
) -> Decoded:
    """The image in these bytes, at the model's geometry. Safe to call from many threads at once.

    `admit` can make large images wait for each other; by itself they do not.

    Raises ImageError and, for any bytes whatever, nothing else.
    """
    if preprocessing.each:  # once for each: a JPEG is decoded at a reduced scale, which depends on the geometry
        squares = [decode(data, one, limits, admit) for one in preprocessing.each]
        return replace(squares[0], pixels=_together([one.pixels for one in squares], preprocessing.size))
    check_bytes(data, limits)
    name = identify(data)
    if name == "TIFF" and raws.is_raw(data):
        name = RAW
    with _quiet():
        try:
            try:
                return _decode(name, data, preprocessing, limits, admit)
            except ImageError:
                raise
            except Exception:
                bare = without_metadata(name, data)
                if bare is None or ends_early(name, data):
                    raise
                return _decode(name, bare, preprocessing, limits, admit)
        except ImageError:
            raise
        # Broad on purpose: on damaged bytes Pillow's readers raise OSError, SyntaxError, ValueError,
        # KeyError, IndexError, TypeError, EOFError, OverflowError, struct.error, zlib.error, MemoryError and
        # more, and one bad file must not cost a batch its other images.
        except Exception as error:
            raise explain(name, data, error) from error


def count_pages(
    data: bytes, preprocessing: Preprocessing, limits: Limits = _DEFAULT_LIMITS, admit: Admit = nullcontext
) -> Decoded:
    """How many pages or frames a file has that can be chosen: a `Decoded` of black pixels with that width.

    A decoder as `captionkit.images.Sandbox` takes it, since counting walks through strangers' files as decoding does.

    Raises ImageError.
    """
    check_bytes(data, limits)
    name = identify(data)
    with _quiet():
        try:
            if name in ("PDF", "DICOM"):
                count = importlib.import_module(f"captionkit.images.{_OWN_READERS[name]}").count(data)
            elif name not in _PAGED or raws.is_raw(data) or data.startswith(b"MM\0+"):
                count = 1
            else:
                check_structure(name, data)
                image = _READERS[name](BytesIO(data))
                count = len(tiffs.pages(image)) if isinstance(image, TiffImageFile) else getattr(image, "n_frames", 1)
        except ImageError:
            raise
        except Exception as error:  # broad for the reason given in `decode`
            raise explain(name, data, error) from error
    size = preprocessing.size
    return Decoded(np.zeros((size, size, 3), np.uint8), count, 1)


def check_bytes(data: bytes, limits: Limits) -> None:
    """Raises ImageError "empty" or "too_many_bytes"."""
    if not data:
        raise ImageError("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise ImageError("too_many_bytes", f"{len(data)} bytes, the limit is {limits.max_bytes}")


def prepare(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """An open Pillow image at the model's geometry: uint8 (size, size, 3), RGB, turned upright by its EXIF.

    Applies the same policy as `decode`, without limits. Raises ImageError where its pixels cannot be read.
    """
    if preprocessing.each:
        return _together([prepare(image, one) for one in preprocessing.each], preprocessing.size)
    with _quiet():
        try:
            if isinstance(image, TiffImageFile):
                tiffs.set_unpacking(image)
            image.load()
            picture = tiffs.shown(image) if isinstance(image, TiffImageFile) else image
            return _render(Picture(picture, image.size, _orientation(image)), preprocessing, _profile(image))
        except Exception as error:  # broad for the reason given in `decode`
            raise explain(image.format or "image", b"", error) from error


def _together(squares: list[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """As `Preprocessing.together` says."""
    values = np.concatenate([square.reshape(-1) for square in squares])
    return np.pad(values, (0, 3 * size**2 - len(values))).reshape(size, size, 3)


def _decode(name: str, data: bytes, preprocessing: Preprocessing, limits: Limits, admit: Admit) -> Decoded:
    with ExitStack() as admitted:

        def reserve(width: int, height: int, held: int | None = None) -> None:
            """Of several frames one is in memory at a time."""
            _check_pixels((width, height), limits)
            admitted.close()
            admitted.enter_context(admit(width * height if held is None else held))

        if limits.frame not in FRAMES and name not in (*_PAGED, "PDF", "DICOM"):
            frames.chosen(1, limits.frame)
        if name in _OWN_READERS:
            reader = importlib.import_module(f"captionkit.images.{_OWN_READERS[name]}")
            pictures: Iterator[Picture] = reader.read(data, preprocessing, reserve, limits.frame)
            return frames.best(_finished(picture, preprocessing, _profile(picture.image)) for picture in pictures)
        if name == RAW:
            return _decode_raw(data, preprocessing, reserve)
        canvas = webp_size(data) if name == "WebP" else None
        _check_pixels(canvas, limits)
        check_structure(name, data)
        if canvas is not None:
            reserve(*canvas)
        if name == "TIFF" and data.startswith(b"MM\0+"):
            frames.chosen(1, limits.frame)
            return _by_tifffile(data, 0, preprocessing, reserve)  # Pillow reads little-endian BigTIFF only
        try:
            image = _READERS[name](BytesIO(data))
        except SyntaxError as error:
            # Floats in colour, 64 bits …; a compression that Pillow does not know is the cause's key.
            if name == "TIFF" and ("unknown pixel mode" in str(error) or isinstance(error.__cause__, KeyError)):
                return _by_tifffile(data, 0, preprocessing, reserve)
            raise
        if limits.frame == "first":
            return _frame(image, data, preprocessing, limits, reserve)
        return frames.best(_frames(image, data, preprocessing, limits, reserve))


def _frames(
    image: ImageFile, data: bytes, preprocessing: Preprocessing, limits: Limits, reserve: Reserve
) -> Iterator[Decoded]:
    """The frames to choose from."""
    numbers = tiffs.pages(image) if isinstance(image, TiffImageFile) else range(getattr(image, "n_frames", 1))
    for number in frames.chosen(len(numbers), limits.frame):
        image.seek(numbers[number])
        yield _frame(image, data, preprocessing, limits, reserve)


def _frame(image: ImageFile, data: bytes, preprocessing: Preprocessing, limits: Limits, reserve: Reserve) -> Decoded:
    """The frame at which an opened image stands."""
    _check_pixels(image.size, limits)
    if isinstance(image, TiffImageFile) and tiffs.is_for_tifffile(image):
        return _by_tifffile(data, image.tell(), preprocessing, reserve)
    if not isinstance(image, WebPImageFile):  # whose canvas is reserved already
        reserve(*image.size, _pixels_held(image, preprocessing))
    if isinstance(image, Jpeg2KImageFile):
        return _load_jpeg2000(data, preprocessing)
    return _load(image, data, preprocessing)


def _decode_raw(data: bytes, preprocessing: Preprocessing, reserve: Reserve) -> Decoded:
    embedded = raws.preview(data, preprocessing)
    if embedded is None:
        return _finished(raws.develop(data, preprocessing, reserve), preprocessing)
    image = JpegImageFile(BytesIO(embedded.data))
    reserve(*image.size, _pixels_held(image, preprocessing))
    return _load(image, embedded.data, preprocessing, embedded.orientation)


def _by_tifffile(data: bytes, page: int, preprocessing: Preprocessing, reserve: Reserve) -> Decoded:
    image, orientation = tiffs.read(data, page, reserve)
    return _finished(Picture(image, image.size, orientation), preprocessing, _profile(image))


def _finished(picture: Picture, preprocessing: Preprocessing, profile: bytes | None = None) -> Decoded:
    pixels = _render(picture, preprocessing, profile)
    return Decoded(pixels, *geometry.upright_size(*picture.stored, picture.orientation))


def _load(image: ImageFile, data: bytes, preprocessing: Preprocessing, otherwise: int = 1) -> Decoded:
    """Decodes and renders. data: the whole file. otherwise: the orientation, where its own EXIF says none."""
    stored, scale = image.size, 1.0
    frame: tuple[int, int, int, int] | None = None
    if isinstance(image, JpegImageFile):
        wanted = geometry.jpeg_scale(*stored, preprocessing)
        if wanted > 1 and jpeg_frame(data)[0] == _LOSSLESS:
            wanted = 1  # libjpeg cannot scale it
        drafted = image.draft(None, (stored[0] // wanted, stored[1] // wanted)) if wanted > 1 else None
        if drafted is not None:
            scale = stored[0] / drafted[1][2]
        image.decodermaxblock = len(data)  # all bytes are here already; don't feed them in 64 KiB pieces
    elif isinstance(image, TiffImageFile):
        tiffs.set_unpacking(image)
    elif (
        isinstance(image, GifImageFile) and not image.tell() and image.tile and image.tile[0].extents != (0, 0, *stored)
    ):
        frame = image.tile[0].extents
    picture: Image.Image = image
    if isinstance(image, BmpImageFile) and bitmaps.is_run_length_encoded(image):
        picture = bitmaps.read_runs(image, data)
    elif isinstance(image, PpmImageFile) and image.tile[0][0] == "ppm":
        picture = _netpbm(image, data)
    else:
        image.load()
    if isinstance(image, TiffImageFile):
        stored = image.size  # Pillow turns TIFFs upright while loading
    if isinstance(image, TiffImageFile):
        picture = tiffs.shown(image)
    elif frame is not None:
        picture = _on_canvas(image, frame)
    return _finished(Picture(picture, stored, _orientation(image, otherwise), scale), preprocessing, _profile(image))


def _netpbm(image: PpmImageFile, data: bytes) -> Image.Image:
    """Netpbm whose highest value is neither 255 nor, in grey, 65535, which Pillow reads number by number."""
    tile, channels = image.tile[0], 3 if image.mode == "RGB" else 1
    assert isinstance(tile.args, tuple)
    highest, count = int(tile.args[1]), image.width * image.height * channels
    stored = ">u2" if highest > 255 else "u1"
    if len(data) < tile.offset + count * np.dtype(stored).itemsize:
        raise cut_short("Netpbm", data)
    values = np.frombuffer(data, stored, count, tile.offset).reshape(image.height, -1)
    scale = (np.arange(highest + 1, dtype=np.uint32) * 255 // highest).astype(np.uint8)
    greys = scale[np.minimum(values, highest)]
    return Image.fromarray(greys.reshape(image.height, image.width, 3) if channels == 3 else greys)


def _on_canvas(image: Image.Image, frame: tuple[int, int, int, int]) -> Image.Image:
    """A GIF whose frame covers a part of its canvas: the rest is see-through, as browsers have it."""
    canvas = Image.new("RGBA", image.size)
    canvas.paste(colours.plain(image.crop(frame)).convert("RGBA"), frame[:2])
    return canvas


def _load_jpeg2000(data: bytes, preprocessing: Preprocessing) -> Decoded:
    """As `_load`, at the smallest of its resolution levels that will do."""
    header = jpeg2000.read_header(data)
    jpeg2000.refuse(header)
    image, roomy = jpeg2000.opened(data, header)
    stored, scale = image.size, 1.0
    # One halving less than a JPEG: a wavelet's low band is sharper still than a DCT-scaled image.
    halvings = min(header.levels, geometry.jpeg_scale(*stored, preprocessing).bit_length() - 2)
    if halvings > 0 and header.palette is None and all(part.bits >= 8 for part in header.components):
        jpeg2000.reduce(image, halvings)
        try:
            image.load()
            scale = float(1 << halvings)
        except OSError:  # a tile of it has fewer levels, or its grid an offset
            image, roomy = jpeg2000.opened(data, header)
    image.load()
    shown = jpeg2000.shown(image, header, roomy)
    return _finished(Picture(shown, stored, _orientation(image), scale), preprocessing, header.profile)


def _render(picture: Picture, preprocessing: Preprocessing, profile: bytes | None) -> NDArray[np.uint8]:
    """Cuts, resizes, colours, turns. profile: ICC's, of the image's colours."""
    image, scale = picture.image, picture.scale
    left, top, right, bottom = geometry.stored_box(*picture.stored, picture.orientation, preprocessing)
    box = (
        max(0.0, left / scale),
        max(0.0, top / scale),
        min(float(image.width), right / scale),
        min(float(image.height), bottom / scale),
    )
    keeps_inks = image.mode == "CMYK" and profiles.fits(profile, "CMYK")
    as_rgb = image if keeps_inks else colours.plain(image)
    if preprocessing.interpolation == TENSORFLOW_BILINEAR:
        square = sampling.sample(as_rgb, preprocessing.size, box)
    else:
        square = as_rgb.resize(
            (preprocessing.size, preprocessing.size), _FILTERS[preprocessing.interpolation], box, _REDUCING_GAP
        )
    if profile is not None:
        square = profiles.converted(square, profile)
    return np.ascontiguousarray(geometry.turn_upright(colours.opaque(square), picture.orientation))


def _profile(image: Image.Image) -> bytes | None:
    """The ICC profile that the file embeds."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else None


def _check_pixels(size: tuple[int, int] | None, limits: Limits) -> None:
    if size is not None and size[0] * size[1] > limits.max_pixels:
        raise ImageError("too_many_pixels", f"{size[0]} × {size[1]} pixels, the limit is {limits.max_pixels} in all")


def _pixels_held(image: ImageFile, preprocessing: Preprocessing) -> int:
    """How many pixels are in memory at once while it is decoded: fewer than it has, where it is scaled on the way."""
    width, height = image.size
    if isinstance(image, JpegImageFile) and not image.info.get("progressive"):
        return width * height // geometry.jpeg_scale(width, height, preprocessing) ** 2
    return width * height


def _orientation(image: Image.Image, otherwise: int = 1) -> int:
    """EXIF (or XMP) orientation 1..8; `otherwise` where it is absent, impossible or unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata is no reason to lose a image whose pixels are sound
        return otherwise
    return value if isinstance(value, int) and 1 <= value <= 8 else otherwise


# Pillow warns of broken metadata. `warnings.catch_warnings` is not thread-safe, and a plain filter would
# change what the rest of the process sees; so the one filter installed matches only in threads that decode.
_decoding = threading.local()


class _MatchesWhileDecoding(type):
    def __subclasscheck__(cls, subclass: type) -> bool:
        return bool(getattr(_decoding, "depth", 0))


class _WhileDecoding(Warning, metaclass=_MatchesWhileDecoding):
    """Every category of warning, seen from a thread inside `_quiet`; none, seen from any other."""


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning, and no warning turned into an error, comes out of this thread in the meantime."""
    _decoding.depth = getattr(_decoding, "depth", 0) + 1
    try:
        if not warnings.filters or warnings.filters[0][2] is not _WhileDecoding:
            warnings.simplefilter("ignore", _WhileDecoding)
        yield
    finally:
        _decoding.depth -= 1
