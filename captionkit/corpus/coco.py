"""COCO's `captions_*.json` and Karpathy's `dataset_*.json`, parsed as a stream.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context"; Karpathy and Fei-Fei 2015, "Deep Visual-Semantic
Alignments for Generating Image Descriptions".
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

import ijson  # type: ignore[import-untyped]

from captionkit.corpus.corpus_file import CorpusFile
from captionkit.corpus.files import opened
from captionkit.corpus.record import CaptionFragment, id_text, split_name

_SPLIT = re.compile(r"train|val|test|dev")


def read_coco(file: CorpusFile) -> Iterator[CaptionFragment]:
    """Images, then captions, in two passes, since the two arrays may be in either order.

    The split is taken from the file name ("captions_train2017.json").

    Raises:
        CorpusError: invalid or truncated JSON.
    """
    match = _SPLIT.search(posixpath.basename(file.uri))
    split = split_name(match[0]) if match else None
    for image in _items(file, "images.item"):
        key, name = image.get("id"), image.get("file_name")
        if not _is_id(key) or not isinstance(name, str) or not name.strip():
            file.report.note("bad_image", f"{file.name}: {dict(image)}")
        else:
            yield CaptionFragment(_id(key), name.strip(), split)
    for annotation in _items(file, "annotations.item", second_pass=True):
        key, text, number = annotation.get("image_id"), annotation.get("caption"), annotation.get("id")
        if not _is_id(key) or not isinstance(text, str):
            file.report.bad_row("malformed", f"{file.name}: {dict(annotation)}")
        else:
            yield CaptionFragment(_id(key), captions=((_id(number) if _is_id(number) else "", text),))


def read_karpathy(file: CorpusFile) -> Iterator[CaptionFragment]:
    """Images with their captions. The split restval, which is usually trained on, becomes train.

    Raises:
        CorpusError: invalid or truncated JSON.
    """
    report = file.report
    for image in _items(file, "images.item"):
        name, folder, key = image.get("filename"), image.get("filepath"), image.get("cocoid")
        sentences = image.get("sentences")
        sentences = sentences if isinstance(sentences, list) else []
        if not isinstance(name, str) or not name.strip():
            report.note("bad_image", f"{file.name}: {image.get('imgid')}")
            for sentence in sentences:
                report.bad_row("nameless", f"{file.name}: {sentence}")
            continue
        path = posixpath.join(folder, name.strip()) if isinstance(folder, str) else name.strip()
        split = image.get("split")
        if split == "restval":
            report.note("restval", path)
            split = "train"
        captions = []
        for sentence in sentences:
            text = _sentence(sentence)
            if text is None:
                report.bad_row("malformed", f"{file.name}, {path}: {sentence}")
            else:
                number = sentence.get("sentid")
                captions.append((_id(number) if _is_id(number) else "", text))
        yield CaptionFragment(_id(key) if _is_id(key) else path, path, split_name(split), tuple(captions))


def json_kind(file: CorpusFile) -> str | None:
    """ "coco", "karpathy" or None, by the first keys that differ between the two."""
    try:
        with opened(file.storage, file.uri) as stream:
            for count, (prefix, event, value) in enumerate(ijson.parse(stream)):
                if event == "map_key" and prefix == "images.item":
                    if value in ("filename", "sentences", "sentids"):
                        return "karpathy"
                    if value in ("file_name", "coco_url"):
                        return "coco"
                if event == "map_key" and prefix == "" and value == "annotations":
                    return "coco"
                if count > 100_000:
                    break
    except ijson.JSONError:
        pass
    return None


def _sentence(sentence: Any) -> str | None:
    """The caption as written, else its tokens joined by blanks."""
    if not isinstance(sentence, dict):
        return None
    raw, tokens = sentence.get("raw"), sentence.get("tokens")
    if isinstance(raw, str):
        return raw
    if isinstance(tokens, list) and all(isinstance(word, str) for word in tokens):
        return " ".join(tokens)
    return None


def _items(file: CorpusFile, prefix: str, second_pass: bool = False) -> Iterator[dict[str, Any]]:
    try:
        with opened(file.storage, file.uri, None if second_pass else file.report) as stream:
            for item in ijson.items(stream, prefix, use_float=True):
                yield item if isinstance(item, dict) else {}
    except ijson.JSONError as error:
        raise file.error(
            f"invalid or truncated JSON ({' '.join(str(error).split())[:150]}); fetch the file again"
        ) from error


def _is_id(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool) and value != "" and value == value


def _id(value: Any) -> str:
    return value if isinstance(value, str) else id_text(value)
