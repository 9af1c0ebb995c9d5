"""The gallery page, from a survey of the table: texts are cleaned, numbers formatted, thumbnails embedded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from captionkit.drawing.formatting import address, figure, moments, number, one_line, score, share
from captionkit.drawing.templates import environment, policy
from captionkit.drawing.thumbnails import Thumbnail, thumbnail
from captionkit.gallery.survey import SCORE_BIN, SCORE_FLOOR, Captioned, FailureKind, Survey, survey
from captionkit.images import Limits
from captionkit.inputs.kinds import limits_of

Read = Callable[[str], bytes]
Fact = tuple[str, str]

READERS = 4
"""Pictures read and decoded at a time, to hide the latency of object stores; at most this many are in memory."""

LIMITS = Limits(max_bytes=64 * 1024 * 1024, max_pixels=100_000_000)
"""Limits for one picture. Lower than those of a caption job, since the page may be made on a small machine."""

CAPTION_LENGTH = 600
ADDRESS_LENGTH = 1000
REASON_LENGTH = 300
NAME_LENGTH = 80
NAMES = 3
"""Models or runs that the header names; of the others it gives the number."""


@dataclass(frozen=True)
class Frame:
    """One picture on the page. Texts are cleaned, but not escaped for HTML."""

    picture: Thumbnail | None
    missing: str
    caption: str
    score: float | None
    score_text: str
    before: tuple[str, str] | None
    """The caption that was replaced, and its score."""
    certainty: str | None
    """Mean probability per token, in percent."""
    alternatives: Sequence[tuple[str, str]]
    size: str
    review: str
    folder: str
    name: str


@dataclass(frozen=True)
class Histogram:
    """The histogram of all scores."""

    bars: Sequence[float]
    """Heights from 0 to 32."""
    low: str
    high: str
    median: str
    label: str


def render_gallery(
    rows: Iterable[Mapping[str, Any]],
    read: Read,
    *,
    title: str,
    summary: Mapping[str, Any],
    limit: int = 200,
    thumb: int = 256,
    frames: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """A caption table as one HTML page without external files.

    The page counts all rows and shows a sample of them: `limit` captioned images, chosen by a hash, and a dozen
    failures of each kind. The same table gives the same page, in whatever order the rows are.

    Args:
        rows: of a caption table, as mappings from column to value; iterated once. Their contents are not trusted. One
            may have a further `before`, a mapping with the `caption` and `score` that it has replaced.
        read: returns an image's bytes by its address; called from several threads. The message of whatever it
            raises is shown in place of the picture.
        title: the page's heading.
        summary: figures of the run or table. `images_per_second` is shown beside the counts, `model` and `run_id`
            replace those of the rows, everything else is listed under its key.
        limit: pictures to show, at most.
        thumb: longer side of a thumbnail, in pixels.
        frames: which frame of an image with several a run has captioned (`captionkit.table.runs.frames_of`).

    Raises:
        ValueError: `limit` is negative or `thumb` below 16.
    """
    if limit < 0 or thumb < 16:
        raise ValueError(f"limit must be at least 0 and thumb at least 16, not {limit} and {thumb}")
    result = survey(rows, limit)
    with ThreadPoolExecutor(READERS) as readers:
        shown = list(readers.map(lambda row: _frame(row, read, thumb, frames.get(row.run, "")), result.frames))
    templates = environment("captionkit.gallery")
    # These two are our own files, without values of the table: they are not escaped, and the policy has their hashes.
    style = templates.get_template("page.css.jinja").render(column=round(0.8 * thumb))
    script = templates.get_template("page.js.jinja").render()
    page = templates.get_template("page.html.jinja")
    return page.render(
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        title=one_line(title, CAPTION_LENGTH),
        captioned=number(result.captioned),
        failed=number(result.failed),
        failed_share=share(result.failed, result.captioned + result.failed),
        speed=figure(summary["images_per_second"]) if summary.get("images_per_second") else "",
        histogram=_histogram(result),
        facts=_facts(result, summary),
        shown=_shown(len(shown), result.captioned),
        sampling=_sampling(result, len(shown)),
        nothing="No pictures were asked for." if result.captioned else "No image in this table has a caption.",
        frames=shown,
        failures=[_failure(kind, result.failed) for kind in result.failures],
    )


def _frame(row: Captioned, read: Read, side: int, frame: str) -> Frame:
    picture, missing = None, ""
    try:
        picture = thumbnail(read(row.uri), side, limits_of(row.uri, LIMITS, frame))
    except Exception as error:  # `read` may raise anything, and one picture must not cost the page
        reason = one_line(error, REASON_LENGTH) or type(error).__name__
        missing = f"No picture: {reason}"
    folder, name = address(one_line(row.uri, ADDRESS_LENGTH))
    return Frame(
        picture=picture,
        missing=missing,
        caption=one_line(row.best.text, CAPTION_LENGTH),
        score=row.best.score,
        score_text=score(row.best.score),
        before=(one_line(row.before.text, CAPTION_LENGTH), score(row.before.score)) if row.before else None,
        certainty=None if row.best.score is None else f"{100 * math.exp(min(row.best.score, 0.0)):.1f}",
        alternatives=[(one_line(other.text, CAPTION_LENGTH), score(other.score)) for other in row.alternatives],
        size=f"{row.width} × {row.height}" if row.width and row.height else "",
        review=row.review,
        folder=folder,
        name=name,
    )


def _failure(kind: FailureKind, failed: int) -> dict[str, Any]:
    examples = []
    for failure in kind.examples:
        folder, name = address(one_line(failure.uri, ADDRESS_LENGTH))
        examples.append({"folder": folder, "name": name, "reason": one_line(failure.reason, REASON_LENGTH)})
    return {
        "name": one_line(kind.name, NAME_LENGTH),
        "count": number(kind.count),
        "share": share(kind.count, failed),
        "some": f"{len(examples)} of them shown" if len(examples) < kind.count else "",
        "examples": examples,
    }


def _histogram(result: Survey) -> Histogram | None:
    """The bins between the lowest and the highest score, and one more on either side."""
    used = [index for index, count in enumerate(result.scores) if count]
    if not used:
        return None
    low, high = max(used[0] - 1, 0), min(used[-1] + 2, len(result.scores))
    counts, top = result.scores[low:high], max(result.scores)
    median = score(result.median_score, 1)
    ends = [score(SCORE_FLOOR + index * SCORE_BIN, 1) for index in (low, high)]
    return Histogram(
        # A minimal height keeps a single image among a million visible.
        bars=[max(32 * count / top, 0.8) if count else 0.0 for count in counts],
        low=("≤ " if low == 0 and counts[0] else "") + ends[0],
        high=ends[1],
        median=median,
        label=f"How the scores are spread: from {ends[0]} to {ends[1]} nats per token, median {median}",
    )


def _facts(result: Survey, summary: Mapping[str, Any]) -> list[Fact]:
    """The header's list: model, run and time, then the rest of the summary."""
    facts = [
        ("model", figure(summary["model"]) if summary.get("model") else _names(result.models, "models")),
        ("run", figure(summary["run_id"]) if summary.get("run_id") else _names(result.runs, "runs")),
        ("written", moments(result.first, result.last) if result.first and result.last else ""),
    ]
    counts = {"captioned": result.captioned, "failed": result.failed}
    for key, value in summary.items():
        if key in ("images_per_second", "model", "run_id") or value is None or counts.get(key) == value:
            continue
        # The counts of one run differ from the table's, so the key says that they are the run's.
        name = f"{key} in this run" if key in counts else one_line(key, NAME_LENGTH).replace("_", " ")
        facts.append((name, figure(value)))
    return [(name, value) for name, value in facts if value]


def _names(names: Sequence[str], plural: str) -> str:
    if len(names) > NAMES:
        return f"{', '.join(one_line(name, NAME_LENGTH) for name in names[:NAMES])} … ({len(names)} {plural})"
    return ", ".join(one_line(name, NAME_LENGTH) for name in names)


def _shown(frames: int, captioned: int) -> str:
    if frames < captioned:
        return f"{number(frames)} of {number(captioned)} captioned images, spread over the whole table"
    if captioned == 1:
        return "One captioned image"
    return f"All {number(captioned)} captioned images" if captioned else "No captioned images"


def _sampling(result: Survey, frames: int) -> str:
    if replaced := sum(frame.before is not None for frame in result.frames):
        return (
            f"Pictures that have another caption come first: {number(replaced)} are shown, the other one above: from "
            "before, or the captioner's where the image kept its own. The figures above, and the scores' histogram, "
            "are of all rows as they are now."
        )
    if frames < result.captioned:
        return (
            f"Of {number(result.captioned)} captioned images this page shows the {number(frames)} whose address and "
            "image id hash lowest: a fair sample of the whole table, and the same one every time. "
            "The figures above, and the scores' histogram, are of all rows."
        )
    return "This page shows every captioned image of the table."
