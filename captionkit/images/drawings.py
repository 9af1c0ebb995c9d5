"""SVG by resvg: no scripts, no network, no other files. Drawn at the size that the model wants.

resvg itself runs no script and asks no network, but would show images that lie on the disk: such references are taken
out before it sees the file, and so are those to the web.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from xml.etree import ElementTree

from PIL.PngImagePlugin import PngImageFile

from captionkit.images import geometry
from captionkit.images.picture import Picture, Reserve, needs
from captionkit.images.structure import damaged
from captionkit.images.types import Preprocessing

_SVG = "{http://www.w3.org/2000/svg}"
_HREFS = ("href", "{http://www.w3.org/1999/xlink}href")
_DATA = re.compile(r"data:image/(png|jpe?g|gif|webp|svg\+xml)[;,]")
_LENGTH = re.compile(r"\s*\+?(\d*\.?\d+(?:e[+-]?\d+)?)\s*(px|pt|pc|mm|cm|in|em|ex|)\s*", re.IGNORECASE)
_PIXELS = {"": 1, "px": 1, "pt": 4 / 3, "pc": 16, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96, "em": 16, "ex": 8}
_USUAL = (300.0, 150.0)
"""Size of a drawing that names none, as browsers have it."""
_MOST_PIXELS = 1e9  # a side; what is longer is no size


def read(data: bytes, preprocessing: Preprocessing, reserve: Reserve, frame: str | int) -> Iterator[Picture]:
    """The drawing, see-through where nothing is drawn. Text is set in the fonts of this machine.

    Raises ImageError.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise needs("an SVG drawing", "svg") from error
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise damaged("SVG drawing", "it is no well-formed XML") from error
    if root.tag != f"{_SVG}svg":
        raise damaged("SVG drawing", "it does not begin with <svg> of SVG's namespace")
    for element in root.iter():
        for name in _HREFS:
            value = element.get(name, "").strip()
            if value and not value.startswith("#") and not _DATA.match(value.lower()):
                del element.attrib[name]
    width, height = _size(root)
    scale = geometry.target_side(preprocessing) / min(width, height)
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    reserve(across, down)
    if "viewBox" not in root.attrib:
        root.set("viewBox", f"0 0 {width:g} {height:g}")
    root.set("width", str(across))
    root.set("height", str(down))
    text = any(element.tag == f"{_SVG}text" for element in root.iter())
    drawing = ElementTree.tostring(root, "unicode")
    try:
        png = resvg_py.svg_to_bytes(svg_string=drawing, skip_system_fonts=not text)
    except Exception as error:
        raise damaged("SVG drawing", "it cannot be drawn") from error
    except BaseException as error:  # what Rust calls a panic is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise damaged("SVG drawing", "it cannot be drawn") from error
    image = PngImageFile(BytesIO(png))
    stored = (max(1, round(width)), max(1, round(height)))
    yield Picture(image, stored, scale=stored[0] / image.width)


def _size(root: ElementTree.Element) -> tuple[float, float]:
    """(width, height) in CSS pixels. Raises ImageError "corrupt"."""
    width, height = (_pixels(root.get(name, "")) for name in ("width", "height"))
    try:
        box = [float(number) for number in re.split(r"[\s,]+", root.get("viewBox", "").strip())]
    except ValueError:
        box = []
    shown = (box[2], box[3]) if len(box) == 4 and min(box[2:]) > 0 else None
    if shown is None:
        width, height = width or _USUAL[0], height or _USUAL[1]
    elif width and not height:
        height = width * shown[1] / shown[0]
    elif height and not width:
        width = height * shown[0] / shown[1]
    else:
        width, height = (width, height) if width and height else shown
    assert width is not None
    assert height is not None
    if not (0 < width < _MOST_PIXELS and 0 < height < _MOST_PIXELS):
        raise damaged("SVG drawing", "its width or height is 0")
    return width, height


def _pixels(length: str) -> float | None:
    """A length in CSS pixels; None where it is a share of something, or none."""
    match = _LENGTH.fullmatch(length)
    return float(match[1]) * _PIXELS[match[2].lower()] or None if match else None
