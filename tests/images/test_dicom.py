"""DICOM by pydicom; the files are DCMTK's."""

from __future__ import annotations

import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captionkit.images import ImageError, Limits, decode
from tests.support.image_files import EVERY_PIXEL, PICTURE, distance, stored

pydicom = pytest.importorskip("pydicom")
GREY = PICTURE.convert("L")
NEGATIVE = Image.eval(GREY, lambda value: 255 - value)


def changed(name: str = "mono.dcm", **elements: Any) -> bytes:
    """A stored file with other elements; None takes one out."""
    dataset = pydicom.dcmread(BytesIO(stored(name)))
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        elif keyword == "MediaStorageSOPClassUID":
            dataset.file_meta.MediaStorageSOPClassUID = value
        elif keyword == "PixelPaddingValue":
            dataset.add_new(keyword, "US", value)
        else:
            setattr(dataset, keyword, value)
    file = BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["mono.dcm", "rle.dcm", "lossless.dcm", "jpegls.dcm"])
def test_windows_monochrome1_and_compressions(name: str) -> None:
    if name in ("lossless.dcm", "jpegls.dcm"):
        pytest.importorskip("gdcm")
    assert distance(stored(name), NEGATIVE) <= 1


def test_colours() -> None:
    assert distance(stored("photo.dcm")) < 5


def test_other_windows() -> None:
    plain = {"PhotometricInterpretation": "MONOCHROME2"}
    # Rescaled (to Hounsfield units, say), and the first of several windows.
    rescaled = changed(RescaleSlope="2", RescaleIntercept="-3000", WindowCenter=[20.5, 5], WindowWidth=[2041, 3])
    assert distance(rescaled, NEGATIVE) <= 1
    bright = Image.eval(GREY, lambda value: min(255, 2 * value))
    assert distance(changed(**plain, WindowCenter="1255.5", WindowWidth="511"), bright) <= 2
    # Without one the lowest value is black and the highest white, padding aside.
    without = {**plain, "WindowCenter": None, "WindowWidth": None}
    values = np.asarray(GREY).astype(int)
    stretched = Image.fromarray(((values - values.min()) * 255 / np.ptp(values)).round().astype(np.uint8))
    assert distance(changed(**without), stretched) <= 1
    padded = (np.asarray(GREY).astype("<u2") * 4 + 1000).copy()
    padded[:4] = 0
    edged = np.asarray(stretched).copy()
    edged[:4] = 0
    data = changed(**without, PixelPaddingValue=0, PixelData=padded.tobytes())
    assert distance(data, Image.fromarray(edged)) <= 6


def test_frames() -> None:
    frames = [np.full((32, 48), value, "<u2").tobytes() for value in (1000, 1510, 2020)]
    film = changed(NumberOfFrames=3, PixelData=b"".join(frames), PhotometricInterpretation="MONOCHROME2")
    shown = {
        frame: int(decode(film, EVERY_PIXEL, Limits(frame=frame)).pixels[0, 0, 0]) for frame in ("first", "middle")
    }
    assert shown["first"] == 0
    assert 125 <= shown["middle"] <= 130


def test_what_is_said_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(data: bytes, limits: Limits = Limits()) -> str:  # noqa: B008
        with pytest.raises(ImageError) as caught:
            decode(data, EVERY_PIXEL, limits)
        return f"{caught.value.kind}: {caught.value}"

    assert said(stored("mono.dcm"), Limits(max_pixels=1000)).startswith("too_many_pixels")
    report = changed(PixelData=None, MediaStorageSOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    assert said(report).startswith("unsupported_format: a DICOM file without an image")
    assert said(changed(PixelData=None)).startswith("truncated")
    assert said(changed(PixelData=bytes(1000))).startswith("truncated")
    assert said(stored("mono.dcm")[:140]).split(":")[0] in ("truncated", "corrupt", "unsupported_format")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert said(stored("mono.dcm")) == (
        "unsupported_format: DICOM is read with an extra: pip install 'captionkit[dicom]'"
    )
