"""What a file is, by its content: names of captioners' files tell little."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.pickles import read_pickle
from captionkit.adopt.torch_files import (
    LEGACY_MAGIC,
    TorchFile,
    cut_zip,
    is_torch_zip,
    read_torch_legacy,
    read_torch_zip,
)
from captionkit.adopt.words import WordList, read_words
from captionkit.lfs import is_lfs_pointer

HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(d", b"(l", b"ccopy_reg", b"(i", b"(c", b"}", b"]")
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


@dataclass
class Given:
    """A file that was given, and what was found in it: words, tensors, a description of a Keras network, or several.

    Attributes:
        name: its address.
        form: what it is, for people.
        value: its pickled or JSON value, where it has one.
        tensors: by name.
        keras: a Keras network's description, its config.
        weights: arrays of a Keras file, by path.
    """

    name: str
    form: str
    value: Any = None
    words: WordList | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    keras: dict[str, Any] | None = None
    keras_weights: Any = None

    def describe(self) -> str:
        """What it is, in a line."""
        parts = [self.form]
        if self.words:
            parts.append(self.words.describe())
        if self.tensors:
            parts.append(f"{len(self.tensors):,} tensors")
        if self.keras:
            parts.append(f"a Keras network {self.keras.get('config', {}).get('name', '')!r}")
        if self.keras_weights is not None:
            parts.append("weights of Keras")
        return "; ".join(parts)


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
        from captionkit.adopt.keras_files import read_h5

        return read_h5(data, name)
    if data[:2] == b"PK":
        return _look_zip(data, name)
    if data.startswith(LEGACY_MAGIC[:14]):
        return _torch(name, "PyTorch file (before 1.6)", read_torch_legacy(data))
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        try:
            return Given(name, "safetensors", tensors=load_tensors(data))
        except SafetensorError as err:
            raise AdoptError(f"a damaged safetensors file ({err})") from err
    if other := is_other(data):
        raise AdoptError(f"this is {other}")
    if data.startswith(_PICKLES):
        text = data[:1] in b"}]("
        try:
            value, _ = read_pickle(data)
            return Given(name, "pickle", value)
        except AdoptError:
            if not text:
                raise
    return _look_text(data, name)


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
        from captionkit.adopt.keras_files import read_keras_zip

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
        return Given(name, "word counts", words)
    raise AdoptError(f"this is text, and none that a captioner has; it begins with {stripped[:60]!r}")


def _word_counts(text: str) -> list[str] | None:
    """im2txt's: "word count" a line, the line's number is the word's. Some files write b'a' 969108."""
    lines = [line.rsplit(None, 1) for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or not all(len(line) == 2 and line[1].isascii() and line[1].isdigit() for line in lines):
        return None
    words = [word for word, _ in lines]
    if all(word[:2] in ("b'", 'b"') for word in words):
        words = [word[2:-1] for word in words]
    return words


def _pointer(data: bytes) -> str:
    fields: Mapping[str, str] = dict(
        line.split(" ", 1) for line in data.decode("utf-8", "replace").splitlines() if " " in line
    )
    size = fields.get("size", "")
    of = f" of {int(size):,} bytes" if size.isascii() and size.isdigit() and len(size) < 20 else ""
    return f"a Git LFS pointer to a file{of}, not the file itself; fetch that with `git lfs pull`"
