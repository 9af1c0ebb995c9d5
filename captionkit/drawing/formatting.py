"""Text for the page: untrusted text made safe to show, and numbers in readable form.

The template escapes HTML. The functions here remove what escaping does not: control characters, direction overrides
that make an address look like another one, credentials in addresses, and excessive length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from captionkit.storage import redact

# C0 and C1 controls, and the Unicode characters that change the direction of text. Tabs and line ends were replaced by
# blanks before.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def one_line(value: Any, length: int) -> str:
    """Any value as one line of at most `length` characters, without credentials; empty for None."""
    # Truncated before the slower steps, with a margin, since these shorten the text.
    text = "" if value is None else str(value)[: 4 * length]
    # File names that are not UTF-8 contain lone surrogates, which cannot be encoded in the page.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _UNSEEN.sub("\ufffd", redact(" ".join(text.split())))
    return text if len(text) <= length else text[: length - 1] + "…"


def address(uri: str) -> tuple[str, str]:
    """An address as (folder with its slash, name), so that a narrow tile can shorten the folder and keep the name."""
    folder, slash, name = uri.rstrip("/").rpartition("/")
    return folder + slash, name


def number(value: float) -> str:
    """Integers with separators, other numbers with three significant digits: 1,000,000 · 412 · 6.25."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")


def score(value: float | None, digits: int = 2) -> str:
    """A score with a typographic minus sign; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def share(part: int, total: int) -> str:
    """A percentage that is rounded neither to 0 nor to 100: 0.13 % · <0.01 % · 100 %."""
    if part in (0, total):
        return "100 %" if part else "0 %"
    percent = 100 * part / total
    if percent < 0.01:
        return "<0.01 %"
    return ">99.9 %" if percent > 99.9 else f"{percent:.2g} %" if percent < 10 else f"{percent:.3g} %"


def moments(first: datetime, last: datetime) -> str:
    """A time span in UTC, to the minute: "21 Nov 2026, 22:10 – 22 Nov 2026, 05:42 UTC"."""
    start, end = (moment.astimezone(timezone.utc) for moment in (first, last))
    begin = f"{start.day} {start:%b %Y, %H:%M}"
    if start.date() == end.date():
        return f"{begin} UTC" if f"{start:%H:%M}" == f"{end:%H:%M}" else f"{begin}–{end:%H:%M} UTC"
    return f"{begin} – {end.day} {end:%b %Y, %H:%M} UTC"


def figure(value: Any, length: int = 300) -> str:
    """A value of a summary, of any type, as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, Mapping):
        return one_line(", ".join(f"{key} {figure(part)}" for key, part in value.items()), length)
    if isinstance(value, (list, tuple)):
        return one_line(", ".join(figure(part) for part in value), length)
    return one_line(value, length)
