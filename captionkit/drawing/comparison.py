"""Captions of several searches beside each other, with their scores: as text, page or picture, in a notebook."""

from __future__ import annotations

import base64
import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captionkit.drawing.attention import in_light
from captionkit.drawing.formatting import one_line, score
from captionkit.drawing.thumbnails import WEBP_QUALITY, Thumbnail
from captionkit.errors import UsageError
from captionkit.storage import Storage

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAPTION_LENGTH = 600
NAME_LENGTH = 300
REFERENCES = 10
"""References shown for an image."""
TILE = 112
"""Side of the small pictures of where a captioner looked, in pixels."""
MOST_IN_PICTURE = 40
"""Images in one PNG, which is as high as all of them together."""
_WRAP = 62


@dataclass(frozen=True)
class Told:
    """A caption that a search found for an image.

    Attributes:
        search: its name: "greedy", "beam 3".
        text: empty where it found none.
        score: mean log-probability of its tokens, in nats.
        figures: BLEU of this caption alone, from 0 to 1, where there are references.
        maps: (T, G, G), where the captioner looked for each word; None where it does not attend.
    """

    search: str
    text: str
    score: float | None
    figures: Mapping[str, float] = field(default_factory=dict)
    maps: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ComparedImage:
    """An image with its captions, or the reason why it has none.

    Attributes:
        picture: the whole image, small; None where it could not be read.
        pixels: (S, S, 3) uint8, as the captioner saw it.
        error: why there is no caption.
    """

    name: str
    picture: Thumbnail | None = None
    pixels: NDArray[np.uint8] | None = None
    error: str = ""
    captions: Sequence[Told] = ()
    references: Sequence[str] = ()

    @property
    def best(self) -> Told | None:
        """The caption that the captioner finds likeliest."""
        return max(self.captions, key=lambda told: -math.inf if told.score is None else told.score, default=None)


@dataclass(frozen=True)
class Comparison:
    """Images with the captions of several searches. A notebook shows it; `print` gives it as text.

    Attributes:
        title: which captioner.
        searches: their names, in order.
        figures: BLEU over all images that have references, by search.
        note: why BLEU is absent, or not as in papers; empty otherwise.
    """

    title: str
    searches: Sequence[str]
    images: Sequence[ComparedImage]
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""

    @property
    def measures(self) -> list[str]:
        """The measures that there are figures of."""
        return list(next(iter(self.figures.values()), {}))

    def __str__(self) -> str:
        width = max(map(len, self.searches), default=0)
        lines = []
        for image in self.images:
            lines.append(one_line(image.name, NAME_LENGTH))
            if image.error:
                lines.append(f"  no caption: {one_line(image.error, CAPTION_LENGTH)}")
            for told in image.captions:
                figures = "".join(f"  {name} {_percent(value)}" for name, value in told.figures.items())
                words = one_line(told.text, CAPTION_LENGTH) or "(no words)"
                lines.append(f"  {told.search:<{width}}  {score(told.score):>5}  {words}{figures}")
            lines += [f"  reference: {one_line(text, CAPTION_LENGTH)}" for text in image.references[:REFERENCES]]
        if self.figures:
            lines.append("all images with references")
            lines += [
                f"  {search:<{width}}  " + "  ".join(f"{name} {_percent(value)}" for name, value in figures.items())
                for search, figures in self.figures.items()
            ]
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def _repr_html_(self) -> str:
        """For notebooks: the same as `page`, without a page's frame."""
        from captionkit.drawing.templates import environment

        return environment().get_template("comparison.html.jinja").render(self._values(), page=False)

    def page(self) -> str:
        """One HTML page without external files, that runs nothing."""
        from captionkit.drawing.templates import environment, policy

        templates = environment()
        style = templates.get_template("page.css.jinja").render(column=240)
        style += templates.get_template("comparison.css.jinja").render()
        return templates.get_template("comparison.html.jinja").render(
            self._values(), page=True, page_style=style, policy=policy(style)
        )

    def picture(self) -> bytes:
        """A PNG: each image with its captions beside it, and below them where the captioner looked for the words of
        the likeliest one.

        Raises:
            UsageError: more than `MOST_IN_PICTURE` images.
        """
        if len(self.images) > MOST_IN_PICTURE:
            raise UsageError(
                f"{len(self.images)} images are too many for one picture ({MOST_IN_PICTURE} at most); write a page"
            )
        from matplotlib.figure import Figure  # no window, no global state

        heights = [_height(image) for image in self.images]
        figure = Figure(figsize=(10, max(0.5, sum(heights))), layout="constrained")
        parts = figure.subfigures(max(1, len(heights)), 1, height_ratios=heights or [1], squeeze=False)[:, 0]
        for part, image in zip(parts, self.images, strict=False):
            _draw(part, image)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=110)
        return drawn.getvalue()

    def save(self, address: str | os.PathLike[str], storage: Storage | None = None) -> None:
        """Write it to any address: a page where that ends in .html, a picture in .png.

        Raises:
            UsageError: another ending, or too many images for a picture.
            StorageError: it cannot be written.
        """
        uri, storage = os.fspath(address), storage or Storage()
        content = self.page().encode() if _ending(uri) == "html" else self.picture()
        storage.write(storage.normalize(uri), content)

    def _values(self) -> dict[str, Any]:
        """What the template shows; its texts are cleaned, but not escaped."""
        return {
            "title": one_line(self.title, CAPTION_LENGTH),
            "measures": self.measures,
            "images": [_values(image, self.measures) for image in self.images],
            "figures": [(name, [_percent(one) for one in values.values()]) for name, values in self.figures.items()],
            "note": one_line(self.note, CAPTION_LENGTH),
        }


def check_address(uri: str) -> None:
    """Raise UsageError for an address that `Comparison.save` would not write to."""
    _ending(uri)


def _ending(uri: str) -> str:
    ending = uri.rpartition(".")[2].lower()
    if ending not in ("html", "png"):
        raise UsageError(f"{one_line(uri, NAME_LENGTH)}: a comparison is written as .html (a page) or .png (a picture)")
    return ending


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _values(image: ComparedImage, measures: Sequence[str]) -> dict[str, Any]:
    looked: dict[str, list[tuple[str, str]]] = {}
    for told in image.captions:
        if told.maps is not None and image.pixels is not None and told.text and told.text not in looked:
            words = zip(told.text.split(), told.maps, strict=False)
            looked[told.text] = [(one_line(word, 40), _tile(image.pixels, weights)) for word, weights in words]
    return {
        "name": one_line(image.name, NAME_LENGTH),
        "picture": image.picture,
        "error": one_line(image.error, CAPTION_LENGTH),
        "captions": [
            (
                told.search,
                one_line(told.text, CAPTION_LENGTH),
                score(told.score),
                [_percent(told.figures[name]) if name in told.figures else "–" for name in measures],
                told is image.best,
            )
            for told in image.captions
        ],
        "references": [one_line(text, CAPTION_LENGTH) for text in image.references[:REFERENCES]],
        "looked": [(one_line(text, CAPTION_LENGTH), tiles) for text, tiles in looked.items()],
    }


def _tile(pixels: NDArray[np.uint8], weights: NDArray[np.float32]) -> str:
    small = np.asarray(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS))
    file = io.BytesIO()
    Image.fromarray(in_light(small, weights)).save(file, "WEBP", quality=WEBP_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _lines(image: ComparedImage) -> list[tuple[str, bool]]:
    """The lines of text beside an image, and whether each is a caption."""
    if image.error:
        return [(line, False) for line in textwrap.wrap(f"no caption: {one_line(image.error, CAPTION_LENGTH)}", _WRAP)]
    lines = []
    for told in image.captions:
        figures = ", ".join(f"{name} {_percent(value)}" for name, value in told.figures.items())
        head = f"{told.search}  {score(told.score)}" + (f"  {figures}" if figures else "")
        lines += [(head, False)]
        lines += [(line, True) for line in textwrap.wrap(one_line(told.text, CAPTION_LENGTH) or "(no words)", _WRAP)]
    for text in image.references[:REFERENCES]:
        lines += [(line, False) for line in textwrap.wrap(f"reference: {one_line(text, CAPTION_LENGTH)}", _WRAP + 12)]
    return lines


def _words_looked_at(image: ComparedImage) -> list[tuple[str, NDArray[np.float32]]]:
    if image.best is None or image.best.maps is None or image.pixels is None:
        return []
    return list(zip(image.best.text.split(), image.best.maps, strict=False))


_COLUMNS = 8
"""Small pictures of attention in a row of the PNG."""
_LINE, _GAP = 0.19, 0.4
"""Height of a line of text in inches; what stays free after a caption, in lines."""
_STRIP = 1.35
"""Height of a row of small pictures, in inches."""


def _height(image: ComparedImage) -> float:
    rows = math.ceil(len(_words_looked_at(image)) / _COLUMNS)
    return _text_height(image) + _STRIP * rows


def _text_height(image: ComparedImage) -> float:
    return max(2.2, _LINE * (len(_lines(image)) + _GAP * len(image.captions) + 2))


def _draw(part: Any, image: ComparedImage) -> None:
    """Draw an image into a part of a figure of matplotlib's. Words are drawn as they are: "$" is no formula."""
    looked = _words_looked_at(image)
    rows = math.ceil(len(looked) / _COLUMNS)
    ratios = [_text_height(image), *([_STRIP * rows] if rows else [])]
    above, *below = part.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
    left, right = above.subplots(1, 2, width_ratios=[1, 2.6])
    left.axis("off"), right.axis("off")
    if image.picture is not None:
        left.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(image.picture.source.partition(",")[2])))))
    left.set_title(one_line(image.name, NAME_LENGTH)[-30:], fontsize=8, color="0.4", parse_math=False)
    step, down = _LINE / _text_height(image), 0.0
    for line, is_caption in _lines(image):
        size, colour = (11, "0") if is_caption else (8, "0.4")
        options = {"va": "top", "fontsize": size, "color": colour, "transform": right.transAxes}
        right.text(0, 1 - down * step, line, parse_math=False, **options)
        down += 1 + _GAP * is_caption
    for strip in below:
        axes = strip.subplots(rows, _COLUMNS, squeeze=False).flatten()
        for axis in axes:
            axis.axis("off")
        for axis, (word, weights) in zip(axes, looked, strict=False):
            assert image.pixels is not None
            axis.imshow(in_light(image.pixels, weights))
            axis.set_title(one_line(word, 40), fontsize=9, parse_math=False)
