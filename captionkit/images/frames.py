"""Which frame of an animation, or page of a document, is looked at."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image

from captionkit.images.types import Decoded, ImageError

LOOKED_AT = 8
"""Frames among which "best" chooses."""


def chosen(count: int, frame: str | int) -> list[int]:
    """The numbers of the frames to be read of so many (at least 1), ascending; for "best" several, evenly spread.

    Raises ImageError for a number that there is not.
    """
    if isinstance(frame, int):
        if frame >= count:
            raise ImageError("no_such_page", f"there is no page or frame {frame + 1}, the file has {count}")
        return [frame]
    if frame == "first":
        return [0]
    if frame == "middle":
        return [count // 2]
    few = min(count, LOOKED_AT)
    return sorted({round(step * (count - 1) / max(1, few - 1)) for step in range(few)})


def best(candidates: Iterable[Decoded]) -> Decoded:
    """The one with the most in it: of the highest entropy of its greys; the first of equals.

    Raises ValueError where there is none.
    """
    return max(candidates, key=lambda each: Image.fromarray(each.pixels).convert("L").entropy())
