"""The score card: all figures of an evaluation, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from captionkit.evaluation.published import FLICKR8K
from captionkit.gallery.formatting import one_line
from captionkit.metrics import METRICS, Scores, Usage

JSON_FORMAT = 1
"""The version of the layout that `to_json` writes."""

MISSING_SHOWN = 5
_DASH = "–"


@dataclass(frozen=True)
class Way:
    """One way of captioning the images: a decoding, or a table's captions."""

    name: str
    captions: dict[str, str]
    scores: Scores
    usage: Usage
    seconds: float | None = None
    """Seconds of search for an image."""


@dataclass(frozen=True)
class ScoreCard:
    """Everything that an evaluation found."""

    title: str
    facts: dict[str, str]
    """What was judged by what: for people, in order."""
    ways: Sequence[Way]
    references: Mapping[str, Sequence[str]]
    people: Usage
    """How the references use words."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Images without a caption, and why; they count as empty captions."""

    @property
    def metrics(self) -> list[str]:
        """The measures that were asked for."""
        scores = self.ways[0].scores
        return [name for name in METRICS if name in scores.corpus or name in scores.absent]

    @property
    def absent(self) -> dict[str, str]:
        """Measures that some way lacks, with the reason."""
        return {name: reason for way in reversed(self.ways) for name, reason in way.scores.absent.items()}

    @property
    def warning(self) -> str:
        """Why published figures are not comparable; empty where they are."""
        return self.ways[0].scores.warning

    def to_markdown(self) -> str:
        """The card for people. Figures are times 100, as papers write them."""
        lines = [f"# Score card: {_cell(self.title)}", ""]
        lines += [f"- {name}: {_cell(value)}" for name, value in self.facts.items()]
        lines += ["", "All measures are times 100, as papers write them; CIDEr-D can exceed 100.", ""]
        if self.warning:
            lines += [f"**Not comparable with published figures**: {_cell(self.warning)}.", ""]
        if self.missing:
            some = [f"{_cell(name)} ({_cell(why)})" for name, why in list(self.missing.items())[:MISSING_SHOWN]]
            more = f", and {len(self.missing) - len(some):,} more" if len(self.missing) > len(some) else ""
            count = f"{len(self.missing):,} of {len(self.references):,} images have no caption, and count as empty ones"
            lines += [f"**{count}**: {'; '.join(some)}{more}.", ""]
        lines += ["## Measures", ""]
        lines += _table(
            ["", *self.metrics], [[way.name, *_figures(way.scores.corpus, self.metrics)] for way in self.ways]
        )
        if self.absent:
            lines += ["", *(f"- {name} is absent: {_cell(reason)}." for name, reason in self.absent.items())]
        lines += ["", "## Words", ""]
        header = ["", "words a caption", "shortest", "longest", "different words", "distinct", "novel", "search/image"]
        rows = [[way.name, *_usage(way.usage), _seconds(way.seconds)] for way in self.ways]
        lines += _table(header, [*rows, ["people", *_usage(self.people), _DASH]])
        lines += ["", "Distinct: different captions. Novel: none of the training captions."]
        lines += ["", "## Published, on the 1,000 test images of Flickr8k", ""]
        lines += _table(
            ["", *self.metrics, "source"],
            [[paper.name, *_figures(paper.figures, self.metrics, 1), paper.source] for paper in FLICKR8K],
        )
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """The card for programs, each image's figures with it. Figures are times 100 here too."""
        content = {
            "format": JSON_FORMAT,
            "title": self.title,
            "facts": self.facts,
            "tokenizer": self.ways[0].scores.tokenizer,
            "warning": self.warning or None,
            "absent": self.absent,
            "scores": {way.name: _percent(way.scores.corpus) for way in self.ways},
            "usage": {**{way.name: asdict(way.usage) for way in self.ways}, "people": asdict(self.people)},
            "seconds_per_image": {way.name: way.seconds for way in self.ways},
            "published": [asdict(paper) for paper in FLICKR8K],
            "missing": dict(self.missing),
            "images": {
                image: {
                    "references": list(references),
                    "captions": {
                        way.name: {"caption": way.captions[image], **_percent(way.scores.images[image])}
                        for way in self.ways
                    },
                }
                for image, references in self.references.items()
            },
        }
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _percent(figures: Mapping[str, float]) -> dict[str, Any]:
    """JSON has no word for what is no number (SPICE of captions without any meaning)."""
    return {name: round(100 * value, 6) if math.isfinite(value) else None for name, value in figures.items()}


def _figures(figures: Mapping[str, float], metrics: Sequence[str], scale: float = 100) -> list[str]:
    values = [figures.get(name, math.nan) for name in metrics]
    return [f"{scale * value:.1f}" if math.isfinite(value) else _DASH for value in values]


def _usage(usage: Usage) -> list[str]:
    shares = [_DASH if share is None else f"{100 * share:.1f} %" for share in (usage.distinct, usage.novel)]
    return [f"{usage.mean_length:.1f}", str(usage.shortest), str(usage.longest), f"{usage.vocabulary:,}", *shares]


def _seconds(seconds: float | None) -> str:
    return _DASH if seconds is None else f"{1000 * seconds:.1f} ms"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    """Text that Markdown takes for text, in one line."""
    line = one_line(text, 400).replace("\\", "\\\\")
    for mark in "|<`*_[":
        line = line.replace(mark, "\\" + mark)
    return line
