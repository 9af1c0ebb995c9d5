"""DICOM by pydicom: one frame as a viewer shows it first.

Values go through the modality's rescaling, then the first window (or look-up table) that the file names; without one
the lowest value is black and the highest white. MONOCHROME1 is turned round, palettes are looked up. Of colours of more
than 8 bits the upper 8 are kept. Of texts (names of patients, say) nothing goes any further.

Attributes: DICOM PS3.3, C.7.6.3 (pixels), C.11.1 and C.11.2 (modality and window).
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captionkit.images import frames
from captionkit.images.picture import Picture, Reserve, needs, unsupported
from captionkit.images.structure import cut_short, damaged
from captionkit.images.types import Preprocessing

_UNREAD = ("unable to decompress", "missing dependencies", "no pixel data decoder", "unsupported", "plugins")


def read(data: bytes, preprocessing: Preprocessing, reserve: Reserve, frame: str | int) -> Iterator[Picture]:
    """The frame, or those among which is chosen.

    Raises ImageError.
    """
    file = _opened(data)
    width, height = int(file.Columns), int(file.Rows)
    for number in frames.chosen(_count(file), frame):
        reserve(width, height, width * height * (2 if file.BitsAllocated > 8 else 1))
        image = _shown(file, _values(file, data, number), number)
        yield Picture(image, image.size)


def count(data: bytes) -> int:
    """How many frames there are. Raises ImageError."""
    return _count(_opened(data))


def _count(file: Any) -> int:
    return max(1, int(file.get("NumberOfFrames") or 1))


def _opened(data: bytes) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise needs("DICOM", "dicom") from error
    try:
        file = pydicom.dcmread(BytesIO(data))
    except EOFError as error:
        raise cut_short("DICOM file", data) from error
    except Exception as error:  # of damaged elements pydicom raises nearly anything
        raise damaged("DICOM file", "its header is broken") from error
    if "PixelData" not in file or not file.get("Rows") or not file.get("Columns"):
        if "Image" in _name(file.file_meta.get("MediaStorageSOPClassUID")):
            raise cut_short("DICOM file", data)
        raise unsupported("a DICOM file without an image (a report, say)", "leave it out")
    return file


def _values(file: Any, data: bytes, number: int) -> NDArray[Any]:
    """One frame as it is stored, (H, W) or (H, W, 3); YBR colours as RGB. Raises ImageError."""
    from pydicom import pixels

    try:
        return np.asarray(pixels.pixel_array(file, index=number))
    except MemoryError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        compression = _name(file.file_meta.get("TransferSyntaxUID")) or "an unknown compression"
        if isinstance(error, NotImplementedError) or any(word in message.lower() for word in _UNREAD):
            raise unsupported(f"DICOM with {compression} and such pixels") from error
        if "less than" in message or "length" in message or "fewer" in message:
            raise cut_short("DICOM file", data) from error
        raise damaged("DICOM file", "its pixels are broken") from error


def _shown(file: Any, values: NDArray[Any], number: int) -> Image.Image:
    """Stored values as "L" or "RGB". Raises ImageError."""
    from pydicom import pixels

    kind = str(file.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind == "PALETTE COLOR":
        values = np.asarray(pixels.apply_color_lut(values, file))
        return Image.fromarray((values >> 8 if values.itemsize > 1 else values).astype(np.uint8)[..., :3])
    if values.ndim == 3:
        upper = max(0, int(file.BitsStored) - 8)
        return Image.fromarray((values >> upper).astype(np.uint8)[..., :3])
    padding = file.get("PixelPaddingValue")
    kept = values != padding if isinstance(padding, int) else np.ones(values.shape, bool)
    if "ModalityLUTSequence" in file:
        values = np.asarray(pixels.apply_modality_lut(values, file))
    window = _window(file, number)
    if window is None and file.get("VOILUTSequence"):
        depth = int(file.VOILUTSequence[0].LUTDescriptor[2])
        greys = np.asarray(pixels.apply_voi(values, file), np.float32) / ((1 << depth) - 1)
    else:
        slope = _setting(file, number, "PixelValueTransformationSequence", "RescaleSlope")
        intercept = _setting(file, number, "PixelValueTransformationSequence", "RescaleIntercept")
        greys = values.astype(np.float32) * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)
        low, high = window or (greys[kept].min(initial=np.inf), greys[kept].max(initial=-np.inf))
        greys = (greys - low) / (high - low) if high > low else (greys > low).astype(np.float32)
    greys = (np.nan_to_num(greys).clip(0, 1) * 255).round()
    shown = greys.astype(np.uint8)
    if kind == "MONOCHROME1":
        shown = 255 - shown
    shown[~kept] = 0  # beyond the edge of what was exposed
    return Image.fromarray(shown)


def _name(uid: Any) -> str:
    """What the standard calls this; empty where it is not in it."""
    return "" if uid is None or uid.name == str(uid) else str(uid.name)


def _window(file: Any, number: int) -> tuple[float, float] | None:
    """The rescaled values that become black and white; None where the file names none.

    A sigmoid window is taken for a linear one.
    """
    centre, width = (
        _first(_setting(file, number, "FrameVOILUTSequence", name)) for name in ("WindowCenter", "WindowWidth")
    )
    if centre is None or width is None or width < 1:
        return None
    if str(file.get("VOILUTFunction", "LINEAR")).upper() == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return centre - width / 2, centre + width / 2


def _setting(file: Any, number: int, group: str, name: str) -> Any:
    """What the file says for all frames, or for this one, in the groups of enhanced DICOM."""
    for groups, at in (("PerFrameFunctionalGroupsSequence", number), ("SharedFunctionalGroupsSequence", 0)):
        items = file.get(groups) or ()
        parts = (items[at].get(group) or ()) if at < len(items) else ()
        if parts and parts[0].get(name) is not None:
            return parts[0].get(name)
    return file.get(name)


def _first(value: Any) -> float | None:
    """Of several numbers the first."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") else value)
