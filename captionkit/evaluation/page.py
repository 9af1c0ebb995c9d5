"""The page of an evaluation: the best, the worst and some random images, with candidate and reference captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType

from markupsafe import Markup

from captionkit.drawing.formatting import address, number, one_line
from captionkit.drawing.templates import environment, policy
from captionkit.drawing.thumbnails import Thumbnail, thumbnail
from captionkit.evaluation.card import Decoding, ScoreCard
from captionkit.images import Limits
from captionkit.inputs.kinds import limits_of

Read = Callable[[str], bytes]

READERS = 4
LIMITS = Limits(max_bytes=64 * 1024 * 1024, max_pixels=100_000_000)
THUMB = 256
"""Longer side of a thumbnail, in pixels."""

CAPTION_LENGTH = 600
ADDRESS_LENGTH = 1000
REASON_LENGTH = 300
REFERENCES = 10
"""References shown per image."""

RANKED_BY = ("CIDEr-D", "METEOR", "ROUGE-L", "SPICE", "BLEU-4", "BLEU-3", "BLEU-2", "BLEU-1")
"""Images are ranked by the first of these metrics that was computed."""


@dataclass(frozen=True)
class Frame:
    """One image on the page. Texts are cleaned, but not escaped for HTML."""

    picture: Thumbnail | None
    missing: str
    caption: str
    figure: str
    references: Sequence[str]
    others: Sequence[tuple[str, str]]
    """Captions by other searches: (name, caption)."""
    folder: str
    name: str


def render_page(
    card: ScoreCard, read: Read, count: int, thumb: int = THUMB, frames: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The page as HTML without external files, with at most `count` images of each kind. The same card gives the same
    page.

    Args:
        read: returns an image's bytes by its address; called from several threads. The message of whatever it
            raises is shown in place of the image.
        frames: which frame of an image with several was captioned, by address.
    """
    measure = next(name for name in (*RANKED_BY, "") if not name or name in card.decodings[0].scores.corpus)
    decodings = card.decodings
    best = max(decodings, key=lambda decoding: decoding.scores.corpus[measure]) if measure else decodings[0]
    chosen = choose(card, best, measure, count)
    wanted = list(dict.fromkeys(image for images in chosen.values() for image in images))
    with ThreadPoolExecutor(READERS) as readers:
        shown = readers.map(
            lambda image: _frame(card, best, measure, image, read, thumb, frames.get(image, "")), wanted
        )
        pictures = dict(zip(wanted, shown, strict=True))
    templates = environment("captionkit.evaluation")
    style = templates.get_template("page.css.jinja").render(column=round(0.8 * thumb))
    style += templates.get_template("score_page.css.jinja").render()
    return templates.get_template("score_page.html.jinja").render(
        policy=policy(style),
        style=Markup(style),
        title=one_line(card.title, CAPTION_LENGTH),
        decoding=best.name,
        measure=measure,
        metrics=card.metrics,
        rows=[(other.name, [_percent(other.scores.corpus.get(name)) for name in card.metrics]) for other in decodings],
        absent=[(name, one_line(reason, REASON_LENGTH)) for name, reason in card.absent.items()],
        warning=one_line(card.warning, REASON_LENGTH),
        facts=[(name, one_line(value, REASON_LENGTH)) for name, value in card.facts.items()],
        reliability=card.reliability,
        captionless=number(len(card.missing)) if card.missing else "",
        sections=[(kind, [pictures[image] for image in images]) for kind, images in chosen.items() if images],
    )


def choose(card: ScoreCard, decoding: Decoding, measure: str, count: int) -> dict[str, list[str]]:
    """Images to show, by kind. Best and worst have no image in common; random ones are chosen from all, by a hash."""
    images = list(card.references)
    shuffled = sorted(images, key=lambda name: blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    if not measure:
        return {"Random": shuffled[:count]}
    ranked = sorted(images, key=lambda name: (-_rank(decoding.scores.images[name][measure]), name))
    best = ranked[: min(count, (len(ranked) + 1) // 2)]
    worst = ranked[::-1][: min(count, len(ranked) // 2)]
    return {"Best": best, "Worst": worst, "Random": shuffled[:count]}


def _rank(value: float) -> float:
    return value if value == value else -1.0  # SPICE is NaN for captions without a tuple


def _frame(card: ScoreCard, decoding: Decoding, measure: str, image: str, read: Read, side: int, frame: str) -> Frame:
    picture, missing = None, ""
    try:
        picture = thumbnail(read(image), side, limits_of(image, LIMITS, frame))
    except Exception as error:  # `read` may raise anything, and one image must not cost the page
        missing = f"No picture: {one_line(error, REASON_LENGTH) or type(error).__name__}"
    folder, name = address(one_line(image, ADDRESS_LENGTH))
    caption = decoding.captions[image]
    others = [(other.name, other.captions[image]) for other in card.decodings if other is not decoding]
    return Frame(
        picture=picture,
        missing=missing,
        caption=one_line(caption, CAPTION_LENGTH),
        figure=f"{measure} {_percent(decoding.scores.images[image][measure])}" if measure else "",
        references=[one_line(text, CAPTION_LENGTH) for text in card.references[image][:REFERENCES]],
        others=[(name, one_line(text, CAPTION_LENGTH)) for name, text in others if text != caption],
        folder=folder,
        name=name,
    )


def _percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:.1f}"
