"""Flickr8k and Flickr30k: `Flickr8k.token.txt` or `results_20130124.token`, and the split lists.

Hodosh, Young and Hockenmaier 2013, "Framing Image Description as a Ranking Task".
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from captionkit.corpus.corpus_file import CorpusFile
from captionkit.corpus.files import lines, opened
from captionkit.corpus.record import CaptionFragment

LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
"""Names of the official split lists of Flickr8k."""

LINE = re.compile(r"[^\t]+#\d+\t")
"""Beginning of a line of a token file."""

_IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)


def read_tokens(file: CorpusFile) -> Iterator[CaptionFragment]:
    """Captions from lines of `NAME#N<tab>CAPTION`."""
    previous, report = "", file.report
    with opened(file.storage, file.uri, report) as stream:
        for number, line in enumerate(lines(stream, file.uri, report), 1):
            if not line.strip():
                continue
            key, tab, caption = line.partition("\t")
            name, mark, caption_id = key.strip().rpartition("#")
            if not tab or not mark:
                report.bad_row("malformed", f"{file.name}, line {number}: {line.rstrip()}")
            elif not name:
                report.bad_row("nameless", f"{file.name}, line {number}: {line.rstrip()}")
            else:
                if name != previous and not _IMAGE.search(name):
                    report.note("odd_name", name)
                yield CaptionFragment(name, None if name == previous else name, None, ((caption_id, caption),))
                previous = name


def read_list(file: CorpusFile) -> Iterator[str]:
    """Image names from a split list, one per line; only the last part of a path is used."""
    with opened(file.storage, file.uri, file.report) as stream:
        for line in lines(stream, file.uri, file.report):
            if name := posixpath.basename(line.strip()):
                yield name
