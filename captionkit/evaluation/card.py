"""The score card: all figures of an evaluation, as Markdown for users and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from captionkit.drawing.formatting import one_line
from captionkit.evaluation.confidence import Reliability
from captionkit.evaluation.published import FLICKR8K
from captionkit.metrics import METRICS, Scores, Usage
from captionkit.model.calibration import Calibration

JSON_FORMAT = 1
"""The version of the layout that `to_json` writes."""

MISSING_SHOWN = 5
"""Images without a caption that the Markdown names."""
_DASH = "–"


@dataclass(frozen=True)
class Decoding:
    """Captions of all images by one search, or from a table, and their scores."""

    name: str
    captions: dict[str, str]
    """By image address."""
    scores: Scores
    usage: Usage
    seconds: float | None = None
    """Seconds of search per image; None if unknown."""


@dataclass(frozen=True)
class ScoreCard:
    """All results of an evaluation."""

    title: str
    facts: dict[str, str]
    """What was evaluated, and how: names and values, in order."""
    decodings: Sequence[Decoding]
    references: Mapping[str, Sequence[str]]
    reference_usage: Usage
    """Length and vocabulary of the references."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Reasons why images have no caption, by address. They count as empty captions."""
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    """How well scores tell which captions are acceptable, by the decoding's name."""
    calibration: Calibration | None = None
    """What was fitted on these images."""

    @property
    def metrics(self) -> list[str]:
        """The requested metrics, in the order of `METRICS`."""
        scores = self.decodings[0].scores
        return [name for name in METRICS if name in scores.corpus or name in scores.absent]

    @property
    def absent(self) -> dict[str, str]:
        """Metrics that a decoding lacks, with the reason."""
        return {
            name: reason for decoding in reversed(self.decodings) for name, reason in decoding.scores.absent.items()
        }

    @property
    def warning(self) -> str:
        """Why published figures are not comparable; empty if they are."""
        return self.decodings[0].scores.warning

    def to_markdown(self) -> str:
        """The card as Markdown. Figures are times 100, as in papers."""
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
            ["", *self.metrics],
            [[decoding.name, *_figures(decoding.scores.corpus, self.metrics)] for decoding in self.decodings],
        )
        if self.absent:
            lines += ["", *(f"- {name} is absent: {_cell(reason)}." for name, reason in self.absent.items())]
        lines += ["", "## Words", ""]
        header = [
            "",
            "words/caption",
            "shortest",
            "longest",
            "different words",
            "distinct",
            "novel",
            "search/image",
        ]
        rows = [[decoding.name, *_usage(decoding.usage), _seconds(decoding.seconds)] for decoding in self.decodings]
        lines += _table(header, [*rows, ["references", *_usage(self.reference_usage), _DASH]])
        lines += ["", "Distinct: different captions. Novel: none of the training captions."]
        for name, reliability in self.reliability.items():
            lines += _reliability(name, reliability)
        lines += ["", "## Published, on the 1,000 test images of Flickr8k", ""]
        lines += _table(
            ["", *self.metrics, "source"],
            [[paper.name, *_figures(paper.figures, self.metrics, 1), paper.source] for paper in FLICKR8K],
        )
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """The card as JSON, with the figures of each image. Figures are times 100, as in papers."""
        content = {
            "format": JSON_FORMAT,
            "title": self.title,
            "facts": self.facts,
            "tokenizer": self.decodings[0].scores.tokenizer,
            "warning": self.warning or None,
            "absent": self.absent,
            "scores": {decoding.name: _percent(decoding.scores.corpus) for decoding in self.decodings},
            "usage": {
                **{decoding.name: asdict(decoding.usage) for decoding in self.decodings},
                "people": asdict(self.reference_usage),
            },
            "seconds_per_image": {decoding.name: decoding.seconds for decoding in self.decodings},
            "reliability": {name: one.to_json() for name, one in self.reliability.items()},
            "calibration": self.calibration.to_json() if self.calibration else None,
            "published": [asdict(paper) for paper in FLICKR8K],
            "missing": dict(self.missing),
            "images": {
                image: {
                    "references": list(references),
                    "captions": {
                        decoding.name: {"caption": decoding.captions[image], **_percent(decoding.scores.images[image])}
                        for decoding in self.decodings
                    },
                }
                for image, references in self.references.items()
            },
        }
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _reliability(name: str, measured: Reliability) -> list[str]:
    """Whether a caption is right: risk by coverage, and what a confidence is worth."""
    lines = ["", f"## Is a caption right? ({_cell(name)})", ""]
    lines += [
        f"Acceptable: {_cell(measured.bound.meaning)}. So are {100 * measured.acceptable:.1f} % of the captions. "
        "Of an acceptable caption and another the first has the higher score in "
        f"{100 * measured.ranking:.0f} % of pairs (50 is chance).",
        "",
    ]
    rows = [
        [f"{100 * one.share:.0f} %", f"{one.score:.2f}", _share(one.confidence), _share(one.risk)]
        for one in measured.coverage
    ]
    lines += _table(["captions kept", "score from", "confidence from", "not acceptable"], rows)
    if measured.bins:
        lines += [
            "",
            f"Confidence, {_cell(measured.fitted)}; it is wrong by {100 * (measured.error or 0):.1f} points on "
            "average:",
            "",
        ]
        dots = [[_share(one.expected), _share(one.observed), f"{one.captions:,}"] for one in measured.bins]
        lines += _table(["confidence", "acceptable", "captions"], dots)
    return lines


def _share(value: float | None) -> str:
    return _DASH if value is None else f"{100 * value:.1f} %"


def _percent(figures: Mapping[str, float]) -> dict[str, Any]:
    """Figures times 100; None for NaN, which JSON lacks (SPICE of captions without a tuple)."""
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
    """Text on one line, with Markdown's special characters escaped."""
    line = one_line(text, 400).replace("\\", "\\\\")
    for mark in "|<`*_[":
        line = line.replace(mark, "\\" + mark)
    return line
