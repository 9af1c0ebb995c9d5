"""Flickr8k and Flickr30k: `Flickr8k.token.txt` or `results_20130124.token`, and the lists of each split's images.

Hodosh, Young and Hockenmaier 2013, "Framing Image Description as a Ranking Task".
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from captionkit.corpus.corpus_file import Source
from captionkit.corpus.files import lines, opened
from captionkit.corpus.record import Item

LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
"""The official lists, by split."""

LINE = re.compile(r"[^\t]+#\d+\t")
"""How a line of a token file begins."""

_IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)


def read_tokens(source: Source) -> Iterator[Item]:
    """Captions from lines of `NAME#N<tab>CAPTION`."""
    before, report = "", source.report
    with opened(source.storage, source.uri, report) as file:
        for number, line in enumerate(lines(file, source.uri, report), 1):
            if not line.strip():
                continue
            key, tab, caption = line.partition("\t")
            name, mark, caption_id = key.strip().rpartition("#")
            if not tab or not mark:
                report.bad_row("malformed", f"{source.name}, line {number}: {line.rstrip()}")
            elif not name:
                report.bad_row("nameless", f"{source.name}, line {number}: {line.rstrip()}")
            else:
                if name != before and not _IMAGE.search(name):
                    report.note("odd_name", name)
                yield Item(name, None if name == before else name, None, ((caption_id, caption),))
                before = name


def read_list(source: Source) -> Iterator[str]:
    """The names of images in the list of a split, one a line; of a path its last part counts."""
    with opened(source.storage, source.uri, source.report) as file:
        for line in lines(file, source.uri, source.report):
            if name := posixpath.basename(line.strip()):
                yield name
