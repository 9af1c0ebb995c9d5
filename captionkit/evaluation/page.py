"""The page of an evaluation: the best, the worst and some random pictures, with what was said of them and by whom."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from captionkit.evaluation.card import ScoreCard, Way
from captionkit.gallery.formatting import address, number, one_line
from captionkit.gallery.thumbnails import Thumbnail, thumbnail
from captionkit.images import Limits

Read = Callable[[str], bytes]

READERS = 4
LIMITS = Limits(max_bytes=64 * 1024 * 1024, max_pixels=100_000_000)
THUMB = 256
"""The longer side of a picture, in pixels."""

CAPTION_LENGTH = 600
ADDRESS_LENGTH = 1000
REASON_LENGTH = 300
REFERENCES = 10
"""References shown of an image."""

RANKED_BY = ("CIDEr-D", "METEOR", "ROUGE-L", "SPICE", "BLEU-4", "BLEU-3", "BLEU-2", "BLEU-1")
"""What pictures are ranked by: the first of these that there is."""


@dataclass(frozen=True)
class Frame:
    """One picture on the page."""

    picture: Thumbnail | None
    missing: str
    caption: str
    figure: str
    references: Sequence[str]
    others: Sequence[tuple[str, str]]
    """Captions of other ways: (name, caption)."""
    folder: str
    name: str


def render_page(card: ScoreCard, read: Read, count: int, thumb: int = THUMB) -> str:
    """The page: `count` pictures of each kind at most. It is the same for the same card, and needs nothing but itself.

    Args:
        read: an image's bytes by its address, called from several threads. Whatever it raises is shown in place of
            that picture.
    """
    measure = next(name for name in (*RANKED_BY, "") if not name or name in card.ways[0].scores.corpus)
    way = max(card.ways, key=lambda way: way.scores.corpus[measure]) if measure else card.ways[0]
    chosen = choose(card, way, measure, count)
    wanted = list(dict.fromkeys(image for images in chosen.values() for image in images))
    with ThreadPoolExecutor(READERS) as readers:
        shown = readers.map(lambda image: _frame(card, way, measure, image, read, thumb), wanted)
        frames = dict(zip(wanted, shown, strict=True))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("captionkit.evaluation", "."), PackageLoader("captionkit.gallery", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    style = environment.get_template("page.css.jinja").render(column=round(0.8 * thumb))
    style += environment.get_template("score_page.css.jinja").render()
    return environment.get_template("score_page.html.jinja").render(
        policy=_policy(style),
        style=Markup(style),
        title=one_line(card.title, CAPTION_LENGTH),
        way=way.name,
        measure=measure,
        metrics=card.metrics,
        rows=[(other.name, [_percent(other.scores.corpus.get(name)) for name in card.metrics]) for other in card.ways],
        absent=[(name, one_line(reason, REASON_LENGTH)) for name, reason in card.absent.items()],
        warning=one_line(card.warning, REASON_LENGTH),
        facts=[(name, one_line(value, REASON_LENGTH)) for name, value in card.facts.items()],
        captionless=number(len(card.missing)) if card.missing else "",
        sections=[(kind, [frames[image] for image in images]) for kind, images in chosen.items() if images],
    )


def choose(card: ScoreCard, way: Way, measure: str, count: int) -> dict[str, list[str]]:
    """Images to show, by kind. No image is among both the best and the worst; random ones are drawn from all."""
    images = list(card.references)
    chance = sorted(images, key=lambda name: blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    if not measure:
        return {"Random": chance[:count]}
    ranked = sorted(images, key=lambda name: (-_rank(way.scores.images[name][measure]), name))
    best = ranked[: min(count, (len(ranked) + 1) // 2)]
    worst = ranked[::-1][: min(count, len(ranked) // 2)]
    return {"Best": best, "Worst": worst, "Random": chance[:count]}


def _rank(value: float) -> float:
    return value if value == value else -1.0  # SPICE is no number for captions without any meaning


def _frame(card: ScoreCard, way: Way, measure: str, image: str, read: Read, side: int) -> Frame:
    picture, missing = None, ""
    try:
        picture = thumbnail(read(image), side, LIMITS)
    except Exception as error:  # read is the caller's and may raise anything; one picture must not cost the page
        missing = f"No picture: {one_line(error, REASON_LENGTH) or type(error).__name__}"
    folder, name = address(one_line(image, ADDRESS_LENGTH))
    caption = way.captions[image]
    others = [(other.name, other.captions[image]) for other in card.ways if other is not way]
    return Frame(
        picture=picture,
        missing=missing,
        caption=one_line(caption, CAPTION_LENGTH),
        figure=f"{measure} {_percent(way.scores.images[image][measure])}" if measure else "",
        references=[one_line(said, CAPTION_LENGTH) for said in card.references[image][:REFERENCES]],
        others=[(name, one_line(said, CAPTION_LENGTH)) for name, said in others if said != caption],
        folder=folder,
        name=name,
    )


def _percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:.1f}"


def _policy(style: str) -> str:
    """A Content-Security-Policy that allows this style, embedded pictures, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
