"""Tells the formats of corpora apart by their first bytes."""

from __future__ import annotations

import json
import re

from captionkit.corpus.coco import json_kind
from captionkit.corpus.corpus_file import Source
from captionkit.corpus.files import opened
from captionkit.corpus.flickr import LINE
from captionkit.corpus.tabular import delimiter_of
from captionkit.inputs.tables import ARRAY, PACKED_SUFFIXES
from captionkit.storage import StorageError

_FIRST_LINE = 1 << 20

_KNOWN = (
    "lines of NAME#N, a tab and a caption (Flickr8k.token.txt); CSV with a header (Kaggle's captions.txt and "
    "results.csv, or one's own); COCO's captions_*.json; Karpathy's dataset_*.json; "
    "JSON objects, one a line or in an array; Parquet"
)


def recognise(source: Source) -> str:
    """The format's name: "flickr", "csv", "coco", "karpathy", "json", "jsonl" or "parquet".

    Raises:
        CorpusError: none of them; the message lists what is known.
        StorageError: storage that cannot be read.
    """
    try:
        with source.storage.open(source.uri) as file:
            if file.read(4) == b"PAR1":
                return "parquet"
    except StorageError as error:
        if not error.hopeless and source.storage.is_folder(source.uri):
            raise source.error("is a folder; name the file that holds the captions") from error
        raise
    line = _first_line(source)
    name = source.uri.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    if line.startswith("{") and (kind := json_kind(source)):
        return kind
    if ARRAY.match(line) and line.lstrip("[ ")[:1] in ("{", ""):
        return "json"
    if _is_object(line) or name.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    if LINE.match(line) or name.endswith((".token", ".token.txt")):
        return "flickr"
    if delimiter_of(source, line):
        return "csv"
    raise source.error(
        f"cannot tell what it is; it begins with {line[:80]!r}. Known are: {_KNOWN}. A table needs "
        f"{source.columns.wanted()}: name the columns if they have other names"
    )


def _first_line(source: Source) -> str:
    with opened(source.storage, source.uri) as file:
        while raw := file.readline(_FIRST_LINE):
            if raw.strip():
                return re.split("[\r\n]", raw.decode("utf-8", "replace").strip(" \r\n"), maxsplit=1)[0]
    return ""


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
