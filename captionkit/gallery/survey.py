"""One pass over a caption table: what it holds, and a fair sample of it, in memory that does not grow.

A table may have a hundred million rows, so nothing here keeps more than a fixed number of them. The sample is
bottom-k sampling: of all captioned images, those whose hash is lowest. It is spread over the whole table, needs
one pass, and depends neither on the order of the rows nor on a random seed: the same table always gives the same
page.
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

FAILURES_PER_KIND = 12
"""Examples shown of each kind of failure; the count beside them is of all."""

MAX_NAMES = 64
"""Different kinds, models or runs counted by name. A table of ours has few; a stranger's may have millions."""

OTHER = "other"
"""What the rest is counted under once there are `MAX_NAMES` names."""

MAX_ALTERNATIVES = 20

SCORE_FLOOR = -5.0
"""Nats per token; the lowest bin of the histogram takes everything below. e⁻⁵ is a guess among 150 words."""

SCORE_BIN = 0.1
SCORE_BINS = round(-SCORE_FLOOR / SCORE_BIN)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Hypothesis:
    """A caption and its score, in nats per token (None where the table has none)."""

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


@dataclass(frozen=True)
class Failed:
    """A sampled row without one."""

    uri: str
    reason: str


@dataclass(frozen=True)
class FailureKind:
    """All failures of one kind: how many there are, and some of them."""

    name: str
    count: int
    examples: tuple[Failed, ...]


@dataclass(frozen=True)
class Survey:
    """What one pass over a caption table found. Texts are the table's own, not yet fit to be shown.

    Frames are in order of address, failures and models most frequent first, runs in order of name. `scores` is a
    histogram of all scores, SCORE_BINS bins of SCORE_BIN nats from SCORE_FLOOR up; the outermost bins also take what
    lies beyond them.
    """

    captioned: int
    failed: int
    frames: tuple[Captioned, ...]
    failures: tuple[FailureKind, ...]
    models: tuple[str, ...]
    runs: tuple[str, ...]
    first: datetime | None
    last: datetime | None
    scores: tuple[int, ...]

    @property
    def median_score(self) -> float | None:
        """The middle of the median's bin; None without scores."""
        half, seen = sum(self.scores) / 2, 0
        for index, count in enumerate(self.scores):
            seen += count
            if count and seen >= half:
                return SCORE_FLOOR + (index + 0.5) * SCORE_BIN
        return None


class _Lowest(Generic[Item]):
    """Keeps the `size` items with the lowest keys of all it is offered."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, int, Item]] = []  # keys negated: the highest kept one comes first
        self._offers = 0

    def wants(self, key: int) -> bool:
        """Whether an item with this key would be kept. Asked first, so that few items are ever built."""
        return len(self._heap) < self._size or (self._size > 0 and key < -self._heap[0][0])

    def offer(self, key: int, item: Item) -> None:
        """Keep an item it wants, in place of the one with the highest key when full."""
        self._offers += 1  # decides between equal keys, so that items are never compared
        entry = (-key, self._offers, item)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)

    def items(self) -> list[Item]:
        """What was kept, in no particular order."""
        return [item for _, _, item in self._heap]


def survey(rows: Iterable[Mapping[str, Any]], limit: int) -> Survey:
    """Count all of `rows`, and keep `limit` captioned ones and `FAILURES_PER_KIND` of each kind of failure."""
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
        if isinstance(moment, datetime) and moment == moment:  # pandas' "no time" is a datetime that equals nothing
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
    # image_id is a hash already, but a stranger's table may count 1, 2, 3 there; hashed again, and with the address,
    # any table is sampled evenly.
    name = f"{row.get('image_id')}\0{row.get('uri')}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big")


def _count(counter: Counter[str], value: Any) -> str:
    """Count a name, or `OTHER` in its stead once there are too many; says which."""
    name = _text(value)
    if name not in counter and len(counter) >= MAX_NAMES:
        name = OTHER
    counter[name] += 1
    return name


def _by_frequency(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))


def _captioned(row: Mapping[str, Any]) -> Captioned:
    others = row.get("alternatives")  # a list, an array, or whatever a stranger's table holds there
    return Captioned(
        uri=_text(row.get("uri")),
        best=Hypothesis(_text(row.get("caption")), _score(row.get("score"))),
        alternatives=tuple(
            Hypothesis(_text(other.get("caption")), _score(other.get("score")))
            for other in islice(others if isinstance(others, Iterable) else (), MAX_ALTERNATIVES)
            if isinstance(other, Mapping)
        ),
        width=_whole(row.get("width")),
        height=_whole(row.get("height")),
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, Integral) else None


def _bin(score: float) -> int:
    return min(max(math.floor((score - SCORE_FLOOR) / SCORE_BIN), 0), SCORE_BINS - 1)
