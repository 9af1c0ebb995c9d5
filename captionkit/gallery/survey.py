"""One pass over a caption table: counts, and a uniform sample of its rows, in constant memory.

A table may have a hundred million rows, so only a fixed number of them is kept. The sample is a bottom-k sample: of all
captioned images, those with the lowest hashes. It needs one pass, and depends neither on the order of the rows nor on a
random seed: the same table always gives the same page.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import blake2b
from itertools import islice
from numbers import Integral, Real
from typing import Any, Generic, TypeVar

from captionkit.table.reviews import DECISIONS

FAILURES_PER_KIND = 12
"""Examples shown of each kind of failure."""

MAX_NAMES = 64
"""Kinds of failures, models or runs that are counted by name. An untrusted table may have millions of names."""

OTHER = "other"
"""Further names are counted under this one."""

MAX_ALTERNATIVES = 20
"""Alternatives shown per caption."""

SCORE_FLOOR = -5.0
"""Lower end of the histogram, in nats per token; its lowest bin includes everything below. e⁻⁵ is 1/150."""

SCORE_BIN = 0.1
"""Width of a bin, in nats per token."""
SCORE_BINS = round(-SCORE_FLOOR / SCORE_BIN)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Hypothesis:
    """A caption and its score, in nats per token (None if the table has none)."""

    text: str
    score: float | None


@dataclass(frozen=True)
class Captioned:
    """A sampled row with a caption; sides in pixels."""

    uri: str
    best: Hypothesis
    alternatives: tuple[Hypothesis, ...]
    width: int | None
    height: int | None
    review: str
    """What a person decided; "" for nothing."""
    run: str = ""
    """The run that captioned it."""
    before: Hypothesis | None = None
    """The other caption: the one that this has replaced, or one that stood beside it."""


@dataclass(frozen=True)
class Failed:
    """A sampled row of a failed image."""

    uri: str
    reason: str


@dataclass(frozen=True)
class FailureKind:
    """All failures of one kind: their number, and examples."""

    name: str
    count: int
    examples: tuple[Failed, ...]


@dataclass(frozen=True)
class Survey:
    """Counts and sample of a caption table. Its texts are the table's, not cleaned for display."""

    captioned: int
    failed: int
    frames: tuple[Captioned, ...]
    """The sample, sorted by address."""
    failures: tuple[FailureKind, ...]
    """Most frequent first."""
    models: tuple[str, ...]
    """Most frequent first."""
    runs: tuple[str, ...]
    """Sorted by name."""
    first: datetime | None
    """When the first row was written."""
    last: datetime | None
    """When the last row was written."""
    scores: tuple[int, ...]
    """Histogram of all scores: SCORE_BINS bins of SCORE_BIN nats from SCORE_FLOOR up; scores beyond the ends are in the
    outermost bins."""

    @property
    def median_score(self) -> float | None:
        """The centre of the bin with the median; None without scores."""
        half, seen = sum(self.scores) / 2, 0
        for index, count in enumerate(self.scores):
            seen += count
            if count and seen >= half:
                return SCORE_FLOOR + (index + 0.5) * SCORE_BIN
        return None


class _Lowest(Generic[Item]):
    """Keeps the `size` items with the lowest keys of all that are offered."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, int, Item]] = []  # negated keys: the highest kept key comes first
        self._offers = 0

    def wants(self, key: int) -> bool:
        """Whether an item with this key would be kept. Ask before building the item."""
        return len(self._heap) < self._size or (self._size > 0 and key < -self._heap[0][0])

    def offer(self, key: int, item: Item) -> None:
        """Keep an item whose key it `wants`; if full, the item with the highest key is dropped."""
        self._offers += 1  # breaks ties between equal keys, so that items are not compared
        entry = (-key, self._offers, item)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)

    def items(self) -> list[Item]:
        """The kept items, in any order."""
        return [item for _, _, item in self._heap]


def survey(rows: Iterable[Mapping[str, Any]], limit: int) -> Survey:
    """Count all rows; sample `limit` captioned ones, first those that have a caption `before`, and `FAILURES_PER_KIND`
    of each kind of failure."""
    captioned = failed = 0
    frames: _Lowest[Captioned] = _Lowest(limit)
    examples: dict[str, _Lowest[Failed]] = {}
    kinds: Counter[str] = Counter()
    models: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    scores = [0] * SCORE_BINS
    first: datetime | None = None
    last: datetime | None = None
    for row in rows:
        key = _key(row)
        if row.get("status") == "captioned":
            captioned += 1
            score = _score(row.get("score"))
            if score is not None:
                scores[_bin(score)] += 1
            if isinstance(row.get("before"), Mapping):
                key -= 1 << 64  # below all others
            if frames.wants(key):
                frames.offer(key, _captioned(row))
        else:
            failed += 1
            kept = examples.setdefault(_count(kinds, row.get("error_kind") or "unknown"), _Lowest(FAILURES_PER_KIND))
            if kept.wants(key):
                kept.offer(key, Failed(_text(row.get("uri")), _text(row.get("error"))))
        _count(models, row.get("model"))
        _count(runs, row.get("run_id"))
        moment = row.get("captioned_at")
        if isinstance(moment, datetime) and moment == moment:  # pandas' NaT is a datetime that is not equal to itself
            moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
            first, last = min(first or moment, moment), max(last or moment, moment)
    return Survey(
        captioned=captioned,
        failed=failed,
        frames=tuple(sorted(frames.items(), key=lambda frame: (frame.uri, frame.best.text))),
        failures=tuple(
            FailureKind(kind, count, tuple(sorted(examples[kind].items(), key=lambda one: (one.uri, one.reason))))
            for kind, count in _by_frequency(kinds)
        ),
        models=tuple(name for name, _ in _by_frequency(models) if name),
        runs=tuple(sorted(name for name in runs if name)),
        first=first,
        last=last,
        scores=tuple(scores),
    )


def _key(row: Mapping[str, Any]) -> int:
    # image_id is a hash in our tables, but may be 1, 2, 3 … in others. Hashed again, with the address, every table is
    # sampled uniformly.
    name = f"{row.get('image_id')}\0{row.get('uri')}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big")


def _count(counter: Counter[str], value: Any) -> str:
    """Count a name, or `OTHER` if there are too many names; returns the counted one."""
    name = _text(value)
    if name not in counter and len(counter) >= MAX_NAMES:
        name = OTHER
    counter[name] += 1
    return name


def _by_frequency(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))


def _captioned(row: Mapping[str, Any]) -> Captioned:
    before = row.get("before")
    others = row.get("alternatives")  # a list, an array, or anything else in an untrusted table
    return Captioned(
        uri=_text(row.get("uri")),
        best=Hypothesis(_text(row.get("caption")), _score(row.get("score"))),
        alternatives=tuple(
            Hypothesis(_text(other.get("caption")), _score(other.get("score")))
            for other in islice(others if isinstance(others, Iterable) else (), MAX_ALTERNATIVES)
            if isinstance(other, Mapping)
        ),
        width=_integer(row.get("width")),
        height=_integer(row.get("height")),
        before=Hypothesis(_text(before.get("caption")), _score(before.get("score")))
        if isinstance(before, Mapping)
        else None,
        run=_text(row.get("run_id")),
        review=review if (review := row.get("review")) in DECISIONS else "",
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, Integral) else None


def _bin(score: float) -> int:
    return min(max(math.floor((score - SCORE_FLOOR) / SCORE_BIN), 0), SCORE_BINS - 1)
