"""What a file is, by its content: names of captioners' files tell little."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.features import read_features
from captionkit.adopt.given import Given
from captionkit.adopt.keras_files import read_h5, read_keras_zip
from captionkit.adopt.pickles import CallError, Name, Record, read_pickle
from captionkit.adopt.tensor_bundle import TABLE_MAGIC, is_first_format, read_index
from captionkit.adopt.tensor_slices import read_slices
from captionkit.adopt.torch_files import (
    LEGACY_MAGIC,
    TorchFile,
    cut_zip,
    is_torch_zip,
    read_torch_legacy,
    read_torch_zip,
)
from captionkit.adopt.words import MARKERS, read_words
from captionkit.lfs import is_lfs_pointer

HDF5 = b"\x89HDF\r\n\x1a\n"
_BINARY_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_OLD_PICKLES = (b"(d", b"(l", b"ccopy_reg", b"ccollections", b"cnumpy", b"(i", b"(c", b"}", b"]")
"""How pickles of protocols 0 and 1 begin that hold words or arrays: what is damaged in them is said."""
_FIRST_OPCODES = b"()]}cIKJMLVXUTSFGN"
_TABLE_BEGINS = re.compile(rb"\0\0[\x80-\xff]{0,4}[\x01-\x7f][\x08\x0a]")
"""How a checkpoint's table begins: an empty key, the length of its value, and that message's first field."""
_LINK_LENGTH = 200
"""A link as text is no longer than this, in bytes."""
_OTHERS = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip file: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"<!DOCTYPE": "a web page: the download gave a page in the place of the file",
    b"<html": "a web page: the download gave a page in the place of the file",
    b"import ": "Python source code",
    b"from ": "Python source code",
    b"def ": "Python source code",
    b"#!": "a script",
}
"""Other things that lie beside models, by how they begin."""


def look(data: bytes, name: str, base: int | None = None) -> Given:
    """Read a file of any kind that belongs to a captioner.

    Args:
        base: see `read_words`.

    Raises:
        AdoptError: it is another kind of file, a pointer or link to one, empty, cut, damaged, or would run code.
    """
    try:
        given = _look(data, name)
    except AdoptError as err:
        raise AdoptError(f"{name}: {err}") from err
    if given.value is not None and not given.tensors:
        given.words = read_words(given.value, base)
        given.features = None if given.words else read_features(given.value)
    return given


def is_other(head: bytes) -> str:
    """What a file is that begins so and is none of a captioner's; empty where that cannot be told."""
    return next((what for begin, what in _OTHERS.items() if head.startswith(begin)), "")


def _look(data: bytes, name: str) -> Given:
    if is_lfs_pointer(data):
        raise AdoptError(_pointer(data))
    if not data.strip():
        raise AdoptError("the file is empty" if not data else "the file holds nothing but blanks")
    if data.startswith(HDF5):
        return read_h5(data, name)
    if data[:2] == b"PK":
        return _look_zip(data, name)
    if data.startswith(LEGACY_MAGIC[:14]):
        return _torch(name, "PyTorch file (before 1.6)", read_torch_legacy(data))
    if data.endswith(TABLE_MAGIC):
        return _look_table(data, name)
    if _TABLE_BEGINS.match(data):
        raise AdoptError(
            f"a TensorFlow checkpoint, or its index, that is cut: it has {len(data):,} bytes and lacks the end of its "
            "table; fetch it anew"
        )
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        try:
            return Given(name, "safetensors", tensors=load_tensors(data))
        except SafetensorError as err:
            raise AdoptError(f"a damaged safetensors file ({err})") from err
    if other := is_other(data):
        raise AdoptError(f"this is {other}")
    binary = data.startswith(_BINARY_PICKLES)
    # Protocols 0 and 1 have no head: opcodes that begin a value, and the one that ends all.
    if binary or (data[:1] in _FIRST_OPCODES and data.rstrip(b"\r\n")[-1:] == b".") or data.startswith(_OLD_PICKLES):
        try:
            value, _ = read_pickle(data)
            return Given(name, "pickle", value)
        except CallError:
            raise
        except AdoptError:
            if not data.startswith((*_BINARY_PICKLES, *_OLD_PICKLES)) or data[:1] in b"}](":
                return _look_text(data, name)
            raise
    return _look_text(data, name)


def _look_table(data: bytes, name: str) -> Given:
    if not is_first_format(data):
        read_index(data)
        raise AdoptError("this is a TensorFlow checkpoint's index under another name: call it X.index, beside X.data-…")
    tensors = {key: torch.from_numpy(values.astype(np.float32)) for key, values in read_slices(data).items()}
    return Given(name, "TensorFlow checkpoint (before 0.12)", tensors=tensors)


def _torch(name: str, form: str, file: TorchFile) -> Given:
    tensors = file.tensors()
    return Given(name, form, file.value, tensors=tensors)


def _look_zip(data: bytes, name: str) -> Given:
    try:
        with ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()
    except BadZipFile as err:
        raise AdoptError(cut_zip(data)) from err
    if is_torch_zip(names):
        return _torch(name, "PyTorch file", read_torch_zip(data))
    if "config.json" in names and "model.weights.h5" in names:
        return read_keras_zip(data, name)
    raise AdoptError(f"a zip that is neither PyTorch's nor Keras's ({', '.join(names[:4]) or 'empty'}); unpack it")


def _look_text(data: bytes, name: str) -> Given:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise AdoptError(f"this is no file of a captioner: it begins with {data[:16]!r}") from err
    stripped = text.strip()
    if stripped[:1] in "{[":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise AdoptError(f"it begins as JSON and is damaged or cut ({err}); fetch it anew") from err
        if isinstance(value, str):  # to_json() dumped once more
            value = json.loads(value)
        if isinstance(value, dict) and value.get("class_name") == "Tokenizer":
            return Given(name, "JSON of a Keras tokenizer", _tokenizer(value))
        keras = value if isinstance(value, dict) and "class_name" in value and "config" in value else None
        return Given(name, "JSON", None if keras else value, keras=keras)
    if stripped[:1] == '"' and stripped[-1:] == '"':  # to_json() dumped once more
        try:
            return _look_text(json.loads(stripped).encode(), name)
        except (ValueError, AttributeError) as err:
            raise AdoptError("this is text, and none that a captioner has") from err
    if len(data) < _LINK_LENGTH and "\n" not in stripped and ("/" in stripped or "\\" in stripped):
        kind = "a link to a download" if "://" in stripped else "a symbolic link as text, not the file that it names"
        raise AdoptError(f"this is {kind}: {stripped!r}; fetch that file, and give it instead")
    if (words := _word_counts(text)) is not None:
        return Given(name, "word counts" if isinstance(words, list) else "words with numbers", words)
    if (listed := _word_lines(text)) is not None:
        return Given(name, "text, a word a line", listed)
    raise AdoptError(f"this is text, and none that a captioner has; it begins with {stripped[:60]!r}")


def _tokenizer(value: dict[str, Any]) -> Record:
    """`Tokenizer.to_json()` as the object that it describes; its dictionaries are JSON within JSON."""
    config = value.get("config")
    if not isinstance(config, dict):
        raise AdoptError("the JSON of a Keras tokenizer without its config; fetch it anew")
    attributes = dict(config)
    for name in ("word_index", "index_word", "word_docs"):
        if isinstance(attributes.get(name), str):
            try:
                attributes[name] = json.loads(attributes[name])
            except (ValueError, RecursionError) as err:
                raise AdoptError(f"the JSON of a Keras tokenizer is damaged at {name} ({err})") from err
    return Record(Name("keras", "Tokenizer"), attributes)


def _word_counts(text: str) -> list[str] | dict[str, int] | None:
    """im2txt's: "word count" a line, the line's number is the word's. Some files write b'a' 969108. Where the numbers
    are those of an index, 0 or 1 to the last, each once, they are the words' own."""
    lines = [line.rsplit(None, 1) for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or not all(len(line) == 2 for line in lines):
        return None
    if all(_is_number(number) for number, _ in lines) and not any(_is_number(word) for _, word in lines[:3]):
        lines = [[word, number] for number, word in lines]  # "number word"
    if not all(_is_number(number) for _, number in lines):
        return None
    words = [word for word, _ in lines]
    if all(word[:2] in ("b'", 'b"') for word in words):
        words = [word[2:-1] for word in words]
    numbers = [int(number) for _, number in lines]
    if sorted(numbers) in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return dict(zip(words, numbers, strict=True))
    return words


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 15


def _word_lines(text: str) -> list[str] | None:
    """A word a line, with start and end markers among the first or the last; other text of single words is none."""
    words = [line.strip() for line in text.splitlines()]
    while words and not words[-1]:
        words.pop()
    if len(words) < 5 or any(len(word.split()) != 1 for word in words):
        return None
    ends = {word.lower() for word in (*words[:6], *words[-6:])}
    return words if all(ends & set(MARKERS[marker]) for marker in ("start", "end")) else None


def _pointer(data: bytes) -> str:
    fields: Mapping[str, str] = dict(
        line.split(" ", 1) for line in data.decode("utf-8", "replace").splitlines() if " " in line
    )
    size = fields.get("size", "")
    of = f" of {int(size):,} bytes" if size.isascii() and size.isdigit() and len(size) < 20 else ""
    return f"a Git LFS pointer to a file{of}, not the file itself; fetch that with `git lfs pull`"
