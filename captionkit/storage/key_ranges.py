"""Ranges of keys, listed side by side: how a long listing is divided, and put together again in its order.

S3 lists keys in the order of their UTF-8 bytes, which is that of their code points, a thousand after a given one: page
after page, each waiting for the one before. Nobody says how keys are distributed, so a range that turns out to be long
is divided where keys are found to differ, by asking for the first key behind a guess. A guess that is bad makes a range
that is empty or long; it loses no key, since ranges have no gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

FAN_OUT = 16
"""Ranges that one is divided into, at most."""
HELD_KEYS = 4_000_000
"""Keys that wait for those before them, at some 100 bytes each, beyond which ranges are listed one after another."""
SCHEMA = pa.schema([("key", pa.string()), ("size", pa.int64()), ("version", pa.string())])


class KeyRange(NamedTuple):
    """The keys behind `after`, up to and with `until`; None: to the end."""

    after: str
    until: str | None = None
    token: str | None = None
    """Where the server itself said to go on, for one that goes on in no other way."""


class Part(NamedTuple):
    """What one task has listed."""

    keys: pa.RecordBatch
    """Of `SCHEMA`."""
    rest: tuple[KeyRange, ...] = ()
    """What it has left of its range: ranges without gaps, in order."""


def divide(keys: KeyRange, start: int, first_after: Callable[[str], str | None]) -> tuple[KeyRange, ...]:
    """Ranges without gaps that make up this one, whose `after` is a key; itself where keys do not differ behind it.

    Args:
        start: Length of what all keys are known to begin with.
        first_after: The first key behind a text; None where there is none.
    """
    last, until, _ = keys

    def found(text: str) -> str | None:
        key = first_after(text)
        return None if key is None or (until is not None and key > until) else key

    place = _branching(last, _shared(last, until) if until is not None else start, found)
    if place is None:
        return (keys,)
    bounds = [last]
    key: str | None = last
    while len(bounds) < FAN_OUT and key is not None and key[:place] == last[:place]:
        bound = _behind(key, place)
        if bound is None or (until is not None and bound >= until):
            break
        key = found(bound)
        if key is not None:  # else the last of the ranges goes on to the end
            bounds.append(bound)
    return tuple(KeyRange(after, end) for after, end in zip(bounds, [*bounds[1:], until], strict=True))


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _behind(key: str, place: int) -> str | None:
    """A text behind all keys that begin as this one does up to and with `place`; None where there can be none."""
    if place >= len(key) or key[place] == "\U0010ffff":
        return None
    number = ord(key[place]) + 1
    return key[:place] + chr(0xE000 if number == 0xD800 else number)  # between these are no characters


def _branching(last: str, start: int, found: Callable[[str], str | None]) -> int | None:
    """The first place, from `start` on, at which a key behind `last` has another character.

    Keys differ at each place behind one at which they do: the distance doubles until they do, then it is halved.
    """

    def differs(place: int) -> int | None:
        """A place up to this one at which some key differs."""
        bound = _behind(last, place)
        key = found(bound) if bound is not None else None
        return None if key is None else min(place, _shared(last, key))

    low, step = start, 1
    high: int | None = None
    while high is None:
        if low >= len(last):
            return None
        place = min(low + step - 1, len(last) - 1)
        high = differs(place)
        if high is None:
            low, step = place + 1, 2 * step
    while low < high:
        middle = (low + high) // 2
        nearer = differs(middle)
        low, high = (middle + 1, high) if nearer is None else (low, nearer)
    return high


@dataclass(eq=False)
class _Slot:
    """A range in its place of the listing."""

    keys: KeyRange
    future: Future[Part] | None = None
    listed: pa.RecordBatch | None = None


def in_order(
    ranges: tuple[KeyRange, ...], submit: Callable[[KeyRange], Future[Part]], tasks: int
) -> Iterator[pa.RecordBatch]:
    """The keys of ranges in their order, while `tasks` of them are listed at a time.

    Those that come first are listed first; what they leave takes their place. So few keys wait for those before them.
    """
    slots = [_Slot(keys) for keys in ranges]
    try:
        while slots:
            held = sum(len(slot.listed) for slot in slots if slot.listed is not None)
            running = [slot for slot in slots if slot.listed is None][: tasks if held < HELD_KEYS else 1]
            for slot in running:
                slot.future = slot.future or submit(slot.keys)
            if slots[0].listed is None:
                wait([slot.future for slot in running if slot.future], return_when=FIRST_COMPLETED)
            for slot in running:
                if slot.future and slot.future.done():
                    slot.listed, rest = slot.future.result()
                    slot.future = None
                    at = slots.index(slot) + 1
                    slots[at:at] = [_Slot(keys) for keys in rest]
            if slots[0].listed is not None:
                yield slots.pop(0).listed
    finally:
        for slot in slots:
            if slot.future:
                slot.future.cancel()
