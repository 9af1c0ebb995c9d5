"""CorpusFile, which a reader gets; Columns, which a table's captions are in."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from captionkit.corpus.record import CaptionFragment, CorpusError, Report
from captionkit.storage import Storage, redact

_USUAL_NAMES = {
    "image": (
        "image",
        "image_name",
        "file_name",
        "filename",
        "filepath",
        "image_path",
        "path",
        "uri",
        "url",
        "image_url",
    ),
    "caption": ("caption", "captions", "comment", "text", "sentence", "sentences", "raw"),
    "split": ("split",),
    "caption_id": ("comment_number", "caption_number", "caption_id"),
}


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns. A column whose name is not given is found by its usual names, in any case."""

    image: str | None = None
    caption: str | None = None
    """Holds a text, or a list of texts (in CSV as JSON: `["A dog .", "Two dogs ."]`)."""
    split: str | None = None
    caption_id: str | None = None

    def choose(self, header: Iterable[str]) -> ChosenColumns | None:
        """The columns as this header spells them; None if it lacks one that was named, or the image's or caption's."""
        names = {name.strip(): name for name in reversed(list(header))}
        lower = {name.lower(): spelled for name, spelled in names.items()}

        def find(role: str, wanted: str | None) -> str | None:
            if wanted is not None:
                return names.get(wanted)
            return next((lower[name] for name in _USUAL_NAMES[role] if name in lower), None)

        image, caption = find("image", self.image), find("caption", self.caption)
        split, caption_id = find("split", self.split), find("caption_id", self.caption_id)
        if image is None or caption is None or (self.split and not split) or (self.caption_id and not caption_id):
            return None
        return ChosenColumns(image, caption, split, caption_id)

    def wanted(self) -> str:
        """What `choose` looks for, as text for messages."""
        image = repr(self.image) if self.image else "the image (" + ", ".join(_USUAL_NAMES["image"]) + ")"
        caption = repr(self.caption) if self.caption else "the caption (" + ", ".join(_USUAL_NAMES["caption"]) + ")"
        others = "".join(f" and {name!r}" for name in (self.split, self.caption_id) if name)
        return f"a column of {image} and one of {caption}{others}"


@dataclass(frozen=True)
class ChosenColumns:
    """The columns of one table, as its header spells them."""

    image: str
    caption: str
    split: str | None
    caption_id: str | None


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus, with the report for its reader."""

    storage: Storage
    uri: str
    report: Report
    columns: Columns = field(default_factory=Columns)

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return posixpath.basename(redact(self.uri))

    def error(self, message: str) -> CorpusError:
        """An error about the file as a whole."""
        return CorpusError(f"{redact(self.uri)}: {message}")


Reader = Callable[[CorpusFile], Iterator[CaptionFragment]]
"""A format's reader."""
