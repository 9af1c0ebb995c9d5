"""Detection of a corpus file's format, from its first bytes and its name."""

from __future__ import annotations

import json
import re

from captionkit.corpus.coco import json_kind
from captionkit.corpus.corpus_file import CorpusFile
from captionkit.corpus.files import opened
from captionkit.corpus.flickr import LINE
from captionkit.corpus.tabular import delimiter_of
from captionkit.inputs.tables import ARRAY, PACKED_SUFFIXES
from captionkit.storage import StorageError

_FIRST_LINE = 1 << 20
"""Bytes of the first line that are looked at."""

_FORMATS = (
    "lines of NAME#N, a tab and a caption (Flickr8k.token.txt); CSV with a header (Kaggle's captions.txt and "
    "results.csv, or your own); COCO's captions_*.json; Karpathy's dataset_*.json; "
    "JSON objects, one a line or in an array; Parquet"
)


def detect_format(file: CorpusFile) -> str:
    """The format's name: "flickr", "csv", "coco", "karpathy", "json", "jsonl" or "parquet".

    Raises:
        CorpusError: none of these; the message lists them.
        StorageError: it cannot be read.
    """
    try:
        with file.storage.open(file.uri) as stream:
            if stream.read(4) == b"PAR1":
                return "parquet"
    except StorageError as error:
        if not error.fatal and file.storage.is_folder(file.uri):
            raise file.error("is a folder; give the file that holds the captions") from error
        raise
    line = _first_line(file)
    name = file.uri.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    if line.startswith("{") and (kind := json_kind(file)):
        return kind
    if ARRAY.match(line) and line.lstrip("[ ")[:1] in ("{", ""):
        return "json"
    if _is_object(line) or name.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    if LINE.match(line) or name.endswith((".token", ".token.txt")):
        return "flickr"
    if delimiter_of(file, line):
        return "csv"
    raise file.error(
        f"unknown format; it begins with {line[:80]!r}. Known are: {_FORMATS}. A table needs "
        f"{file.columns.wanted()}; give the columns' names if they differ"
    )


def _first_line(file: CorpusFile) -> str:
    with opened(file.storage, file.uri) as stream:
        while raw := stream.readline(_FIRST_LINE):
            if raw.strip():
                return re.split("[\r\n]", raw.decode("utf-8", "replace").strip(" \r\n"), maxsplit=1)[0]
    return ""


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
