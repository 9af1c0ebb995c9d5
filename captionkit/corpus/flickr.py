"""Flickr8k and Flickr30k: `Flickr8k.token.txt` and its lists of training, dev and test images.

Hodosh, Young and Hockenmaier 2013, "Framing Image Description as a Ranking Task".
"""

from __future__ import annotations

from collections.abc import Iterable


class CorpusError(ValueError):
    """A corpus file that cannot be understood; the message says where."""


def read_tokens(lines: Iterable[str]) -> dict[str, list[str]]:
    """Captions by image, in the file's order, from lines of `NAME#N<tab>CAPTION`.

    Raises:
        CorpusError: a line of another form.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, tab, caption = line.rstrip("\r\n").partition("\t")
        name, mark, _ = key.rpartition("#")
        if not tab or not mark:
            raise CorpusError(f"line {number}: expected NAME#N, a tab, a caption; found {line[:60]!r}")
        captions.setdefault(name, []).append(caption.strip())
    return captions


def read_split(lines: Iterable[str]) -> list[str]:
    """Names of images, one a line."""
    return [line.strip() for line in lines if line.strip()]
