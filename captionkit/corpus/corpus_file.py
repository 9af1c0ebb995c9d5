"""One file of a corpus, as its reader gets it; and the columns of tables."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from captionkit.corpus.record import CorpusError, Item, Report
from captionkit.storage import Storage, redact

_USUAL = {
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
    """Which columns of a table hold what. A column that is not named is found by its usual name, in any case.

    caption: a text, or a list of texts (in CSV as JSON: `["A dog .", "Two dogs ."]`).
    """

    image: str | None = None
    caption: str | None = None
    split: str | None = None
    caption_id: str | None = None

    def choose(self, header: Iterable[str]) -> Chosen | None:
        """The columns by the names they have in this header; None where it lacks an image's or a caption's."""
        names = {name.strip(): name for name in reversed(list(header))}
        lower = {name.lower(): spelled for name, spelled in names.items()}

        def find(role: str, wanted: str | None) -> str | None:
            if wanted is not None:
                return names.get(wanted)
            return next((lower[name] for name in _USUAL[role] if name in lower), None)

        image, caption = find("image", self.image), find("caption", self.caption)
        split, caption_id = find("split", self.split), find("caption_id", self.caption_id)
        if image is None or caption is None or (self.split and not split) or (self.caption_id and not caption_id):
            return None
        return Chosen(image, caption, split, caption_id)

    def wanted(self) -> str:
        """What `choose` looks for, in words."""
        image = repr(self.image) if self.image else "the image (" + ", ".join(_USUAL["image"]) + ")"
        caption = repr(self.caption) if self.caption else "the caption (" + ", ".join(_USUAL["caption"]) + ")"
        others = "".join(f" and {name!r}" for name in (self.split, self.caption_id) if name)
        return f"a column of {image} and one of {caption}{others}"


@dataclass(frozen=True)
class Chosen:
    """Columns that a table has, as they are spelled in it."""

    image: str
    caption: str
    split: str | None
    caption_id: str | None


@dataclass(frozen=True)
class Source:
    """A file, and where its reader reports to."""

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


Reader = Callable[[Source], Iterator[Item]]
